// The dialog of settings: what is valid is kept at once, what is not says why.

import * as store from "./store.js";

const dialog = document.querySelector("#settings");
const form = dialog.querySelector("form");
const fields = Object.keys(store.DEFAULTS).map((name) => form.elements[name]);

/** The settings as fields of a request, and the system message. */
export function settings() {
  const { system, ...numbers } = store.settings();
  const given = Object.entries(numbers).filter(([, value]) => value !== null);
  return { system: system.trim(), fields: Object.fromEntries(given) };
}

function show(values) {
  for (const field of fields) {
    field.value = values[field.name] ?? "";
    judge(field);
  }
}

/** Says what is wrong with a field, and whether nothing is. */
function judge(field) {
  const error = form.querySelector(`#${field.id}-error`);
  if (!error) return true;
  const { valid, badInput, rangeOverflow, rangeUnderflow, stepMismatch } = field.validity;
  field.setAttribute("aria-invalid", String(!valid));
  if (badInput) error.textContent = "This is not a number.";
  else if (rangeUnderflow) error.textContent = `The least is ${field.min}.`;
  else if (rangeOverflow) error.textContent = `The most is ${field.max}.`;
  else if (stepMismatch) error.textContent = `Steps are of ${field.step}.`;
  else error.textContent = "";
  return valid;
}

form.addEventListener("input", ({ target }) => {
  if (!judge(target)) return;
  const value = target.type !== "number" ? target.value : target.value === "" ? null : target.valueAsNumber;
  store.saveSettings({ ...store.settings(), [target.name]: value });
});
document.querySelector("#open-settings").addEventListener("click", () => {
  show(store.settings());
  dialog.showModal();
});
document.querySelector("#defaults").addEventListener("click", () => {
  store.saveSettings(store.DEFAULTS);
  show(store.DEFAULTS);
});
document.querySelector("#close-settings").addEventListener("click", () => dialog.close());
form.addEventListener("submit", (event) => {
  event.preventDefault();
  dialog.close();
});
// Only the backdrop is the dialog itself.
dialog.addEventListener("pointerdown", ({ target }) => target === dialog && dialog.close());
