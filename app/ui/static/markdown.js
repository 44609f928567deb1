// Renders Markdown while it is still being written. HTML in it is shown as text, and what is rendered is sanitized.

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
      if (/^<br\s*\/?>\s*$/i.test(text)) return "<br>"; // which models write into the cells of tables
      return block ? `<p class="html">${escape(text.trimEnd())}</p>` : escape(text);
    },
    // Under the heading that says who speaks.
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    // Nothing is loaded from elsewhere.
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

/** The Markdown in `element`, which grows: blocks that have not changed stay as they are. */
export class Markdown {
  #element;
  #raw = [];

  constructor(element) {
    this.#element = element;
  }

  /** Shows `text`; while it is not `complete`, what may still become something else is held back. */
  show(text, complete) {
    const tokens = marked.lexer(complete ? text : settled(text)).filter((token) => !["space", "def"].includes(token.type));
    if (complete) this.#raw = []; // what came last may define links further up
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

  /** The texts of the blocks so far, of which the last may still grow. */
  get blocks() {
    return Array.from(this.#element.children, (block) => (block.querySelector("pre") ?? block).textContent);
  }
}

/** `text` without the end that cannot be told yet, such as the first dash of a list, and with open emphasis closed. */
function settled(text) {
  const fenced = (text.match(/^\s*(?:```|~~~)/gm) ?? []).length % 2 === 1;
  const lines = text.split("\n");
  // A list, a rule, a heading or a fence may begin here.
  if (/^\s*(?:[-=*+_#>`~|]{0,3}|\d{1,3}[.)]?)\s*$/.test(lines.at(-1))) lines.pop();
  if (fenced) return lines.join("\n");
  // A table begins with two lines.
  const table = lines.length - 1 - lines.findLastIndex((line) => !line.startsWith("|"));
  if (table === 1 || table === 2) lines.splice(-table);
  if (lines.length === 0) return "";
  // A link, or marks that open or close.
  let last = lines.pop().replace(/!?\[[^\]]{0,200}(?:\](?:\([^)]*)?)?$/, "").replace(/[*_`~]+$/, "");
  if ((last.match(/`/g) ?? []).length % 2 === 1) last += "`";
  else if ((last.match(/\*\*/g) ?? []).length % 2 === 1) last = `${last.trimEnd()}**`;
  return [...lines, last].join("\n");
}

/** Makes `shown` like `wanted`, and keeps every node that need not change: selections and focus stay. */
function morph(shown, wanted) {
  if (shown.nodeName !== wanted.nodeName) return shown.replaceWith(wanted);
  if (shown.nodeType === Node.TEXT_NODE) {
    if (wanted.data.startsWith(shown.data)) shown.appendData(wanted.data.slice(shown.data.length));
    else shown.data = wanted.data;
    return undefined;
  }
  for (const name of shown.getAttributeNames()) if (!wanted.hasAttribute(name)) shown.removeAttribute(name);
  for (const { name, value } of wanted.attributes) shown.setAttribute(name, value);
  const children = [...wanted.childNodes];
  children.forEach((child, number) => {
    if (shown.childNodes[number]) morph(shown.childNodes[number], child);
    else shown.append(child);
  });
  while (shown.childNodes.length > children.length) shown.lastChild.remove();
  return undefined;
}
