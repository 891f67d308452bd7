/* Approval cards: deciding without leaving the page, countdowns, and what was decided elsewhere.
   Rule: a decision sends the hash of the card it stands on; a card that is over can decide nothing more. */

import { follow } from "./live.js";
import { announce, ask, complain, find, findAll, toast } from "./page.js";
import { duration, t } from "./text.js";

const cards = () => findAll("[data-approval]");
const open = () => cards().filter((card) => !card.dataset.over);

/** What became of a card: buttons go, words stay. */
function settle(card, run) {
  card.dataset.over = run.state;
  find(".approval-foot", card)?.remove();
  const left = find("[data-field=left]", card);
  const key = { denied: "approvals.was_denied", expired: "approvals.was_expired", cancelled: "approvals.was_withdrawn" }[run.state] ?? "approvals.was_approved";
  left.textContent = t(key, { name: run.approved_by ?? "" });
  left.parentElement.removeAttribute("data-expires");
  const link = document.createElement("a");
  link.href = `/commands/${run.id}`;
  link.className = "button approval-look";
  link.textContent = t("approvals.look");
  card.append(link);
  announce(left.textContent);
}

async function decide(form) {
  const card = form.closest("[data-approval]");
  const id = card.dataset.approval;
  const how = form.dataset.decide;
  const body = how === "deny" ? {} : { hash: card.dataset.hash };
  if (how === "lease") body.lease = { runs: Number(form.elements.runs.value), minutes: Number(form.elements.minutes.value) };
  const buttons = findAll(".approval-foot button", card);
  buttons.forEach((button) => { button.disabled = true; });
  try {
    const { run } = await ask("POST", `/api/commands/${id}/${how === "deny" ? "deny" : "approve"}`, undefined, body);
    settle(card, run);
    // In a conversation what becomes of it takes the card's place.
    (card.closest("[data-chat]") ? announce : toast)(t(how === "deny" ? "approvals.done_deny" : "approvals.done_approve"));
    card.dispatchEvent(new CustomEvent("croft:decided", { bubbles: true, detail: run }));
  } catch (error) {
    buttons.forEach((button) => { button.disabled = false; });
    complain(error);
    look();
  }
}

/** Look again at every card that still waits here. */
async function look(onChange = () => {}, onNew = () => {}) {
  try {
    const { runs } = await ask("GET", "/api/approvals");
    const waiting = new Set(runs.map((run) => run.id));
    for (const card of open().filter((each) => !waiting.has(each.dataset.approval))) {
      const { run } = await ask("GET", `/api/commands/${card.dataset.approval}`);
      if (run.state === "waiting" || card.dataset.over) continue;
      settle(card, run);
      onChange(run);
    }
    const known = new Set(cards().map((card) => card.dataset.approval));
    if (runs.some((run) => !known.has(run.id))) onNew();
    document.dispatchEvent(new CustomEvent("croft:waiting", { detail: runs.length }));
  } catch (error) {
    if (error.status === undefined) throw error;
  }
}

/** The same, once, for a page that hears of decisions over a stream of its own. */
export const lookAgain = (onChange) => look(onChange);

/** Keep the cards of this page true. `onChange` hears of each that was decided elsewhere, `onNew` of questions not shown here. */
export function watchApprovals(onChange = () => {}, onNew = () => {}) {
  follow({ approvals: () => look(onChange, onNew) });
}

function countDown() {
  // Cards that come later count from when they are first seen.
  const begin = () => findAll("[data-expires]:not([data-until])").forEach((item) => { item.dataset.until = performance.now() + Number(item.dataset.expires) * 1000; });
  begin();
  document.addEventListener("croft:card", begin);
  setInterval(() => findAll("[data-expires]").forEach((item) => {
    const seconds = Math.max(0, (Number(item.dataset.until) - performance.now()) / 1000);
    find("[data-field=left]", item).textContent = t("approvals.left", { time: duration(seconds) });
    if (!seconds && item.closest("[data-lease]")) item.closest("[data-lease]").remove();
  }), 1000);
}

document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-decide]");
  if (!form) return;
  event.preventDefault();
  decide(form);
});
countDown();
