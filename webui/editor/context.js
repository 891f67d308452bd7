"use strict";
/* What this window shows: a little of it all the time (names and counts), texts only when Croft asks for them.

   Rule: texts are cut here, around where the person is, so that what is sent is bounded whatever is open. */

const vscode = require("vscode");

const TEXT_MAX = 64 * 1024; // characters of one chip; JSON may make six bytes of one
const NAMES_MAX = 2000;
const PROBLEMS_MAX = 50;
const HIDDEN = "{**/node_modules/**,**/.git/**,**/.venv/**,**/__pycache__/**}";
const SEVERITIES = ["error", "warning", "info", "hint"];

/** The editor a person works in. An output channel or a proposal is none. */
function workingEditor() {
  const shown = [vscode.window.activeTextEditor, ...vscode.window.visibleTextEditors];
  return shown.find((editor) => editor && ["file", "untitled"].includes(editor.document.uri.scheme));
}

/** Where a document is: beneath Croft's workspace by its relative path, elsewhere by its whole one, unsaved by its name. */
function placeOf(document, root) {
  const path = document.uri.fsPath;
  return root && path.startsWith(`${root}/`) ? path.slice(root.length + 1) : path;
}

/** The light state that pages follow live. */
function state(root) {
  const editor = workingEditor();
  const told = { type: "state", focused: vscode.window.state.focused, file: null };
  if (!editor) return told;
  const { document, selection } = editor;
  const found = vscode.languages.getDiagnostics(document.uri);
  told.file = {
    path: placeOf(document, root).slice(0, 4096),
    language: document.languageId,
    lines: document.lineCount,
    dirty: document.isDirty,
    line: selection.active.line + 1,
    selected: document.offsetAt(selection.end) - document.offsetAt(selection.start),
    errors: found.filter((each) => each.severity === 0).length,
    warnings: found.filter((each) => each.severity === 1).length,
  };
  return told;
}

/** A chip for each of `kinds` that there is something for. */
async function chips(kinds, root) {
  const made = [];
  for (const kind of kinds) {
    const chip = await GATHER[kind]?.(workingEditor(), root);
    if (chip) made.push({ kind, ...chip });
  }
  return made;
}

const GATHER = {
  file(editor, root) {
    if (!editor) return null;
    const { document, selection } = editor;
    return { ...about(document, root), ...around(document.getText(), document.offsetAt(selection.active)), from: 1, to: document.lineCount };
  },
  selection(editor, root) {
    if (!editor || editor.selection.isEmpty) return null;
    const { document, selection } = editor;
    return { ...about(document, root), ...around(document.getText(selection), 0), from: selection.start.line + 1, to: selection.end.line + 1 };
  },
  diagnostics(editor, root) {
    const found = editor ? vscode.languages.getDiagnostics(editor.document.uri) : [];
    if (!found.length) return null;
    const lines = found.slice(0, PROBLEMS_MAX).map(
      ({ range, severity, message, source }) =>
        `${range.start.line + 1}:${range.start.character + 1} ${SEVERITIES[severity]} ${message.replace(/\s+/g, " ")}${source ? ` [${source}]` : ""}`,
    );
    return { ...about(editor.document, root), ...around(lines.join("\n"), 0), truncated: found.length > PROBLEMS_MAX };
  },
  async names(_editor, root) {
    const found = await vscode.workspace.findFiles("**/*", HIDDEN, NAMES_MAX);
    if (!found.length) return null;
    const names = found.map((uri) => placeOf({ uri }, root)).sort();
    const cut = around(names.join("\n"), 0);
    return { path: "", language: "", ...cut, truncated: cut.truncated || found.length === NAMES_MAX };
  },
};

function about(document, root) {
  return { path: placeOf(document, root), language: document.languageId };
}

/** At most TEXT_MAX characters of `text`, with `at` in the middle of them where it is cut. */
function around(text, at) {
  if (text.length <= TEXT_MAX) return { text, truncated: false };
  const begin = Math.max(0, Math.min(at - TEXT_MAX / 2, text.length - TEXT_MAX));
  return { text: text.slice(begin, begin + TEXT_MAX).toWellFormed(), truncated: true };
}

module.exports = { chips, placeOf, state, workingEditor };
