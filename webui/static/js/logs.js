/* The log view: follow, filter by text and level, wrap. The download is a plain link.
   Rule: a line is text. It is put in by textContent, unseen characters are named, and each line keeps its own direction. */

import { connect } from "./live.js";
import { ask, copyOf, find, findAll, keepAtEnd, spell } from "./page.js";
import { exact, t } from "./text.js";

const KEEP = 5000;
const RANK = { debug: 0, info: 1, warning: 2, error: 3 };

const list = find(".log-lines");
const api = list.dataset.api;
const tools = { find: find("#log-find"), level: find("#log-level"), since: find("#log-since"), follow: find("#log-follow"), wrap: find("#log-wrap") };
const toEnd = find(".to-end");
let waiting = [];
let catchingUp = false;
let scheduled = false;

function row(line) {
  const item = copyOf("log-line");
  const [time, level, words] = item.children;
  item.dataset.level = line.level ?? "info";
  if (line.at) {
    item.dataset.at = line.at;
    time.dateTime = new Date(line.at * 1000).toISOString();
    time.title = exact(line.at);
    time.textContent = new Date(line.at * 1000).toLocaleTimeString("en-GB");
  }
  level.textContent = t(`level.${item.dataset.level}`);
  if (line.parts) words.append(coloured(line.parts));
  else words.append(...spell(line.text));
  item.hidden = !wanted(item);
  return item;
}

/** Stretches in the colours the program chose, from the closed list of webui/log_lines.py. */
function coloured(parts) {
  const line = document.createElement("bdi");
  line.append(...parts.map(([text, style]) => {
    const part = document.createElement("span");
    if (style) part.dataset.style = style;
    part.append(...spell(text));
    return part;
  }));
  return line;
}

/** Unix seconds from which lines are wanted; 0 for all. */
function begin() {
  const seconds = { "15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400 }[tools.since.value];
  return seconds ? Date.now() / 1000 - seconds : 0;
}

function wanted(item) {
  const query = tools.find.value.toLocaleLowerCase();
  return (RANK[item.dataset.level] ?? 1) >= (RANK[tools.level.value] ?? 0)
    && !(Number(item.dataset.at) < begin())
    && (!query || item.lastElementChild.textContent.toLocaleLowerCase().includes(query));
}

function filter() {
  [...list.children].forEach((item) => { item.hidden = !wanted(item); });
  count();
  keepUp();
}

function count() {
  const items = [...list.children];
  const n = items.filter((item) => !item.hidden).length;
  find("#log-count").textContent = t("log.shown", { n });
  find("#log-none").hidden = n > 0;
  find("#log-none h2").textContent = t(items.length ? "log.none_match" : "log.empty");
}

const following = () => tools.follow.getAttribute("aria-pressed") === "true";

function keepUp() {
  keepAtEnd(list, following);
  toEnd.hidden = following();
}

function flush() {
  scheduled = false;
  list.append(...waiting.splice(0).map(row));
  while (list.children.length > KEEP) list.firstElementChild.remove();
  count();
  keepUp();
}

function add(line) {
  // A line without a time of its own has that of the line before, as from the server.
  line.at ??= (waiting.at(-1)?.at ?? Number(list.lastElementChild?.dataset.at)) || null;
  waiting.push(line);
  if (scheduled || catchingUp) return;
  scheduled = true;
  requestAnimationFrame(flush);
}

/** After (re)connecting: fetch what was missed, then add only what the fetch did not hold. */
async function catchUp() {
  catchingUp = true;
  try {
    const { lines } = await ask("GET", `${api}?lines=500`);
    const held = new Set(lines.slice(-200).map((line) => `${line.at}|${line.text}`));
    const fresh = waiting.filter((line) => !held.has(`${line.at}|${line.text}`));
    list.replaceChildren();
    waiting = [...lines, ...fresh];
  } catch (error) {
    if (error.status === undefined) throw error;
  }
  catchingUp = false;
  flush();
}

function press(button, on) {
  button.setAttribute("aria-pressed", String(on));
  if (button === tools.wrap) list.dataset.wrap = on ? "on" : "off";
}

tools.find.addEventListener("input", filter);
tools.level.addEventListener("change", filter);
tools.since.addEventListener("change", filter);
find("form.log-tools").addEventListener("submit", (event) => event.preventDefault());
tools.wrap.addEventListener("click", () => {
  press(tools.wrap, tools.wrap.getAttribute("aria-pressed") !== "true");
  localStorage.setItem("croft.log.wrap", list.dataset.wrap);
  keepUp();
});
tools.follow.addEventListener("click", () => { press(tools.follow, !following()); keepUp(); });
toEnd.addEventListener("click", () => { press(tools.follow, true); keepUp(); });
list.addEventListener("wheel", (event) => {
  if (event.deltaY < 0 && following()) { press(tools.follow, false); keepUp(); }
}, { passive: true });
list.addEventListener("keydown", (event) => {
  if (["PageUp", "ArrowUp", "Home"].includes(event.key) && following()) { press(tools.follow, false); keepUp(); }
});

press(tools.wrap, localStorage.getItem("croft.log.wrap") !== "off");
findAll(".log-lines time[datetime]").forEach((time) => {
  const at = Date.parse(time.dateTime) / 1000;
  time.textContent = new Date(at * 1000).toLocaleTimeString("en-GB");
  time.title = exact(at);
});
count();
keepUp();
const light = find(".live");
connect(`${api}/stream`, { line: add }, (state) => {
  light.dataset.live = state === "live" ? "on" : "off";
  light.textContent = t(`log.${state}`);
  if (state === "live") catchUp();
});
