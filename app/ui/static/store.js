// Storage of chats and settings in the browser. Without storage the page works, but keeps nothing.

const CHATS = "phi3.chats";
const CURRENT = "phi3.chat"; // of this tab
const SETTINGS = "phi3.settings";
const KEY = "phi3.key"; // of this tab
const MAX_CHATS = 50;

export const DEFAULTS = { system: "", temperature: 0.7, top_p: 1, max_tokens: null, seed: null };

/** Returns the chats, the latest first: [{id, time, used, messages: [{role, content, …}]}]. */
export function chats() {
  return read("localStorage", CHATS) ?? [];
}

/** Returns the chat of this tab, or a new one. */
export function current() {
  const id = read("sessionStorage", CURRENT);
  return chats().find((chat) => chat.id === id) ?? fresh();
}

/** Returns a new, empty chat. */
export function fresh() {
  return { id: `${Date.now()}-${Math.random()}`, time: Date.now(), used: 0, messages: [] };
}

/** Makes `chat` the chat of this tab. */
export function open(chat) {
  write("sessionStorage", CURRENT, chat.id);
}

/** Saves `chat` next to those of other tabs. The oldest chats are deleted if there are too many. */
export function save(chat) {
  const saved = [chat, ...chats().filter((other) => other.id !== chat.id)].slice(0, MAX_CHATS);
  while (!write("localStorage", CHATS, saved) && saved.length > 1) saved.pop();
}

/** Deletes a chat. */
export function remove(id) {
  write("localStorage", CHATS, chats().filter((chat) => chat.id !== id));
}

/** Returns the settings, with defaults for those that are not set. */
export function settings() {
  return { ...DEFAULTS, ...read("localStorage", SETTINGS) };
}

/** Saves the settings. */
export function saveSettings(values) {
  write("localStorage", SETTINGS, values);
}

/** Returns the API key, which is kept until the tab is closed. */
export function key() {
  return read("sessionStorage", KEY);
}

/** Saves the API key. */
export function saveKey(value) {
  write("sessionStorage", KEY, value);
}

function read(storage, key) {
  try {
    return JSON.parse(window[storage].getItem(key));
  } catch {
    return null;
  }
}

function write(storage, key, value) {
  try {
    window[storage].setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
