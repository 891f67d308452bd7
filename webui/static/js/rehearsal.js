/* What a rehearsal changed: the list with how each change reads, and merging, discarding or taking it back.
   Rule: merging names the digest of the list on the page; paths and texts are shown as text. */

import { follow } from "./live.js";
import { ask, complain, confirmed, copyOf, find, findAll, spell } from "./page.js";
import { t } from "./text.js";

const box = find("[data-rehearsal]");
const base = `/api/commands/${box.dataset.rehearsal}`;
let shown = "";
let digest = "";

function row(change) {
  const item = copyOf("change");
  const what = find("[data-field=what]", item);
  what.dataset.what = change.what;
  what.textContent = t(`changes.${change.what}`);
  find("[data-field=path]", item).append(...spell(change.path));
  if (change.stale) find("[data-field=stale]", item).textContent = t("changes.stale");
  find("details", item).addEventListener("toggle", (event) => event.target.open && read(item, change.path), { once: true });
  return item;
}

async function read(item, path) {
  const pre = find("[data-field=diff]", item);
  try {
    const { diff } = await ask("GET", `${base}/changes/diff?${new URLSearchParams({ path })}`);
    if (diff.kind !== "text") pre.textContent = t(`changes.kind.${diff.kind}`);
    else pre.replaceChildren(...diff.text.split("\n").map(line));
    if (diff.truncated) pre.append(t("changes.truncated"));
  } catch (error) {
    complain(error);
  }
}

function line(text, number) {
  const made = document.createElement("span");
  // The first two name the file, as "---" and "+++".
  made.dataset.sign = number < 2 ? "place" : { "+": "add", "-": "cut", "@": "place" }[text[0]] ?? "same";
  made.append(...spell(text), "\n");
  return made;
}

function show(one) {
  digest = one.digest ?? "";
  find("[data-field=message]", box).textContent = one.message;
  const key = `${one.state} ${digest}`;
  if (key !== shown) find(".changes", box).replaceChildren(...one.changes.map(row));
  shown = key;
  find("[data-field=more]", box).hidden = !one.more;
  const can = { apply: one.applicable, discard: one.state === "ready", undo: one.can_undo };
  findAll("[data-act]", box).forEach((button) => { button.hidden = !can[button.dataset.act]; });
  find("[data-field=acts]", box).hidden = !Object.values(can).some(Boolean);
}

async function look() {
  try {
    show((await ask("GET", `${base}/changes`)).rehearsal);
  } catch (error) {
    if (error.status === undefined) throw error;
    find("[data-field=message]", box).textContent = error.message;
  }
}

async function act(button) {
  const { act: name, ask: question, detail } = button.dataset;
  if (question && !(await confirmed(question, detail, button.textContent.trim()))) return;
  button.disabled = true;
  try {
    show((await ask("POST", `${base}/${name}`, undefined, name === "apply" ? { digest } : {})).rehearsal);
  } catch (error) {
    complain(error);
    look();
  } finally {
    button.disabled = false;
  }
}

findAll("[data-act]", box).forEach((button) => button.addEventListener("click", () => act(button)));
follow({ runs: look });
