/* Charts the server drew: kept true while the page is open, times in the reader's own zone, figures under the pointer or the
   arrow keys. Rule: the server draws and says; this only writes its values into the elements it made. */

import { announce, ask, find, findAll, onceShown, Refused } from "./page.js";
import { bytes, lang, percent, t } from "./text.js";

const AGAIN = 60_000;
const PER_SECOND = (value) => t("chart.per_second", { amount: bytes(value) });
const WORDS = { percent, bytes, rate: PER_SECOND, number: (value) => value.toFixed(2) };
const drawn = new Map();
// Made when first needed, as in text.js.
let clock, day, dayAndClock;
const hour = () => (clock ??= new Intl.DateTimeFormat("en-GB-u-ca-gregory-nu-latn", { hour: "2-digit", minute: "2-digit" }));
const date = () => (day ??= new Intl.DateTimeFormat(`${lang}-u-ca-gregory-nu-latn`, { day: "numeric", month: "short" }));
const weekday = () => (dayAndClock ??= new Intl.DateTimeFormat(`${lang}-u-ca-gregory-nu-latn`, { weekday: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" }));

const moment = (at, span) => (span === "month" ? date() : hour()).format(new Date(at * 1000));
const charted = (board, name) => find(`[data-chart="${CSS.escape(name)}"]`, board);

/** Say every time of a chart in the reader's own zone. */
function localise(figure, span) {
  findAll("[data-at]", figure).forEach((element) => { element.textContent = moment(Number(element.dataset.at), span); });
  find("[data-utc]", figure).hidden = true;
}

/** Draw `chart` (webui/charts.py) into its figure. */
function redraw(figure, chart, span) {
  drawn.set(figure, chart);
  Object.assign(figure.dataset, { begin: chart.begin, slot: chart.slot, slots: chart.slots });
  const lines = find(".lines", figure);
  lines.setAttribute("aria-label", chart.summary);
  findAll("path.line", lines).forEach((path, n) => path.setAttribute("d", chart.lines[n].path));
  find("path.area", lines)?.setAttribute("d", chart.lines[0].area);
  find("path.peak", lines)?.setAttribute("d", chart.lines[0].peak);
  findAll(".scale span", figure).forEach((element, n) => { element.textContent = chart.scale[n]; });
  find(".nothing", figure).hidden = chart.known;
  moveTicks(find(".times", figure), chart.ticks);
  fillTable(find("tbody", figure), chart.rows);
  localise(figure, span);
  if (!figure.dataset.read) find("[data-field=latest]", figure).textContent = chart.latest;
}

function moveTicks(svg, ticks) {
  while (svg.children.length > ticks.length) svg.lastElementChild.remove();
  ticks.forEach((tick, n) => {
    const text = svg.children[n] ?? svg.appendChild(document.createElementNS(svg.namespaceURI, "text"));
    text.setAttribute("x", `${tick.x}%`);
    text.setAttribute("y", "70%");
    text.dataset.at = tick.at;
  });
}

function fillTable(body, rows) {
  [...body.rows].forEach((row, n) => {
    row.cells[0].dataset.at = rows[n].at;
    rows[n].cells.forEach((cell, m) => { row.cells[m + 1].textContent = cell || t("chart.unknown"); });
  });
}

/** Show what is known of one slot: a line in the plot, figures in the caption. */
function read(figure, slot) {
  const chart = drawn.get(figure);
  if (!chart) return;
  const at = Math.min(chart.slots - 1, Math.max(0, slot));
  figure.dataset.read = at;
  const cursor = find(".cursor", figure);
  const x = `${(100 * (at + 0.5)) / chart.slots}%`;
  cursor.setAttribute("x1", x);
  cursor.setAttribute("x2", x);
  cursor.setAttribute("visibility", "visible");
  const values = chart.lines.map((line) => (line.values[at] == null ? t("chart.unknown") : WORDS[chart.unit](line.values[at])));
  const value = values.length > 1 ? t("chart.two", { first: chart.lines[0].label, a: values[0], second: chart.lines[1].label, b: values[1] }) : values[0];
  const time = weekday().format(new Date((chart.begin + at * chart.slot) * 1000));
  find("[data-field=latest]", figure).textContent = t("chart.at", { time, value });
}

function stopReading(figure) {
  delete figure.dataset.read;
  find(".cursor", figure).setAttribute("visibility", "hidden");
  const chart = drawn.get(figure);
  if (chart) find("[data-field=latest]", figure).textContent = chart.latest;
}

function watch(figure) {
  const lines = find(".lines", figure);
  const under = (event) => {
    const box = lines.getBoundingClientRect();
    read(figure, Math.floor(((event.clientX - box.left) / box.width) * Number(figure.dataset.slots)));
  };
  lines.addEventListener("pointermove", under);
  lines.addEventListener("pointerdown", under);
  lines.addEventListener("pointerleave", () => stopReading(figure));
  lines.addEventListener("blur", () => stopReading(figure));
  lines.addEventListener("keydown", (event) => {
    const slots = Number(figure.dataset.slots);
    const here = Number(figure.dataset.read ?? slots);
    const there = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: slots - 1, PageUp: here - 12, PageDown: here + 12 }[event.key];
    if (there === undefined) return;
    event.preventDefault();
    read(figure, there);
    announce(find("[data-field=latest]", figure).textContent);
  });
  lines.tabIndex = 0;
}

async function refresh(board) {
  if (document.hidden) return;
  const { charts: names, span } = board.dataset;
  try {
    const answer = await ask("GET", `/api/charts?span=${span}&names=${names}`);
    answer.charts.forEach((chart) => {
      const figure = charted(board, chart.name);
      if (figure) redraw(figure, chart, span);
    });
  } catch (error) {
    // A lost connection is told by the event stream; what is drawn stays, with its own times.
    if (!(error instanceof Refused)) throw error;
  }
}

onceShown(() => findAll("[data-charts]").forEach((board) => {
  findAll(".chart", board).forEach((figure) => { localise(figure, board.dataset.span); watch(figure); });
  refresh(board);
  // Not all pages at the same moment.
  setInterval(() => refresh(board), AGAIN + Math.random() * 5000);
  document.addEventListener("visibilitychange", () => refresh(board));
}));
