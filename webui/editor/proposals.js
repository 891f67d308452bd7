"use strict";
/* Larger changes: shown as a difference, several at once, each accepted or rejected by the person in this window or on Croft's page.

   Rule: until somebody accepts, nothing of the file changes; accepting makes the file what the right side shows by then, and
   saves it. */

const path = require("node:path");
const vscode = require("vscode");
const { Drafts, SCHEME } = require("./drafts");
const { Failed, isFile } = require("./edits");
const { t } = require("./words");

const WAITING_MAX = 20;
const NOTHING = "nothing"; // the left side of a file that is new

class Proposals {
  /** `decided(id, state)` is called once for each: "accepted", "rejected", "closed" (its tab was) or "failed". */
  constructor(decided) {
    this.decided = decided;
    this.waiting = new Map();
    this.drafts = new Drafts();
    this.parts = [
      this.drafts,
      vscode.window.tabGroups.onDidChangeTabs(({ closed }) => closed.forEach((tab) => this.tabClosed(tab))),
    ];
    this.entries = [entry("accept", "check", 1001), entry("reject", "close", 1000)];
    this.count();
    // What a window had open before it was loaded again is nobody's any more.
    vscode.window.tabGroups.close(this.tabs(() => true)).then(undefined, () => {});
  }

  /** Show what `text` would make of the file at `file` (absolute). */
  async show(id, file, text) {
    if (this.waiting.size >= WAITING_MAX) throw new Failed("too_many");
    const uri = vscode.Uri.file(file);
    this.waiting.set(id, { uri, exists: await isFile(uri), name: path.basename(file) });
    this.drafts.make(id, uri, text);
    this.count();
    try {
      await this.reveal(id);
    } catch {
      this.forget(id);
      throw new Failed("unreadable");
    }
    return {};
  }

  async reveal(id) {
    const { uri, exists, name } = this.waiting.get(id);
    const left = exists ? uri : this.drafts.make(NOTHING, uri, "");
    const title = t("proposal.title", name);
    await vscode.commands.executeCommand("vscode.diff", left, Drafts.uri(id, uri), title, { preview: false });
  }

  /** Accept or reject one. It is over afterwards, whatever came of it. */
  async decide(id, accept) {
    const proposal = this.waiting.get(id);
    if (!proposal) throw new Failed("not_found");
    const text = this.drafts.text(id);
    await this.forget(id);
    const done = !accept || (await apply(proposal, text));
    if (!done) vscode.window.showErrorMessage(t("proposal.failed", proposal.name));
    const state = !accept ? "rejected" : done ? "accepted" : "failed";
    this.decided(id, state);
    await vscode.window.tabGroups.close(this.tabs((found) => found === id)).then(undefined, () => {});
    return { state };
  }

  async decideAll(accept) {
    for (const id of [...this.waiting.keys()]) await this.decide(id, accept);
  }

  /** Accept or reject the one in front. Where another tab is, the last one is only brought there: nobody decides unseen. */
  async decideFront(accept) {
    const shown = idOf(vscode.window.tabGroups.activeTabGroup.activeTab);
    if (this.waiting.has(shown)) await this.decide(shown, accept);
    else if (this.waiting.size) await this.reveal([...this.waiting.keys()].at(-1));
    else vscode.window.showInformationMessage(t("proposal.none"));
  }

  tabs(wanted) {
    const all = vscode.window.tabGroups.all.flatMap((group) => group.tabs);
    return all.filter((tab) => idOf(tab) !== undefined && wanted(idOf(tab)));
  }

  tabClosed(tab) {
    const id = idOf(tab);
    if (!this.waiting.has(id) || this.tabs((found) => found === id).length) return;
    this.forget(id);
    this.decided(id, "closed");
  }

  async forget(id) {
    this.waiting.delete(id);
    this.count();
    await this.drafts.forget(id);
  }

  count() {
    vscode.commands.executeCommand("setContext", "croft.proposals", this.waiting.size);
    for (const { item, icon, word } of this.entries) {
      item.text = `$(${icon}) ${t(word)}`;
      item.tooltip = t("proposal.waiting", this.waiting.size);
      if (this.waiting.size) item.show();
      else item.hide();
    }
  }

  dispose() {
    [...this.parts, ...this.entries.map(({ item }) => item)].forEach((part) => part.dispose());
  }
}

/** A place in the status bar, there while proposals wait. */
function entry(act, icon, priority) {
  const item = vscode.window.createStatusBarItem(`croft.${act}`, vscode.StatusBarAlignment.Left, priority);
  item.name = `Croft: ${act}`;
  item.command = `croft.${act}Proposal`;
  item.backgroundColor = new vscode.ThemeColor("statusBarItem.warningBackground");
  return { item, icon, word: `proposal.${act}` };
}

/** The id of the proposal in a tab; undefined for other tabs. */
function idOf(tab) {
  const shown = tab?.input instanceof vscode.TabInputTextDiff ? tab.input.modified : undefined;
  return shown?.scheme === SCHEME ? shown.query : undefined;
}

/** Make the file what was proposed, and save it. Says whether it is saved. */
async function apply({ uri, exists }, text) {
  const change = new vscode.WorkspaceEdit();
  try {
    if (!exists) {
      change.createFile(uri, { contents: Buffer.from(text), overwrite: false });
      return await vscode.workspace.applyEdit(change);
    }
    const document = await vscode.workspace.openTextDocument(uri);
    const { from, to, middle } = difference(document.getText(), text);
    change.replace(uri, new vscode.Range(document.positionAt(from), document.positionAt(to)), middle);
    return (await vscode.workspace.applyEdit(change)) && (await document.save());
  } catch {
    return false; // gone meanwhile, or not this account's to write
  }
}

/** Where two texts differ: what is equal at both ends stays, and with it cursors, folds and marks there. */
function difference(before, after) {
  const shorter = Math.min(before.length, after.length);
  let from = 0;
  while (from < shorter && before[from] === after[from]) from += 1;
  let end = 0;
  while (end < shorter - from && before.at(-1 - end) === after.at(-1 - end)) end += 1;
  return { from, to: before.length - end, middle: after.slice(from, after.length - end) };
}

module.exports = { Proposals };
