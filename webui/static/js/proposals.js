/* What the assistant asks for: a command with its approval card and its run, a file with its difference.
   Rule: cards are the ones the server draws for the Commands pages; what runs or is written is decided there, never here (AI-1, AI-4). */

import { followRun, isOpen } from "./output.js";
import { Refused, announce, ask, complain, copyOf, find, spell } from "./page.js";
import { t } from "./text.js";

const SIGNS = { "+": "add", "-": "cut", "@": "place" };

/** Another of our pages, as the server draws it: read as a document, in which nothing runs. */
export function pageAt(path) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", path);
    request.setRequestHeader("Accept", "text/html");
    request.responseType = "document";
    request.addEventListener("load", () => {
      if (request.status === 200 && request.response) resolve(request.response);
      else reject(new Refused(request.status, t(request.status === 401 ? "js.signed_out" : "js.unreachable")));
    });
    request.addEventListener("error", () => reject(new Refused(0, t("js.unreachable"))));
    request.send();
  });
}

/** The part of it that `selector` names. */
export async function piece(path, selector) {
  const found = find(selector, await pageAt(path));
  if (!found) throw new Refused(0, t("js.unreachable"));
  return document.adoptNode(found);
}

/** Put run `id` into `box`: its question while it waits, then what it writes. The event `croft:over` brings its end. */
export async function showRun(box, id) {
  let run;
  try {
    ({ run } = await ask("GET", `/api/commands/${id}`));
    const card = await piece(`/commands/${id}`, run.state === "waiting" ? "[data-approval]" : "[data-run]");
    box.replaceChildren(card);
    box.dataset.runState = run.state;
    if (run.state === "waiting") {
      card.dispatchEvent(new CustomEvent("croft:card", { bubbles: true }));
      return;
    }
  } catch (error) {
    if (!run) box.replaceChildren();
    return complain(error);
  }
  if (isOpen(run.state)) follow(box, id);
  else over(box, run);
}

const over = (box, run) => box.dispatchEvent(new CustomEvent("croft:over", { bubbles: true, detail: run }));

function follow(box, id) {
  const section = find("[data-run]", box);
  // The run's page has this only for a run that has begun to write.
  if (!find(".run-lines", section)) return;
  followRun(section, id, (run) => {
    box.dataset.runState = run.state;
    if (!isOpen(run.state)) over(box, run);
  });
}

/** Show a proposal of the stream in the answer `turn`; one that is there already is brought up to date. */
export function showProposal(turn, proposal) {
  let box = find(`[data-proposal="${CSS.escape(proposal.id)}"]`, turn);
  const fresh = !box;
  box ??= copyOf(`proposal-${proposal.kind}`);
  box.dataset.proposal = proposal.id;
  box.dataset.state = proposal.state;
  if (proposal.run) Object.assign(box.dataset, { run: proposal.run, picked: proposal.picked ? "yes" : "no" });
  if (fresh) find("[data-field=proposals]", turn).append(box);
  if (proposal.kind === "command") {
    if (fresh) showRun(box, box.dataset.run);
  } else {
    drawWrite(box, proposal, fresh);
  }
  return box;
}

function drawWrite(box, { path, diff, state, new: added, run_by: runBy, tainted }, fresh) {
  find("[data-field=state]", box).textContent = t(`chat.write_${state}`);
  box.dataset.state = state;
  if (!fresh) return;
  const pill = find("[data-what]", box);
  pill.dataset.what = added ? "added" : "changed";
  pill.textContent = t(`changes.${pill.dataset.what}`);
  find(".path", box).replaceChildren(...spell(path));
  find("[data-field=run-by]", box).hidden = !runBy;
  if (runBy) find("[data-field=run-by-words]", box).textContent = t(`chat.run_by.${runBy}`);
  find("[data-field=tainted]", box).hidden = !tainted;
  const lines = (diff ?? "").trimEnd().split("\n");
  find("[data-field=diff]", box).replaceChildren(...lines.filter((text, at) => at > 1 || !/^(---|\+\+\+) /.test(text)).map(line));
}

function line(text) {
  const made = document.createElement("span");
  made.dataset.sign = SIGNS[text[0]] ?? "same";
  made.append(...spell(text), "\n");
  return made;
}

/** Accept or reject a file that the assistant wrote. */
export async function decideWrite(box, conversation, how) {
  const buttons = box.querySelectorAll("button");
  buttons.forEach((button) => { button.disabled = true; });
  try {
    const { proposal } = await ask("POST", `/api/conversations/${conversation}/proposals/${box.dataset.proposal}/${how}`, undefined, {});
    drawWrite(box, proposal, false);
    // The card itself shows it.
    announce(t(how === "accept" ? "chat.accepted" : "chat.rejected", { path: proposal.path ?? "" }));
  } catch (error) {
    complain(error);
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
  }
}
