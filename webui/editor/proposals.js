"use strict";
/* Larger changes: shown as a difference, several at once, each accepted or rejected by the person in this window or on Croft's page.

   Rule: until somebody accepts, nothing of the file changes; accepting makes the file what the right side shows, and saves it. */

const path = require("node:path");
const vscode = require("vscode");
const { Failed, isFile } = require("./edits");
const { t } = require("./words");

const SCHEME = "croft-proposal";
const WAITING_MAX = 20;

class Proposals {
  /** `decided(id, state)` is called once for each: "accepted", "rejected", "closed" (its tab was) or "failed". */
  constructor(decided) {
    this.decided = decided;
    this.waiting = new Map();
    this.parts = [
      vscode.workspace.registerTextDocumentContentProvider(SCHEME, { provideTextDocumentContent: (uri) => this.text(uri) }),
      vscode.window.tabGroups.onDidChangeTabs(({ closed }) => closed.forEach((tab) => this.tabClosed(tab))),
    ];
    this.count();
    // What a window had open before it was loaded again is nobody's any more.
    vscode.window.tabGroups.close(this.tabs(() => true)).then(undefined, () => {});
  }

  /** Show what `text` would make of the file at `file` (absolute). */
  async show(id, file, text) {
    if (this.waiting.size >= WAITING_MAX) throw new Failed("too_many");
    const uri = vscode.Uri.file(file);
    const exists = await isFile(uri);
    const name = path.basename(file);
    this.waiting.set(id, { uri, text, exists, name });
    this.count();
    try {
      const left = exists ? uri : virtual(uri, `${id}-nothing`);
      await vscode.commands.executeCommand("vscode.diff", left, virtual(uri, id), t("proposal.title", name), { preview: false });
    } catch {
      this.forget(id);
      throw new Failed("unreadable");
    }
    this.question(id, name, exists);
    return {};
  }

  async question(id, name, exists) {
    const [accept, reject] = [t("proposal.accept"), t("proposal.reject")];
    const said = t(exists ? "proposal.question" : "proposal.new", name);
    const chosen = await vscode.window.showInformationMessage(said, accept, reject);
    if (chosen && this.waiting.has(id)) await this.decide(id, chosen === accept);
  }

  /** Accept or reject one. It is over afterwards, whatever came of it. */
  async decide(id, accept) {
    const proposal = this.waiting.get(id);
    if (!proposal) throw new Failed("not_found");
    this.forget(id);
    const done = !accept || (await apply(proposal));
    if (!done) vscode.window.showErrorMessage(t("proposal.failed", proposal.name));
    const state = !accept ? "rejected" : done ? "accepted" : "failed";
    this.decided(id, state);
    await vscode.window.tabGroups.close(this.tabs((found) => found === id)).then(undefined, () => {});
    return { state };
  }

  async decideAll(accept) {
    for (const id of [...this.waiting.keys()]) await this.decide(id, accept);
  }

  /** The proposal in front, the only one there is, or undefined. */
  current() {
    const shown = idOf(vscode.window.tabGroups.activeTabGroup.activeTab);
    if (this.waiting.has(shown)) return shown;
    return this.waiting.size === 1 ? [...this.waiting.keys()][0] : undefined;
  }

  text(uri) {
    return this.waiting.get(uri.query)?.text ?? "";
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

  forget(id) {
    this.waiting.delete(id);
    this.count();
  }

  count() {
    vscode.commands.executeCommand("setContext", "croft.proposals", this.waiting.size);
  }

  dispose() {
    this.parts.forEach((part) => part.dispose());
  }
}

/** The id of the proposal in a tab; undefined for other tabs. */
function idOf(tab) {
  const shown = tab?.input instanceof vscode.TabInputTextDiff ? tab.input.modified : undefined;
  return shown?.scheme === SCHEME ? shown.query : undefined;
}

/** The same path, so that the language is known by the file's name. */
function virtual(uri, id) {
  return vscode.Uri.from({ scheme: SCHEME, path: uri.path, query: id });
}

/** Make the file what was proposed, and save it. Says whether it is saved. */
async function apply({ uri, text, exists }) {
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
