// Views: messages, the notice above the composer, and announcements to screen readers.

import { Markdown } from "./markdown.js";

const SPOKEN_MILLISECONDS = 5000; // longer, and a screen reader would read an announcement twice
const NEAR_PIXELS = 32;

export const $ = (selector) => document.querySelector(selector);
const conversation = $("#conversation");
const template = $("#message-template");

/** Announces `text` to screen readers, after earlier announcements. */
export function announce(text) {
  const line = document.createElement("p");
  line.textContent = text.trim();
  $("#announcer").append(line);
  setTimeout(() => line.remove(), SPOKEN_MILLISECONDS);
}

// Whether the view is at the end, and follows new text.
let following = true;
conversation.addEventListener("scroll", () => {
  following = conversation.scrollHeight - conversation.scrollTop - conversation.clientHeight < NEAR_PIXELS;
  $("#latest").hidden = following;
});
new ResizeObserver(keepUp).observe(conversation);

/** Scrolls to the end, unless the user has scrolled up. */
export function keepUp() {
  if (following) conversation.scrollTop = conversation.scrollHeight;
  else $("#latest").hidden = false;
}

/** Scrolls to the end. */
export function toLatest() {
  following = true;
  if (document.activeElement === $("#latest")) conversation.focus();
  $("#latest").hidden = true;
  keepUp();
}

/** A message on the page. */
export class MessageView {
  #markdown;
  #message;
  #frame = 0;
  #spoken = 0;

  constructor(message) {
    this.#message = message;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.element.classList.add(message.role);
    const user = message.role === "user";
    this.#find("h2").textContent = user ? "You" : "The model";
    this.#find(".again span").textContent = user ? "Resend" : "Regenerate";
    this.#markdown = user ? null : new Markdown(this.#find(".content"));
    $("#messages").append(this.element);
    this.#find(".copy").addEventListener("click", ({ currentTarget }) => copy(message.content, currentTarget));
  }

  #find(selector) {
    return this.element.querySelector(selector);
  }

  /** Shows a complete message. */
  show() {
    this.#render(true);
    const { note, figures } = this.#message;
    this.#find(".note").textContent = note ?? "";
    this.#find(".note").hidden = !note;
    this.#find(".figures").textContent = figures ?? "";
    this.element.classList.remove("growing");
  }

  /** Shows a message that grows, with the next frame. */
  grow() {
    this.element.classList.add("growing");
    this.#frame ||= requestAnimationFrame(() => {
      this.#render(false);
      this.speak(1);
      keepUp();
    });
  }

  /** Announces the new blocks except the last `except` ones, which may still grow. */
  speak(except = 0) {
    const blocks = this.#markdown.blocks;
    for (const end = blocks.length - except; this.#spoken < end; this.#spoken += 1) announce(blocks[this.#spoken]);
  }

  #render(complete) {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (this.#markdown) this.#markdown.show(this.#message.content, complete);
    else this.#find(".content").textContent = this.#message.content;
  }

  remove() {
    cancelAnimationFrame(this.#frame);
    this.element.remove();
  }
}

$("#messages").addEventListener("click", ({ target }) => {
  const button = target.closest(".copy-code");
  if (button) copy(button.closest(".code").querySelector("code").textContent, button);
});

async function copy(text, button) {
  const label = button.querySelector("span") ?? button;
  const before = label.dataset.before ?? label.textContent;
  label.dataset.before = before;
  const done = await toClipboard(text);
  label.textContent = done ? "Copied" : "Not copied";
  announce(done ? "Copied." : "The browser does not allow the page to copy.");
  setTimeout(() => (label.textContent = before), 2000);
}

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without TLS, browsers offer the Clipboard API only on localhost.
    const focused = document.activeElement;
    const area = document.createElement("textarea");
    area.className = "unseen";
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
  }
}

/** Shows a notice and announces `news` if it changed. `action` is "again", "key", "wait" or "none". */
export function notice(text, action, news = text) {
  const box = $("#notice");
  if (box.dataset.news !== news) announce(news);
  box.dataset.news = news;
  box.querySelector("p").textContent = text;
  $("#try-again").hidden = action !== "again";
  $("#key-form").hidden = action !== "key";
  box.classList.toggle("waiting", action === "wait");
  box.hidden = false;
  keepUp();
}

/** Hides the notice. */
export function clearNotice() {
  $("#notice").hidden = true;
  $("#notice").dataset.news = "";
}
