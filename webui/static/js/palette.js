/* The command palette (Ctrl/Cmd-K) and the keys of the pages.
   Rule: a key works only while no field has the focus, and never inside the editor's frame, which keeps its own keys. */

import { ask, complain, confirmed, copyOf, find, findAll, setIcon, toast } from "./page.js";
import { t } from "./text.js";

const dialog = document.getElementById("palette");
const entries = dialog ? JSON.parse(document.getElementById("palette-entries").textContent) : [];
const LEADER_MS = 1200;
let shown = [];
let current = 0;

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

function render() {
  const input = find("input", dialog);
  const query = input.value.trim().toLocaleLowerCase();
  shown = entries.map((entry) => ({ entry, rank: score(entry.label, query) })).filter((item) => item.rank >= 0)
    .sort((a, b) => a.rank - b.rank).map((item) => item.entry);
  current = Math.min(current, Math.max(0, shown.length - 1));
  const list = find("[role=listbox]", dialog);
  list.replaceChildren(...shown.map(option));
  find(".palette-none", dialog).hidden = shown.length > 0;
  mark();
}

function option(entry, index) {
  const item = copyOf("palette-option");
  item.id = `palette-${index}`;
  find("span", item).textContent = entry.label;
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
  current = 0;
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

/** Ctrl/Cmd-K, ? and G followed by a letter (each place names its own in data-key). */
export function watchKeys() {
  if (!dialog) return;
  find("input", dialog).addEventListener("input", () => { current = 0; render(); });
  dialog.addEventListener("keydown", onPaletteKey);
  let leader = 0;
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k" && !event.shiftKey && !event.altKey) {
      event.preventDefault();
      openPalette();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || find("dialog[open]")) return;
    if (event.target.closest("input, select, textarea, [contenteditable]")) return;
    if (event.key === "?") document.getElementById("keys").showModal();
    if (event.code === "KeyG") leader = event.timeStamp;
    else if (event.timeStamp - leader < LEADER_MS) {
      leader = 0;
      find(`[data-key="${CSS.escape(event.code)}"]`)?.click();
    }
  });
}
