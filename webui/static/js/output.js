/* What a run writes, line by line: streams told apart, colours from a closed list, follow, wrap, find.
   Rule: output is text. It enters by textContent only, unseen characters are named, each line keeps its own direction. */

import { connect } from "./live.js";
import { copyOf, find, findAll, keepAtEnd, setIcon, spell } from "./page.js";
import { bytes, duration, t } from "./text.js";

const KEEP = 5000;
const LINE_MOST = 4000;
const COLOURS = ["", "red", "green", "yellow", "blue", "magenta", "cyan", ""];
const STYLE = /\u001b\[([0-9;:]{0,32})m/g;
const ICONS = { waiting: "clock", running: "state-starting", done: "check", failed: "state-failed", refused: "state-parked", denied: "close", expired: "clock", cancelled: "state-stopped", interrupted: "state-unwell", killed: "state-failed" };

/** Point a pill at another state. */
export function setPill(pill, state) {
  if (!pill) return;
  pill.dataset.runState = state;
  setIcon(find(".icon", pill), ICONS[state] ?? "info");
  find("[data-field=state]", pill).textContent = t(`command.state.${state}`);
}

export const isOpen = (state) => state === "waiting" || state === "running";

/** How long something took. */
export const took = (seconds) => seconds < 10 ? t("commands.seconds", { s: seconds.toFixed(seconds < 1 ? 2 : 1) }) : duration(seconds);

/** The style after an SGR sequence, as webui/log_lines.py reads it. */
function restyle(before, codes) {
  let { colour, weight } = before;
  for (const code of codes.split(";")) {
    const n = code.length < 4 ? Number(code || 0) : -1;
    if (n === 0) [colour, weight] = ["", ""];
    else if (n === 1) weight = "bold";
    else if (n === 2) weight = "dim";
    else if (n === 22) weight = "";
    else if (n === 39) colour = "";
    else if (n === 38 || n === 48) break;
    else if ((n >= 30 && n <= 37) || (n >= 90 && n <= 97)) colour = COLOURS[n % 10];
  }
  return { colour, weight };
}

function part(text, style) {
  const span = document.createElement("span");
  const named = [style.colour, style.weight].filter(Boolean).join(" ");
  if (named) span.dataset.style = named;
  span.append(...spell(text));
  return span;
}

function coloured(text) {
  const found = [];
  let style = { colour: "", weight: "" };
  let from = 0;
  for (const match of text.matchAll(STYLE)) {
    if (match.index > from) found.push(part(text.slice(from, match.index), style));
    style = restyle(style, match[1]);
    from = match.index + match[0].length;
  }
  if (from < text.length) found.push(part(text.slice(from), style));
  return found;
}

/** The view of one run's output inside `section`. */
export class OutputView {
  constructor(section) {
    this.section = section;
    this.list = find(".run-lines", section);
    this.follow = find("[data-run-follow]", section);
    this.waiting = [];
    this.last = null;
    this.dropped = 0;
    this.scheduled = false;
    const wrap = find("[data-run-wrap]", section);
    this.follow.addEventListener("click", () => this.setFollow(!this.following()));
    wrap.addEventListener("click", () => {
      this.list.dataset.wrap = this.list.dataset.wrap === "on" ? "off" : "on";
      wrap.setAttribute("aria-pressed", String(this.list.dataset.wrap === "on"));
    });
    find("[data-run-find]", section).addEventListener("input", () => this.filter());
    const stop = (back) => back && this.following() && this.setFollow(false);
    this.list.addEventListener("wheel", (event) => stop(event.deltaY < 0), { passive: true });
    this.list.addEventListener("keydown", (event) => stop(["PageUp", "ArrowUp", "Home"].includes(event.key)));
    findAll(".run-tools", section).forEach((tools) => { tools.hidden = false; });
  }

  following() { return this.follow.getAttribute("aria-pressed") === "true"; }

  setFollow(on) {
    this.follow.setAttribute("aria-pressed", String(on));
    this.keepUp();
  }

  keepUp() { keepAtEnd(this.list, () => this.following()); }

  clear() {
    this.list.replaceChildren();
    this.last = null;
    this.dropped = 0;
  }

  /** Text as it came; a line goes on while the same stream writes, a carriage return begins it again. */
  add(stream, text) {
    text.replaceAll("\r\n", "\n").split("\n").forEach((piece, number) => {
      if (number) this.last = null;
      if (!piece) return;
      if (this.last?.stream !== stream) {
        this.last = { stream, text: "" };
        this.waiting.push(this.last);
      }
      const back = piece.lastIndexOf("\r");
      const joined = back < 0 ? this.last.text + piece : piece.slice(back + 1) || piece.slice(piece.lastIndexOf("\r", back - 1) + 1, back);
      this.last.cut = joined.length > LINE_MOST;
      this.last.text = joined.slice(0, LINE_MOST);
      if (this.last.row) this.draw(this.last);
    });
    if (this.scheduled) return;
    this.scheduled = true;
    // A page that is not looked at draws nothing until it is, but must not pile up either.
    if (document.hidden) setTimeout(() => this.flush(), 500);
    else requestAnimationFrame(() => this.flush());
  }

  flush() {
    this.scheduled = false;
    const skipped = Math.max(0, this.waiting.length - KEEP);
    this.dropped += skipped;
    const fresh = this.waiting.splice(0).slice(skipped);
    this.list.append(...fresh.map((line) => this.row(line)));
    while (this.list.children.length > KEEP) {
      this.list.firstElementChild.remove();
      this.dropped += 1;
    }
    const before = find("[data-field=before]", this.section);
    before.hidden = !this.dropped;
    if (this.dropped) before.textContent = t("commands.before", { n: this.dropped });
    find("[data-field=none]", this.section).hidden = this.list.children.length > 0;
    this.keepUp();
  }

  row(line) {
    line.row = copyOf("output-line");
    line.row.dataset.stream = line.stream;
    this.draw(line);
    return line.row;
  }

  draw(line) {
    const words = find(".words", line.row);
    words.replaceChildren(...coloured(line.text));
    if (line.stream === "stderr") words.prepend(unseenText(t("commands.stderr")));
    if (line.cut) words.append(Object.assign(document.createElement("span"), { className: "sign", textContent: t("commands.cut") }));
    line.row.hidden = !this.wanted(line.row);
  }

  wanted(row) {
    const query = find("[data-run-find]", this.section).value.toLocaleLowerCase();
    return !query || row.textContent.toLocaleLowerCase().includes(query);
  }

  filter() {
    [...this.list.children].forEach((row) => { row.hidden = !this.wanted(row); });
    this.keepUp();
  }
}

const unseenText = (text) => Object.assign(document.createElement("span"), { className: "unseen-text", textContent: `${text} ` });

/** Follow run `id` in `section`: its output, its state, how long it goes on. `onState` hears of each state. */
export function followRun(section, id, onState = () => {}) {
  const view = new OutputView(section);
  const told = { started: 0, over: false };
  view.clear();
  const tick = setInterval(() => {
    if (told.started && !told.over) find("[data-field=elapsed]", section).textContent = took(Math.max(0, Date.now() / 1000 - told.started));
  }, 500);
  connect(`/api/commands/${id}/stream`, {
    output: ({ stream, text }) => view.add(stream, text),
    state: ({ run }) => {
      told.started = run.started_at ?? 0;
      told.over = !isOpen(run.state);
      show(section, run);
      onState(run);
      if (told.over) clearInterval(tick);
    },
  }, undefined, { resumes: true, over: () => told.over });
  return view;
}

function show(section, run) {
  section.dataset.runState = run.state;
  setPill(find(".run-pill", section), run.state);
  const said = find("[data-field=said]", section);
  const words = run.ended ?? (["refused", "expired", "waiting"].includes(run.state) ? run.reason : "");
  said.hidden = !words;
  said.textContent = words ?? "";
  find("[data-field=cut]", section).hidden = !run.truncated;
  if (isOpen(run.state)) return;
  if (run.duration !== null) find("[data-field=elapsed]", section).textContent = took(run.duration);
  find("[data-field=count]", section).textContent = bytes(run.bytes);
  find("[data-field=none]", section).textContent = t("commands.no_output");
}
