// The settings dialog. Valid values are saved immediately; invalid ones show an error.

import * as store from "./store.js";

const dialog = document.querySelector("#settings");
const form = dialog.querySelector("form");
const fields = Object.keys(store.DEFAULTS).map((name) => form.elements[name]);

/** Returns the system message and the other settings as fields of a request. */
export function settings() {
  const { system, ...numbers } = store.settings();
  const set = Object.entries(numbers).filter(([, value]) => value !== null);
  return { system: system.trim(), fields: Object.fromEntries(set) };
}

function show(values) {
  for (const field of fields) {
    field.value = values[field.name] ?? "";
    validate(field);
  }
}

/** Shows the error of a field, and returns whether the field is valid. */
function validate(field) {
  const error = form.querySelector(`#${field.id}-error`);
  if (!error) return true;
  const { valid, badInput, rangeOverflow, rangeUnderflow, stepMismatch } = field.validity;
  field.setAttribute("aria-invalid", String(!valid));
  if (badInput) error.textContent = "Enter a number.";
  else if (rangeUnderflow) error.textContent = `The minimum is ${field.min}.`;
  else if (rangeOverflow) error.textContent = `The maximum is ${field.max}.`;
  else if (stepMismatch) error.textContent = `The value must be a multiple of ${field.step}.`;
  else error.textContent = "";
  return valid;
}

form.addEventListener("input", ({ target }) => {
  if (!validate(target)) return;
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
// The target is the dialog itself only for a click on the backdrop.
dialog.addEventListener("pointerdown", ({ target }) => target === dialog && dialog.close());
