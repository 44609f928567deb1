// Renders Markdown while it grows. HTML in it is shown as text, and the result is sanitized.

import { Marked } from "./vendor/marked.js";
import "./vendor/purify.js"; // the minified build is a script that sets a global

const { DOMPurify } = globalThis;

const SAFE = {
  ALLOWED_TAGS: [
    ..."p br strong em del code pre h3 h4 h5 h6 ul ol li blockquote hr a".split(" "),
    ..."table thead tbody tr th td div span button".split(" "),
  ],
  ALLOWED_ATTR: ["href", "title", "start", "align", "class", "tabindex", "type"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ADD_URI_SAFE_ATTR: ["start", "align", "tabindex", "type"],
  RETURN_DOM_FRAGMENT: true,
};
DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

const escape = (text) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html({ text, block }) {
      if (/^<br\s*\/?>\s*$/i.test(text)) return "<br>"; // models write it into table cells
      return block ? `<p class="html">${escape(text.trimEnd())}</p>` : escape(text);
    },
    // The heading with the author of the message is above.
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    // The page loads nothing from other servers.
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    code: ({ text, lang }) =>
      `<div class="code"><div class="bar"><span>${escape(lang?.split(/\s/)[0] ?? "")}</span>` +
      `<button type="button" class="plain small copy-code">Copy code</button></div>` +
      `<pre tabindex="0"><code>${escape(text)}</code></pre></div>`,
    table(token) {
      const row = (cells) => `<tr>${cells.map((cell) => this.tablecell(cell)).join("")}</tr>`;
      const body = token.rows.map(row).join("");
      return `<div class="table" tabindex="0"><table><thead>${row(token.header)}</thead><tbody>${body}</tbody></table></div>`;
    },
  },
});

/** Growing Markdown in `element`. Blocks that do not change keep their nodes. */
export class Markdown {
  #element;
  #raw = [];

  constructor(element) {
    this.#element = element;
  }

  /** Shows `text`. Until it is `complete`, an end whose meaning can still change stays hidden. */
  show(text, complete) {
    const tokens = marked.lexer(complete ? text : settled(text)).filter((token) => !["space", "def"].includes(token.type));
    if (complete) this.#raw = []; // the end may define links that earlier blocks use
    tokens.forEach((token, number) => {
      if (this.#raw[number] === token.raw) return;
      this.#raw[number] = token.raw;
      const block = document.createElement("div");
      block.className = "block";
      block.append(DOMPurify.sanitize(marked.parser([token]), SAFE));
      const shown = this.#element.children[number];
      if (shown) morph(shown, block);
      else this.#element.append(block);
    });
    this.#raw.length = tokens.length;
    while (this.#element.children.length > tokens.length) this.#element.lastChild.remove();
  }

  /** The texts of the blocks; the last one may still grow. */
  get blocks() {
    return Array.from(this.#element.children, (block) => (block.querySelector("pre") ?? block).textContent);
  }
}

/** Returns `text` without an ambiguous end, for example the first dash of a list, and with open emphasis closed. */
function settled(text) {
  const fenced = (text.match(/^\s*(?:```|~~~)/gm) ?? []).length % 2 === 1;
  const lines = text.split("\n");
  // The line can become a list, a rule, a heading or a fence.
  if (/^\s*(?:[-=*+_#>`~|]{0,3}|\d{1,3}[.)]?)\s*$/.test(lines.at(-1))) lines.pop();
  if (fenced) return lines.join("\n");
  // The first two lines of a table are ambiguous.
  const table = lines.length - 1 - lines.findLastIndex((line) => !line.startsWith("|"));
  if (table === 1 || table === 2) lines.splice(-table);
  if (lines.length === 0) return "";
  // An incomplete link, or marks that open or close emphasis.
  let last = lines.pop().replace(/!?\[[^\]]{0,200}(?:\](?:\([^)]*)?)?$/, "").replace(/[*_`~]+$/, "");
  if ((last.match(/`/g) ?? []).length % 2 === 1) last += "`";
  else if ((last.match(/\*\*/g) ?? []).length % 2 === 1) last = `${last.trimEnd()}**`;
  return [...lines, last].join("\n");
}

/** Makes `shown` equal to `next` and keeps every node that does not change, so that selection and focus stay. */
function morph(shown, next) {
  if (shown.nodeName !== next.nodeName) return shown.replaceWith(next);
  if (shown.nodeType === Node.TEXT_NODE) {
    if (next.data.startsWith(shown.data)) shown.appendData(next.data.slice(shown.data.length));
    else shown.data = next.data;
    return undefined;
  }
  for (const name of shown.getAttributeNames()) if (!next.hasAttribute(name)) shown.removeAttribute(name);
  for (const { name, value } of next.attributes) shown.setAttribute(name, value);
  const children = [...next.childNodes];
  children.forEach((child, number) => {
    if (shown.childNodes[number]) morph(shown.childNodes[number], child);
    else shown.append(child);
  });
  while (shown.childNodes.length > children.length) shown.lastChild.remove();
  return undefined;
}
