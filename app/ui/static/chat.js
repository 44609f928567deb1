// The chat: conversations, requests to the model, and the controls of the page.

import * as api from "./api.js";
import { settings } from "./settings.js";
import * as store from "./store.js";
import { $, MessageView, announce, clearNotice, keepUp, notice, toLatest } from "./view.js";

const SAVE_MILLISECONDS = 1000;
const INTERRUPTED = "Interrupted.";

const input = $("#message");
// Touch keyboards have no Shift+Enter, so Enter adds a line.
const touch = matchMedia("(hover: none) and (pointer: coarse)").matches;
let chat = store.current();
let views = [];
let model = null;
let running = null; // AbortController of the current request
let saved = 0;
let retry = null; // called by the button "Try again"

// ---- the model

async function connect() {
  try {
    model = await api.model(new AbortController().signal, (text, seconds) => {
      if (!running) waiting(text, seconds);
    });
  } catch (error) {
    failed(error, connect);
    return;
  }
  document.title = `${model.id} · phi3`;
  $("#model").textContent = model.id;
  if (!running) clearNotice();
  showUsed();
}

function showUsed() {
  if (!model) return;
  const context = model.max_model_len;
  const share = Math.min(chat.used / context, 1);
  const full = share > 0.9;
  const count = (tokens) => tokens.toLocaleString("en");
  $("#context").textContent = chat.used
    ? `${count(chat.used)} of ${count(context)} tokens${full ? ", nearly full" : ""}`
    : `context of ${count(context)} tokens`;
  $("#used").style.setProperty("--share", share);
  $("#used").classList.toggle("full", full);
}

// ---- the conversation

function showChat() {
  store.open(chat);
  for (const view of views) view.remove();
  views = chat.messages.map((message) => {
    const view = new MessageView(message);
    view.show();
    return view;
  });
  showWelcome();
  showUsed();
  toLatest();
}

function showWelcome() {
  $("#welcome").hidden = chat.messages.length > 0;
  if (!$("#welcome").hidden) showEarlier();
}

function showEarlier() {
  const earlier = store.chats();
  $("#earlier").hidden = earlier.length === 0;
  $("#earlier ul").replaceChildren(
    ...earlier.map((each) => {
      const title = each.messages[0].content.trim().slice(0, 100);
      const open = button(title, "earlier-chat", () => switchTo(each));
      const time = document.createElement("time");
      time.dateTime = new Date(each.time).toISOString();
      time.textContent = new Date(each.time).toLocaleDateString([], { day: "numeric", month: "short" });
      const remove = button("Delete", "plain small", () => {
        if (!confirm(`Delete the chat “${title}”? This cannot be undone.`)) return;
        store.remove(each.id);
        showEarlier();
        focusInput();
      });
      remove.setAttribute("aria-label", `Delete the chat ${title}`);
      const item = document.createElement("li");
      item.append(open, time, remove);
      return item;
    }),
  );
}

function button(text, className, onClick) {
  const element = document.createElement("button");
  Object.assign(element, { type: "button", className, textContent: text });
  element.addEventListener("click", onClick);
  return element;
}

function switchTo(other) {
  running?.abort();
  clearNotice();
  chat = other;
  showChat();
  focusInput();
}

/** Removes and returns the last message of a chat. */
function popMessage(target) {
  if (target === chat) views.pop().remove();
  return target.messages.pop();
}

function persist(target) {
  if (target.messages.length > 0) store.save(target);
  else store.remove(target.id);
}

/** Saves a chat while a response arrives, at most once every SAVE_MILLISECONDS. */
function save(growing) {
  if (Date.now() - saved < SAVE_MILLISECONDS) return;
  saved = Date.now();
  store.save(growing);
}

function add(message) {
  chat.messages.push(message);
  const view = new MessageView(message);
  views.push(view);
  $("#welcome").hidden = true;
  return view;
}

// ---- requests

function send() {
  const text = input.value.trim();
  if (!text || running) return;
  input.value = "";
  fit();
  add({ role: "user", content: text }).show();
  chat.time = Date.now();
  store.save(chat);
  respond();
}

/** Requests another response to the last message of the user. */
function again() {
  if (running) return;
  respond(chat.messages.at(-1).role === "assistant" ? popMessage(chat) : null);
}

/** Requests a response to the last message; it takes the place of `replaced`. */
async function respond(replaced = null) {
  const target = chat;
  const controller = new AbortController();
  const messages = chat.messages.filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
  const message = { role: "assistant", content: "", note: INTERRUPTED };
  const view = add(message);
  busy(controller);
  view.grow();
  toLatest();
  announce("The model is responding.");
  const error = await generate(messages, message, controller.signal, () => {
    view.grow();
    save(target);
  });
  if (message.content || !error) {
    view.show();
    view.speak();
    if (message.note) announce(message.note);
  } else {
    popMessage(target);
    if (replaced) restore(target, replaced);
    else if (error.kind === "refused") returnToComposer(target);
  }
  persist(target);
  if (running === controller) busy(null);
  if (target !== chat) return;
  showWelcome();
  if (error && !controller.signal.aborted) failed(error, again);
  else clearNotice();
  showUsed();
  keepUp();
}

/** Restores a response that could not be replaced. */
function restore(target, replaced) {
  if (target === chat) add(replaced).show();
  else target.messages.push(replaced);
}

/** Moves a refused message back to the composer, because it would make the server refuse every later request. */
function returnToComposer(target) {
  const { content } = popMessage(target);
  input.value ||= content;
  fit();
}

/** Writes the response to `messages` into `message`. Returns the error, or null. */
async function generate(messages, message, signal, onChange) {
  const target = chat;
  const { system, fields } = settings();
  const prompt = system ? [{ role: "system", content: system }, ...messages] : messages;
  const started = performance.now();
  const append = (text) => {
    if (!message.content) clearNotice();
    message.content += text;
    onChange();
  };
  try {
    const { reason, usage } = await api.complete(prompt, fields, signal, waiting, append);
    message.note = reason === "length" ? "Truncated: the response reached its maximum length or the end of the context." : "";
    if (!message.content) message.note ||= "The model returned an empty response.";
    target.used = usage.total_tokens;
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    message.figures = `${usage.completion_tokens} tokens in ${seconds} s`;
    return null;
  } catch (error) {
    message.note = signal.aborted ? "Stopped." : INTERRUPTED;
    return error;
  }
}

function waiting(text, seconds) {
  notice(`${text} Retrying in ${seconds} s.`, "wait", `${text} The page retries automatically.`);
}

function failed(error, again) {
  const expected = error instanceof api.ApiError;
  if (!expected) console.error(error);
  retry = again;
  const action = { key: "key", refused: "none" }[error.kind] ?? "again";
  notice(expected ? error.message : `The page failed: ${error.message}`, action);
  if (error.kind === "key") $("#key").focus();
}

// ---- controls

function busy(controller) {
  const hadFocus = [$("#send"), $("#stop")].includes(document.activeElement);
  running = controller;
  $("#stop").hidden = !running;
  $("#send").hidden = Boolean(running);
  if (hadFocus) focusInput();
}

/** Focuses the composer, but not on a touch screen, where that opens the keyboard. */
function focusInput() {
  if (!touch) input.focus();
}

/** Fits the height of the composer to its text. */
function fit() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
  $("#send").disabled = !input.value.trim();
}

input.addEventListener("input", fit);
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || touch) return;
  event.preventDefault();
  send();
});
$("#composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing && !$("#settings").open) running?.abort();
});
$("#stop").addEventListener("click", () => running?.abort());
$("#new").addEventListener("click", () => switchTo(store.fresh()));
$("#latest").addEventListener("click", toLatest);
$("#try-again").addEventListener("click", () => {
  clearNotice();
  focusInput();
  retry();
});
$("#key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  store.saveKey($("#key").value.trim());
  $("#key").value = "";
  clearNotice();
  focusInput();
  if (!model) connect();
  if (retry !== connect) retry();
});
$("#messages").addEventListener("click", ({ target }) => {
  if (!target.closest(".again")) return;
  focusInput();
  again();
});
addEventListener("pagehide", () => running && store.save(chat));

fit();
showChat();
connect();
