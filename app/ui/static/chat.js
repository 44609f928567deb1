// The chat: what is said, who is asked, and what the buttons do.

import * as api from "./api.js";
import { settings } from "./settings.js";
import * as store from "./store.js";
import { $, MessageView, announce, clearNotice, keepUp, notice, toLatest } from "./view.js";

const SAVE_MILLISECONDS = 1000;
const BROKEN = "Broken off.";

const input = $("#message");
// On a touch screen there is no Shift+Enter, so Enter breaks the line.
const touch = matchMedia("(hover: none) and (pointer: coarse)").matches;
let chat = store.current();
let views = [];
let model = null;
let running = null; // an AbortController while an answer is awaited
let saved = 0;
let retry = null; // what the notice offers to try again

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
      const forget = button("Delete", "plain small", () => {
        if (!confirm(`Delete the chat “${title}”? It cannot be brought back.`)) return;
        store.remove(each.id);
        showEarlier();
        focusInput();
      });
      forget.setAttribute("aria-label", `Delete the chat ${title}`);
      const item = document.createElement("li");
      item.append(open, time, forget);
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

/** Removes the last message of a chat, and returns it. */
function takeBack(asked) {
  if (asked === chat) views.pop().remove();
  return asked.messages.pop();
}

function keep(asked) {
  if (asked.messages.length > 0) store.save(asked);
  else store.remove(asked.id);
}

/** Keeps a chat that grows, not more often than it takes. */
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

// ---- asking

function send() {
  const text = input.value.trim();
  if (!text || running) return;
  input.value = "";
  fit();
  add({ role: "user", content: text }).show();
  chat.time = Date.now();
  store.save(chat);
  answer();
}

/** Asks once more for the answer to the last message of the user. */
function again() {
  if (running) return;
  answer(chat.messages.at(-1).role === "assistant" ? takeBack(chat) : null);
}

/** Asks for the answer to the last message, in place of the one that is `replaced`. */
async function answer(replaced = null) {
  const asked = chat;
  const controller = new AbortController();
  const messages = chat.messages.filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
  const message = { role: "assistant", content: "", note: BROKEN };
  const view = add(message);
  busy(controller);
  view.grow();
  toLatest();
  announce("The model answers.");
  const error = await listen(messages, message, controller.signal, () => {
    view.grow();
    save(asked);
  });
  if (message.content || !error) {
    view.show();
    view.speak();
    if (message.note) announce(message.note);
  } else {
    takeBack(asked);
    if (replaced) giveBack(asked, replaced);
    else if (error.kind === "refused") correct(asked);
  }
  keep(asked);
  if (running === controller) busy(null);
  if (asked !== chat) return;
  showWelcome();
  if (error && !controller.signal.aborted) failed(error, again);
  else clearNotice();
  showUsed();
  keepUp();
}

/** Puts an answer back that could not be replaced. */
function giveBack(asked, replaced) {
  if (asked === chat) add(replaced).show();
  else asked.messages.push(replaced);
}

/** Puts a message that was refused back to where it is written: every later one would be refused with it. */
function correct(asked) {
  const { content } = takeBack(asked);
  input.value ||= content;
  fit();
}

/** Writes the answer to `messages` into `message`; returns what went wrong, if something did. */
async function listen(messages, message, signal, onChange) {
  const asked = chat;
  const { system, fields } = settings();
  const said = system ? [{ role: "system", content: system }, ...messages] : messages;
  const began = performance.now();
  const grow = (piece) => {
    if (!message.content) clearNotice();
    message.content += piece;
    onChange();
  };
  try {
    const { reason, usage } = await api.complete(said, fields, signal, waiting, grow);
    message.note = reason === "length" ? "Cut off: the longest answer, or the end of the context, was reached." : "";
    if (!message.content) message.note ||= "The model ended without a word.";
    asked.used = usage.total_tokens;
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    message.figures = `${usage.completion_tokens} tokens in ${seconds} s`;
    return null;
  } catch (error) {
    message.note = signal.aborted ? "Stopped." : BROKEN;
    return error;
  }
}

function waiting(text, seconds) {
  notice(`${text} Trying again in ${seconds} s.`, "wait", `${text} The page tries again by itself.`);
}

function failed(error, again) {
  const foreseen = error instanceof api.ApiError;
  if (!foreseen) console.error(error);
  retry = again;
  const action = { key: "key", refused: "none" }[error.kind] ?? "again";
  notice(foreseen ? error.message : `This page failed: ${error.message}`, action);
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

/** Where focus would be lost; on a touch screen that would bring up the keyboard. */
function focusInput() {
  if (!touch) input.focus();
}

/** Makes the composer as high as what is in it. */
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
