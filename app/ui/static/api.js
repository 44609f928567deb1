// Talks to this server's own OpenAI API.

import * as store from "./store.js";

const DEFAULT_WAIT_SECONDS = 5;

/**
 * What went wrong, in words.
 * kind: "key" (an API key is wanted), "wait" (worth trying again by itself), "refused" (what was asked for is wrong), or
 * "failed".
 */
export class ApiError extends Error {
  constructor(kind, message, seconds = DEFAULT_WAIT_SECONDS) {
    super(message);
    this.kind = kind;
    this.seconds = seconds;
  }
}

/** The served model: {id, max_model_len}. Waits until the server is there. */
export async function model(signal, onWait) {
  const response = await patiently(() => request("v1/models", { signal }), signal, onWait);
  return (await response.json()).data[0];
}

/**
 * Asks for an answer to `messages`, and gives its text to `onText` piece by piece.
 * Returns {reason, usage}; throws ApiError, or an AbortError after `signal`.
 */
export async function complete(messages, settings, signal, onWait, onText) {
  const body = { messages, stream: true, stream_options: { include_usage: true }, ...settings };
  const options = { method: "POST", body: JSON.stringify(body), signal };
  const response = await patiently(() => request("v1/chat/completions", options), signal, onWait);
  const answer = { reason: null, usage: null };
  for await (const { event, data } of events(response.body, signal)) {
    if (data === "[DONE]") return answer;
    const chunk = JSON.parse(data);
    if (event === "error") throw new ApiError("failed", chunk.error.message);
    const choice = chunk.choices[0];
    if (choice?.delta.content) onText(choice.delta.content);
    answer.reason = choice?.finish_reason ?? answer.reason;
    answer.usage = chunk.usage ?? answer.usage;
  }
  throw lost();
}

const lost = () => new ApiError("failed", "The connection to the server was lost before the answer was complete.");

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
  const told = await words(response);
  const seconds = Number.parseInt(response.headers.get("Retry-After"), 10) || DEFAULT_WAIT_SECONDS;
  switch (response.status) {
    case 401:
    case 403:
      throw new ApiError("key", key ? "The server does not take this API key." : "This server wants an API key.");
    case 429:
      throw new ApiError("wait", told ?? "The server is busy.", seconds);
    case 502:
    case 503:
    case 504:
      throw new ApiError("wait", told ?? "The server is not ready.", seconds);
    default:
      throw new ApiError(
        response.status < 500 ? "refused" : "failed",
        told ?? `The server answered with status ${response.status}.`,
      );
  }
}

/** What the server says about an error; nothing where a proxy answered in its place. */
async function words(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return null;
  }
}

/** Calls `call` until the server takes it, after the time that it asks for. */
async function patiently(call, signal, onWait) {
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

/** The server-sent events of a body; comments are left out. */
async function* events(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      throw signal.aborted ? error : lost();
    }
    if (piece.done) return;
    const blocks = (rest + piece.value).split("\n\n");
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
