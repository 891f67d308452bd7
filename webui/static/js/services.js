/* Services, problems and the machine's meters, kept live on Home and Machine.
   Rule: the server decides what is true and says it; this only writes it into the elements the server made. */

import { follow } from "./live.js";
import { announce, copyOf, find, findAll, setIcon } from "./page.js";
import { bytes, duration, percent, setTime, t } from "./text.js";

/** Fill one service row. Fields of a view: webui/views.py. */
function showService(view) {
  const row = find(`[data-service="${CSS.escape(view.name)}"]`);
  if (!row) return;
  const state = view.shown;
  const pill = find(".pill", row);
  if (pill.dataset.state !== state) announce(t("js.state_changed", { service: t(`service.${view.name}.name`), state: t(`state.${state}`) }));
  pill.dataset.state = state;
  setIcon(find(".icon", pill), `state-${state}`);
  find("[data-field=state]", row).textContent = t(`state.${state}`);
  setTime(find("[data-field=since]", row), view.since);
  showUse(row, view, state);
  showMore(row, view);
  findAll("form[data-action]", row).forEach((form) => { form.hidden = !view.actions.includes(form.dataset.action); });
}

function showUse(row, view, state) {
  const use = find(".service-use", row);
  use.hidden = !(view.memory_bytes > 0 && ["running", "unwell", "starting"].includes(state));
  if (use.hidden) return;
  find("[data-field=memory]", use).textContent = view.memory_limit
    ? t("machine.used_of", { used: bytes(view.memory_bytes), total: bytes(view.memory_limit) }) : bytes(view.memory_bytes);
  find("[data-field=cpu]", use).textContent = t("machine.cpu_short", { percent: percent(view.cpu_percent) });
  setMeter(find(".meter", use), view.memory_limit ? (100 * view.memory_bytes) / view.memory_limit : 0);
}

function showMore(row, view) {
  const reason = find("[data-field=reason]", row);
  reason.textContent = view.reason ?? "";
  reason.hidden = !view.reason;
  const progress = find(".service-progress", row);
  progress.hidden = !view.progress || view.progress.phase === "ready";
  if (!progress.hidden) showProgress(progress, view.progress);
  const tail = find(".tail-box", row);
  if (!tail) return;
  tail.hidden = !view.log_tail?.length || !["parked", "failed"].includes(view.shown);
  if (!tail.hidden) find(".tail", tail).textContent = view.log_tail.join("\n");
}

/** A phase in words, its bytes, and a bar that only claims to know what it knows. */
export function showProgress(box, { phase, current, total }) {
  find("[data-field=phase]", box).textContent = t(`phase.${phase}`);
  find("[data-field=amount]", box).textContent = total ? t("machine.used_of", { used: bytes(current), total: bytes(total) }) : "";
  const bar = find("progress", box);
  if (total) {
    bar.max = total;
    bar.value = current;
  } else bar.removeAttribute("value");
}

function showProblems(problems) {
  const box = document.getElementById("problems");
  if (!box) return;
  const key = JSON.stringify(problems);
  if (box.dataset.shown === key) return;
  box.dataset.shown = key;
  const items = problems.map((problem) => {
    const item = copyOf("problem");
    item.dataset.severity = problem.severity;
    setIcon(find(".icon", item), { error: "state-failed", warning: "state-unwell" }[problem.severity] ?? "info");
    const [service, log] = [find("[data-field=service]", item), find(".problem-action", item)];
    service.hidden = !problem.service;
    if (problem.service) service.textContent = t(`service.${problem.service}.name`);
    if (log) log.hidden = !problem.service;
    if (log && problem.service) log.href = `/machine/logs/${problem.service}`;
    for (const part of ["title", "why", "next"]) {
      find(`[data-field=${part}]`, item).textContent = problem[part];
    }
    return item;
  });
  find("[data-list]", box).replaceChildren(...items);
  box.hidden = !items.length;
}

function setMeter(svg, value) {
  const share = Math.min(100, Math.max(0, value));
  svg.dataset.level = share >= 95 ? "bad" : share >= 85 ? "warn" : "ok";
  svg.firstElementChild.setAttribute("width", share.toFixed(1));
}

function showMachine(machine) {
  const gauge = (name, value, text) => {
    const box = find(`[data-gauge=${name}]`);
    if (!box || value == null) return;
    find("dd", box).textContent = text;
    setMeter(find(".meter", box), value);
  };
  const part = (name) => {
    const [used, total] = [machine[`${name}_used`], machine[`${name}_total`]];
    gauge(name, total ? (100 * used) / total : 0, t("machine.used_of", { used: bytes(used), total: bytes(total) }));
  };
  gauge("cpu", machine.cpu_percent, percent(machine.cpu_percent));
  ["memory", "swap", "disk"].forEach(part);
  findAll("[data-field=uptime]").forEach((element) => { element.textContent = duration(machine.uptime); });
  findAll("[data-field=load]").forEach((element) => { element.textContent = machine.load.toFixed(2); });
}

function show(event) {
  event.services?.forEach(showService);
  if (event.problems) showProblems(event.problems);
  const summary = document.getElementById("summary");
  if (summary && event.summary) summary.textContent = event.summary;
}

document.addEventListener("croft:done", (event) => show(event.detail));
follow({ services: show, telemetry: showMachine });
