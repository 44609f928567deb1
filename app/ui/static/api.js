// Client of OpenAI's API of this server.

import * as store from "./store.js";

const DEFAULT_WAIT_SECONDS = 5;

/**
 * An error with a message for the user.
 * kind: "key" (a valid API key is required), "wait" (a retry can succeed), "refused" (the request is invalid) or "failed".
 * seconds: time to wait before a retry.
 */
export class ApiError extends Error {
  constructor(kind, message, seconds = DEFAULT_WAIT_SECONDS) {
    super(message);
    this.kind = kind;
    this.seconds = seconds;
  }
}

/** Returns the served model, {id, max_model_len}. Retries until the server is ready. */
export async function model(signal, onWait) {
  const response = await withRetry(() => request("v1/models", { signal }), signal, onWait);
  return (await response.json()).data[0];
}

/**
 * Requests a completion of `messages` and passes its text to `onText` in deltas.
 * Returns {reason, usage}. Throws ApiError, or an AbortError after `signal`.
 */
export async function complete(messages, settings, signal, onWait, onText) {
  const body = { messages, stream: true, stream_options: { include_usage: true }, ...settings };
  const options = { method: "POST", body: JSON.stringify(body), signal };
  const response = await withRetry(() => request("v1/chat/completions", options), signal, onWait);
  const result = { reason: null, usage: null };
  for await (const { event, data } of events(response.body, signal)) {
    if (data === "[DONE]") return result;
    const chunk = JSON.parse(data);
    if (event === "error") throw new ApiError("failed", chunk.error.message);
    const choice = chunk.choices[0];
    if (choice?.delta.content) onText(choice.delta.content);
    result.reason = choice?.finish_reason ?? result.reason;
    result.usage = chunk.usage ?? result.usage;
  }
  throw connectionLost();
}

const connectionLost = () =>
  new ApiError("failed", "The connection to the server was lost before the response was complete.");

async function request(path, options) {
  const key = store.key();
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (options.signal.aborted) throw error;
    throw new ApiError("wait", "The server cannot be reached. It may be restarting, or your network is down.");
  }
  if (response.ok) return response;
  const message = await errorMessage(response);
  const seconds = Number.parseInt(response.headers.get("Retry-After"), 10) || DEFAULT_WAIT_SECONDS;
  switch (response.status) {
    case 401:
    case 403:
      throw new ApiError("key", key ? "The server rejected this API key." : "This server requires an API key.");
    case 429:
      throw new ApiError("wait", message ?? "The server is busy.", seconds);
    case 502:
    case 503:
    case 504:
      throw new ApiError("wait", message ?? "The server is not ready.", seconds);
    default:
      throw new ApiError(
        response.status < 500 ? "refused" : "failed",
        message ?? `The server responded with status ${response.status}.`,
      );
  }
}

/** Returns the message of an error response, or null if the response comes from a proxy. */
async function errorMessage(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return null;
  }
}

/** Repeats `call` until the server accepts it, each time after the delay that the server requests. */
async function withRetry(call, signal, onWait) {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (error.kind !== "wait") throw error;
      for (let left = error.seconds; left > 0; left -= 1) {
        onWait(error.message, left);
        await pause(1000, signal);
      }
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    if (signal.aborted) return stop();
    signal.addEventListener("abort", stop, { once: true });
    setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
  });
}

/** Yields the server-sent events of a body without comments. */
async function* events(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let chunk;
    try {
      chunk = await reader.read();
    } catch (error) {
      throw signal.aborted ? error : connectionLost();
    }
    if (chunk.done) return;
    const blocks = (rest + chunk.value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { event: "message", data: "" };
      for (const line of block.split("\n")) {
        const [, name, value] = line.match(/^(event|data): ?(.*)$/) ?? [];
        if (name) event[name] = value;
      }
      if (event.data) yield event;
    }
  }
}
