// What this browser keeps: chats and settings. Without storage, nothing is kept and the page works on.

const CHATS = "phi3.chats";
const CURRENT = "phi3.chat"; // of this tab
const SETTINGS = "phi3.settings";
const KEY = "phi3.key"; // of this tab
const MOST_CHATS = 50;

export const DEFAULTS = { system: "", temperature: 0.7, top_p: 1, max_tokens: null, seed: null };

/** The chats, the latest first: [{id, time, used, messages: [{role, content, …}]}]. */
export function chats() {
  return read("localStorage", CHATS) ?? [];
}

/** The chat of this tab, or a new one. */
export function current() {
  const id = read("sessionStorage", CURRENT);
  return chats().find((chat) => chat.id === id) ?? fresh();
}

/** A new, empty chat. */
export function fresh() {
  return { id: `${Date.now()}-${Math.random()}`, time: Date.now(), used: 0, messages: [] };
}

/** Makes `chat` the one of this tab. */
export function open(chat) {
  write("sessionStorage", CURRENT, chat.id);
}

/** Keeps `chat`, without touching what other tabs keep; the oldest make room. */
export function save(chat) {
  const kept = [chat, ...chats().filter((other) => other.id !== chat.id)].slice(0, MOST_CHATS);
  while (!write("localStorage", CHATS, kept) && kept.length > 1) kept.pop();
}

/** Forgets a chat. */
export function remove(id) {
  write("localStorage", CHATS, chats().filter((chat) => chat.id !== id));
}

/** The settings, with the defaults for those that are not set. */
export function settings() {
  return { ...DEFAULTS, ...read("localStorage", SETTINGS) };
}

/** Keeps the settings. */
export function saveSettings(values) {
  write("localStorage", SETTINGS, values);
}

/** The API key, until this tab is closed. */
export function key() {
  return read("sessionStorage", KEY);
}

/** Keeps the API key. */
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
