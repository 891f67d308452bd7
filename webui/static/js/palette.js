/* The command palette (Ctrl/Cmd-K) and the keys of the pages.
   Rule: a plain key works only while no field has the focus, and none inside the editor's frame, which keeps its own keys. */

import { ask, complain, confirmed, copyOf, find, findAll, setIcon, toast } from "./page.js";
import { t } from "./text.js";

const dialog = document.getElementById("palette");
const entries = dialog ? JSON.parse(document.getElementById("palette-entries").textContent) : [];
const LEADER_MS = 1200;
const PAUSE = 200;
const SHORTEST = 3;
let shown = [];
let current = 0;
let talks = []; // conversations with these words
let timer = 0;

/** Letters in order, words first: the score of `label` for `query`, lower is better, -1 is no match. */
function score(label, query) {
  const text = label.toLocaleLowerCase();
  const at = text.indexOf(query);
  if (at >= 0) return at === 0 || text[at - 1] === " " ? at : at + 50;
  let from = 0;
  for (const letter of query) {
    const next = text.indexOf(letter, from);
    if (next < 0) return -1;
    from = next + 1;
  }
  return 200 + from;
}

/** A page is also found by the place it belongs to, after those found by their own name. */
function rank(entry, query) {
  const own = score(entry.label, query);
  return own < 0 && entry.where && score(entry.where, query) >= 0 ? 500 : own;
}

function render() {
  const input = find("input", dialog);
  const query = input.value.trim().toLocaleLowerCase();
  shown = entries.map((entry) => ({ entry, rank: rank(entry, query) })).filter((item) => item.rank >= 0)
    .sort((a, b) => a.rank - b.rank).map((item) => item.entry).concat(talks);
  current = Math.min(current, Math.max(0, shown.length - 1));
  const list = find("[role=listbox]", dialog);
  list.replaceChildren(...shown.map(option));
  find(".palette-none", dialog).hidden = shown.length > 0;
  mark();
}

/** Conversations with these words, below everything else that fits. */
async function lookUp() {
  const query = find("input", dialog).value.trim();
  talks = [];
  if (query.length >= SHORTEST) {
    const { conversations } = await ask("GET", `/api/conversations?${new URLSearchParams({ q: query, limit: "5" })}`);
    if (query !== find("input", dialog).value.trim()) return;
    const where = entries.find((entry) => entry.href === "/assistant")?.label ?? "";
    talks = conversations.map(({ id, title, hit }) => ({ label: title || hit.pieces.map((piece) => piece.text).join(""), where, icon: "assistant", href: `/assistant/${id}` }));
  }
  render();
}

function lookUpSoon() {
  clearTimeout(timer);
  talks = [];
  timer = setTimeout(() => lookUp().catch((error) => { if (error.status === undefined) throw error; }), PAUSE);
}

function option(entry, index) {
  const item = copyOf("palette-option");
  item.id = `palette-${index}`;
  find("[data-field=label]", item).textContent = entry.label;
  find("[data-field=where]", item).textContent = entry.where ?? "";
  setIcon(find(".icon", item), entry.icon);
  item.addEventListener("click", () => choose(entry));
  item.addEventListener("pointermove", () => { if (current !== index) { current = index; mark(); } });
  return item;
}

function mark() {
  findAll("[role=option]", dialog).forEach((item, index) => {
    item.setAttribute("aria-selected", String(index === current));
    if (index === current) item.scrollIntoView({ block: "nearest" });
  });
  const input = find("input", dialog);
  if (shown.length) input.setAttribute("aria-activedescendant", `palette-${current}`);
  else input.removeAttribute("aria-activedescendant");
}

async function choose(entry) {
  dialog.close();
  if (entry.href) {
    location.assign(entry.href);
    return;
  }
  const own = `service.${entry.service}`;
  if (entry.action !== "start" && !(await confirmed(t(`${own}.ask_${entry.action}`), t(`${own}.effect`), entry.label))) return;
  try {
    await ask("POST", `/api/services/${entry.service}/${entry.action}`);
    toast(t(`${own}.done_${entry.action}`));
  } catch (error) {
    complain(error);
  }
}

export function openPalette() {
  if (!dialog || dialog.open) return;
  find("input", dialog).value = "";
  [current, talks] = [0, []];
  render();
  dialog.showModal();
}

function onPaletteKey(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && shown.length) {
    event.preventDefault();
    current = (current + step + shown.length) % shown.length;
    mark();
  } else if (event.key === "Enter" && shown[current]) {
    event.preventDefault();
    choose(shown[current]);
  }
}

/** The row of the key help that names `press` says what it does: the help and the keys are one table. */
function act(press) {
  const row = find(`#keys [data-press="${CSS.escape(press)}"]`);
  if (!row) return false;
  const { does } = row.dataset;
  if (does === "palette") openPalette();
  else if (does === "keys") document.getElementById("keys").showModal();
  else if (does === "find") return focusFilter();
  else if (does.startsWith("/")) location.assign(does);
  else document.dispatchEvent(new CustomEvent("croft:key", { detail: does }));
  return true;
}

function focusFilter() {
  const field = findAll("main input[type=search]").find((input) => input.checkVisibility());
  field?.focus();
  return Boolean(field);
}

/** What was pressed, as the table writes it; letters by where the key is, so that any keyboard layout will do. */
function pressed(event) {
  const letter = event.code.startsWith("Key") ? event.code.slice(3) : "";
  if (event.altKey) return "";
  if (event.ctrlKey || event.metaKey) return letter && !event.shiftKey ? `Mod+${letter}` : "";
  return letter || { "\u061f": "?" }[event.key] || event.key;
}

export function watchKeys() {
  if (!dialog) return;
  find("input", dialog).addEventListener("input", () => { current = 0; lookUpSoon(); render(); });
  dialog.addEventListener("keydown", onPaletteKey);
  let leader = -Infinity;
  document.addEventListener("keydown", (event) => {
    const press = pressed(event);
    const typing = event.target.closest("input, select, textarea, [contenteditable]");
    if (!press || find("dialog[open]") || (typing && !press.startsWith("Mod+"))) return;
    const second = event.timeStamp - leader < LEADER_MS;
    leader = press === "G" ? event.timeStamp : -Infinity;
    if (act(second ? `G ${press}` : press)) event.preventDefault();
  });
}
