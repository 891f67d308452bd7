/* The command line of the page: offers while typing, the verdict before sending, runs that write below it.
   Rule: what is shown before sending is advice; the server judges again what it gets. */

import { isOpen, followRun, setPill } from "./output.js";
import { ask, complain, copyOf, find, findAll, setIcon, spell } from "./page.js";
import { follow } from "./live.js";
import { t } from "./text.js";

const PAUSE = 150;
const form = find("form[data-compose]");
const line = find("#line");
const cwd = find("#cwd");
const offers = find("#offers");
const verdict = find("#verdict");
const VERDICTS = { allow: "check", ask: "clock", deny: "state-parked" };
let timer = 0;
let asked = null;
let list = [];
let current = -1;
let cleaned = "";

// Offers: a combobox; the list never takes the focus.

function showOffers(found) {
  list = found;
  current = -1;
  offers.replaceChildren(...found.map((offer, index) => {
    const item = copyOf("offer");
    item.id = `offer-${index}`;
    find("[data-field=kind]", item).textContent = t(`commands.kind.${offer.kind}`);
    find("[data-field=shown]", item).append(...spell(offer.shown));
    find("[data-field=verdict]", item).textContent = offer.verdict ? t(`commands.short.${offer.verdict}`) : "";
    item.addEventListener("pointerdown", (event) => { event.preventDefault(); take(index); });
    return item;
  }));
  offers.hidden = found.length === 0;
  line.setAttribute("aria-expanded", String(found.length > 0));
  line.removeAttribute("aria-activedescendant");
}

function mark(index) {
  current = index;
  [...offers.children].forEach((item, place) => item.setAttribute("aria-selected", String(place === index)));
  offers.children[index]?.scrollIntoView({ block: "nearest" });
  if (index >= 0) line.setAttribute("aria-activedescendant", `offer-${index}`);
  else line.removeAttribute("aria-activedescendant");
}

function take(index) {
  line.value = list[index].line;
  showOffers([]);
  line.focus();
  // Offers come again with the next letter: a second Tab leaves the field.
  look(false);
}

// The verdict, while typing.

async function look(offering = true) {
  asked?.abort();
  const text = line.value;
  if (!text.trim()) {
    verdict.hidden = true;
    return showOffers([]);
  }
  asked = new AbortController();
  const { signal } = asked;
  try {
    const query = new URLSearchParams({ line: text, cwd: cwd.value });
    const [judged, { offers: found }] = await Promise.all([
      ask("POST", "/api/policy/explain", signal, { line: text, cwd: cwd.value, role: form.dataset.role }),
      ask("GET", `/api/commands/suggest?${query}`, signal),
    ]);
    if (text !== line.value) return;
    showVerdict(judged);
    if (offering && document.activeElement === line && line.selectionStart === text.length) showOffers(found);
  } catch (error) {
    if (error.name !== "AbortError" && error.status === undefined) throw error;
  }
}

function showVerdict(judged) {
  verdict.hidden = false;
  verdict.dataset.verdict = judged.verdict;
  setIcon(find(".icon", verdict), VERDICTS[judged.verdict]);
  find("[data-field=verdict]", verdict).textContent = t(`commands.verdict.${judged.verdict}`);
  find("[data-field=reason]", verdict).textContent = judged.reason;
  showWords(judged);
  const box = find("[data-field=hidden]", verdict);
  box.hidden = judged.hidden.length === 0;
  find("ul", box).replaceChildren(...judged.hidden.map((one) => {
    const item = document.createElement("li");
    item.textContent = t("commands.hidden_at", one);
    return item;
  }));
  cleaned = judged.cleaned ?? "";
  find("[data-clean]", box).hidden = !cleaned;
}

/** The words as the judge reads them, the one it stumbled over marked. */
function showWords({ stages, failure }) {
  const typed = stages.map((stage) => stage.typed);
  const box = find("[data-field=words]", verdict);
  const fits = failure && typed.length > failure.stage && typed[failure.stage].length > failure.index;
  box.hidden = !fits;
  if (!fits) return;
  box.replaceChildren(...typed.flatMap((argv, stage) => [
    ...(stage ? [code("|")] : []),
    ...argv.map((word, index) => code(word, stage === failure.stage && index === failure.index)),
  ]));
}

function code(word, bad = false) {
  const made = document.createElement("code");
  made.append(...spell(word));
  if (bad) made.dataset.bad = "";
  return made;
}

// Running.

async function propose(view) {
  const button = find("[data-default]", form);
  button.disabled = true;
  try {
    const { run } = await ask("POST", "/api/commands", undefined, { line: line.value.trim(), cwd: cwd.value.trim(), why: form.elements.why.value, view });
    if (run.state === "waiting" || view === "rehearsal") return location.assign(`/commands/${run.id}`);
    addLive(run);
    line.value = "";
    verdict.hidden = true;
    showOffers([]);
  } catch (error) {
    if (error.code === "denied" || error.code === "muted") await look();
    complain(error);
  } finally {
    button.disabled = false;
    line.focus();
  }
}

function addLive(run) {
  const section = copyOf("live-run");
  section.dataset.run = run.id;
  find("[data-field=line]", section).append(...spell(run.line));
  find("[data-field=link]", section).href = `/commands/${run.id}`;
  find("[data-field=raw]", section).href = `/api/commands/${run.id}/output`;
  setPill(find(".run-pill", section), run.state);
  const cancel = find("form[data-cancel]", section);
  cancel.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await ask("POST", `/api/commands/${run.id}/cancel`);
    } catch (error) {
      complain(error);
    }
  });
  const close = find("[data-close]", section);
  close.addEventListener("click", () => section.remove());
  find("#live-runs").prepend(section);
  while (find("#live-runs").children.length > 4) find("#live-runs").lastElementChild.remove();
  followRun(section, run.id, (now) => {
    cancel.hidden = !isOpen(now.state);
    close.hidden = isOpen(now.state);
  });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (line.value.trim()) propose(event.submitter?.value === "rehearse" ? "rehearsal" : "plain");
});
form.addEventListener("input", (event) => {
  if (event.target !== line && event.target !== cwd) return;
  clearTimeout(timer);
  timer = setTimeout(() => look(event.target === line), PAUSE);
});
line.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !offers.hidden) { event.preventDefault(); return showOffers([]); }
  if (!list.length) return;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    const last = list.length - 1;
    if (event.key === "ArrowDown") mark(current >= last ? 0 : current + 1);
    else mark(current <= 0 ? last : current - 1);
  } else if (event.key === "Tab" && !event.shiftKey && current < 0 && list[0].kind !== "recent") {
    event.preventDefault();
    take(0);
  } else if ((event.key === "Enter" || event.key === "Tab") && current >= 0) {
    event.preventDefault();
    take(current);
  }
});
line.addEventListener("blur", () => showOffers([]));
find("[data-clean]").addEventListener("click", () => {
  line.value = cleaned;
  line.focus();
  look();
});

// The history stays true: a row whose run changed shows its new state.
const rows = new Map(findAll("[data-row]").map((row) => [row.dataset.row, row]));
follow({
  runs: ({ changed }) => changed.forEach(({ id, state }) => setPill(rows.get(id) && find(".run-pill", rows.get(id)), state)),
});
if (line.value) look();
