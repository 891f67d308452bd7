/* What every page does once scripts run: forms without reloading, times that stay true, copy buttons, menus, the palette.
   Rule: everything here improves something that already works without it. */

// The server puts these in their places (webui/assets.py), so that a browser asks once for what every page needs.
export * from "./text.js";
export * from "./page.js";
export * from "./live.js";
export * from "./palette.js";
import { follow } from "./live.js";
import { announce, ask, complain, confirmed, copyText, find, findAll, onceShown, toast } from "./page.js";
import { openPalette, watchKeys } from "./palette.js";
import { setTime, t } from "./text.js";

const TICK = 20_000;

function keepTimesTrue() {
  const tick = () => findAll("time[data-ago]").forEach((element) => setTime(element, Number(element.dataset.ago)));
  onceShown(tick); // the page came with its times right, in UTC
  setInterval(tick, TICK);
  document.addEventListener("visibilitychange", () => document.hidden || tick());
}

/** A form with data-api is sent to the API instead; data-ask holds the question to answer first. */
async function send(form) {
  const { api, method = "POST", done, ask: question, askDetail = "", askVerb = "" } = form.dataset;
  if (question && !(await confirmed(question, askDetail, askVerb))) return;
  const button = find("button", form);
  button.setAttribute("aria-busy", "true");
  try {
    const answer = await ask(method, api);
    if (done) toast(done);
    form.dispatchEvent(new CustomEvent("croft:done", { bubbles: true, detail: answer }));
  } catch (error) {
    complain(error);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

/** How many commands wait for a decision, beside their place in the rail; there for whoever may decide. */
function showUndecided({ undecided, words }) {
  const badge = document.getElementById("undecided");
  const [count, said] = badge.children;
  const before = badge.hidden ? 0 : Number(badge.dataset.count);
  badge.hidden = !undecided;
  badge.dataset.count = undecided;
  count.textContent = undecided > 99 ? "99+" : undecided;
  said.textContent = words;
  if (undecided > before) announce(words);
}

const answered = new WeakSet();

/** A plain form with a question is sent once it is answered. */
async function askFirst(form, submitter) {
  const { ask: question, askDetail = "", askVerb = "" } = form.dataset;
  if (!(await confirmed(question, askDetail, askVerb))) return;
  answered.add(form);
  form.requestSubmit(submitter);
}

document.addEventListener("submit", (event) => {
  if (event.target.matches("form[data-ask]:not([data-api])") && !answered.delete(event.target)) {
    event.preventDefault();
    askFirst(event.target, event.submitter);
  }
  if (!event.target.matches("form[data-api]")) return;
  event.preventDefault();
  if (find("[aria-busy]", event.target)) return;
  send(event.target);
});

document.addEventListener("click", (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) copyText(copy.dataset.copy, copy).catch(() => toast(t("js.copy_failed"), "bad"));
  event.target.closest("dialog [data-close]")?.closest("dialog").close();
  if (event.target.closest("[data-open=palette]")) openPalette();
  if (event.target.closest("[data-open=keys]")) document.getElementById("keys").showModal();
  const menu = find(".person[open]");
  if (menu && !menu.contains(event.target)) menu.open = false;
});

document.addEventListener("keydown", (event) => {
  const menu = find(".person[open]");
  if (event.key !== "Escape" || !menu) return;
  menu.open = false;
  find("summary", menu).focus();
});

findAll("dialog").forEach((dialog) =>
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()));

// A session that ended elsewhere must not come back out of the browser's page cache.
addEventListener("pageshow", (event) => event.persisted && location.reload());

findAll("[data-needs-scripts]").forEach((element) => { element.hidden = false; });
keepTimesTrue();
watchKeys();
if (document.getElementById("undecided")) follow({ approvals: showUndecided });
