/* What can be done with a turn and its code: copy, insert, save, run, other versions, and decisions on what was proposed.
   Rule: nothing here runs or writes; a command goes through /api/commands, a file through a difference that a person accepts. */

import { commandsOf, nameFor } from "./blocks.js";
import { ask, complain, copyOf, copyText, find, findAll, spell, toast } from "./page.js";
import { decideWrite, showProposal, showRun } from "./proposals.js";
import { t } from "./text.js";

const OUTPUT_MOST = 20_000;

/** Make the buttons of `chat` work. `editor` is the bridge to the editor's window (editor.js). */
export function watchActs(chat, editor) {
  const acts = {
    starter: (button) => start(chat, button.textContent.trim()),
    copy: (button) => copyText(codeOf(button), button),
    insert: (button) => editor.insert(codeOf(button)),
    save: (button) => save(chat, editor, button),
    run: (button) => run(chat, button),
    "run-line": (button) => runLine(chat, button.closest(".block"), button.dataset.line),
    "about-output": (button) => aboutOutput(chat, button),
    "copy-said": (button) => copyText(find("[data-field=said]", button.closest(".turn")).textContent, button),
    "copy-answer": (button) => copyText(answerOf(button.closest(".turn")), button),
    edit: (button) => edit(chat, button.closest(".turn")),
    again: (button) => chat.regenerate(button.closest(".turn").dataset.message),
    regenerate: (button) => chat.regenerate(button.closest(".turn").dataset.message),
    branch: (button) => chat.branch(button.dataset.to),
    accept: (button) => decideWrite(button.closest("[data-proposal]"), chat.id, "accept"),
    reject: (button) => decideWrite(button.closest("[data-proposal]"), chat.id, "reject"),
    "open-diff": (button) => editor.openProposal(chat.id, button.closest("[data-proposal]").dataset.proposal),
  };
  chat.root.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-do]");
    const place = event.target.closest("[data-path]");
    if (place && chat.root.dataset.editor === "yes") return editor.open(place.dataset.path, Number(place.dataset.line) || 1);
    if (!button || !acts[button.dataset.do]) return;
    try {
      await acts[button.dataset.do](button);
    } catch (error) {
      if (error.name === "NotAllowedError") toast(t("js.copy_failed"), "bad");
      else complain(error);
    }
  });
  // A place in a file is a link made of words: it has no address that Enter would follow.
  chat.root.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target.matches("[data-path]")) event.target.click(); });
  chat.root.addEventListener("croft:decided", ({ target, detail: run }) => {
    const box = target.closest("[data-proposal]");
    if (box) showRun(box, run.id);
  });
  chat.root.addEventListener("croft:over", ({ target, detail: run }) => ended(target, run));
}

const codeOf = (button) => button.closest(".block").dataset.code;

/** A question to begin with, about what the assistant can only look at with tools; the person sends it. */
function start(chat, text) {
  chat.composer.useTools(true);
  chat.composer.write(text);
  chat.composer.focus();
}

/** All of an answer as text: code as it is, prose as it reads. */
const answerOf = (turn) => findAll("[data-field=blocks] > .block", turn)
  .map((block) => (block.classList.contains("code") ? `\`\`\`${block.dataset.lang}\n${block.dataset.code}\`\`\`` : block.innerText.trim())).join("\n\n");

async function save(chat, editor, button) {
  const block = button.closest(".block");
  const path = await pathFor(nameFor(block.dataset.code, block.dataset.lang));
  if (!path) return;
  const turn = block.closest(".turn");
  const { proposal } = await ask("POST", `/api/conversations/${chat.id}/proposals`, undefined, { message: turn.dataset.message, path, text: block.dataset.code });
  const box = besideBlock(block, showProposal(turn, proposal));
  find("[data-do=accept]", box)?.focus();
  if (chat.root.dataset.editor !== "yes") return;
  await editor.openProposal(chat.id, proposal.id);
  toast(t("chat.saved_to_editor", { path }));
}

/** What comes of a block stands below it, until the page is read again. */
function besideBlock(block, box) {
  block.after(box);
  box.scrollIntoView({ block: "nearest" });
  return box;
}

function pathFor(suggested) {
  const dialog = document.getElementById("save-as");
  const field = find("input", dialog);
  field.value = suggested;
  dialog.returnValue = "";
  dialog.showModal();
  field.select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? field.value.trim() : ""), { once: true });
  });
}

/** One command runs at once, as far as the policy lets it; of several the person chooses. */
function run(chat, button) {
  const block = button.closest(".block");
  const lines = commandsOf(block.dataset.code);
  if (lines.length === 1) return runLine(chat, block, lines[0]);
  const shown = find(".shell-lines", block);
  if (shown) return shown.remove();
  const list = copyOf("shell-lines");
  list.append(...lines.map((line) => {
    const item = copyOf("shell-line");
    find("code", item).append(...spell(line));
    find("button", item).dataset.line = line;
    return item;
  }));
  block.append(list);
  return undefined;
}

/** A line that the model wrote is asked for as the assistant's, whoever picks it. */
async function runLine(chat, block, line) {
  const turn = block.closest(".turn");
  const { proposal } = await ask("POST", `/api/conversations/${chat.id}/commands`, undefined, { message: turn.dataset.message, line });
  besideBlock(block, showProposal(turn, proposal));
}

/** A line that the person picked has ended: nobody told the model, so its output may go into the next question. */
function ended(box, over) {
  if (box.dataset.picked !== "yes" || find(".run-after", box) || !over.bytes) return;
  const row = copyOf("run-after");
  Object.assign(find("button", row).dataset, { run: over.id, line: over.line });
  box.append(row);
}

async function aboutOutput(chat, button) {
  const answer = await fetch(`/api/commands/${button.dataset.run}/output`, { cache: "no-store" });
  if (!answer.ok) return toast(t("js.unreachable"), "bad");
  const text = (await answer.text()).trimEnd();
  chat.composer.addChips([{ kind: "output", path: button.dataset.line, text: text.slice(-OUTPUT_MOST), tokens: 0 }]);
  chat.composer.focus();
}

function edit(chat, turn) {
  if (find(".edit-said", turn)) return;
  const said = find("[data-field=said]", turn);
  const form = copyOf("edit-said");
  const field = find("textarea", form);
  const sent = find(".chips", turn);
  const without = [];
  field.value = said.textContent;
  if (sent) goAgain(sent, find("[data-field=chips]", form), without);
  const hide = (hidden) => [said, sent].forEach((each) => { if (each) each.hidden = hidden; });
  hide(true);
  said.after(form);
  const close = () => { form.remove(); hide(false); };
  find("[data-cancel-edit]", form).addEventListener("click", close);
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.preventDefault(); close(); find("[data-do=edit]", turn).focus(); }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (text) await chat.rewrite(turn, text, without);
  });
  field.focus();
}

/** What went along goes along again, unless it is taken away: then its place is in `without`. */
function goAgain(sent, list, without) {
  findAll(".chip", sent).forEach((chip, place) => {
    const item = copyOf("chip");
    find(".icon", item).replaceWith(find(".icon", chip).cloneNode(true));
    find("[data-field=label]", item).replaceWith(find(".clip", chip).cloneNode(true));
    find("[data-remove]", item).addEventListener("click", () => {
      without.push(place);
      item.remove();
      list.hidden = !list.children.length;
    });
    list.append(item);
  });
  list.hidden = false;
}
