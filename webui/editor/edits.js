"use strict";
/* Two small acts in the window: text at the cursor, and a file at a line. */

const vscode = require("vscode");
const { placeOf, workingEditor } = require("./context");

class Failed extends Error {
  /** `code` is one of those the daemon has words for. */
  constructor(code) {
    super(code);
    this.code = code;
  }
}

/** Put `text` where the cursor is, in place of what is selected. Afterwards the caret is behind it and nothing is selected. */
async function insert(text, root) {
  const editor = workingEditor();
  if (!editor) throw new Failed("no_file");
  const at = editor.selection;
  if (!(await editor.edit((change) => change.replace(at, text)))) throw new Failed("read_only");
  // What replaced a selection is selected itself, and the next insertion would overwrite it.
  const end = editor.selection.end;
  editor.selection = new vscode.Selection(end, end);
  editor.revealRange(new vscode.Range(end, end));
  return { path: placeOf(editor.document, root), line: end.line + 1 };
}

/** Show the file at `path` (absolute), the cursor at `line` and `column`, counted from 1. */
async function open(path, line, column) {
  const uri = vscode.Uri.file(path);
  if (!(await isFile(uri))) throw new Failed("not_found");
  let document;
  try {
    document = await vscode.workspace.openTextDocument(uri);
  } catch {
    throw new Failed("unreadable"); // binary, too large, or not this account's to read
  }
  const at = document.validatePosition(new vscode.Position(line - 1, column - 1));
  const editor = await vscode.window.showTextDocument(document, { selection: new vscode.Range(at, at) });
  editor.revealRange(new vscode.Range(at, at), vscode.TextEditorRevealType.InCenterIfOutsideViewport);
  return { line: at.line + 1 };
}

/** Whether a file is there; false for a folder. */
async function isFile(uri) {
  try {
    return Boolean((await vscode.workspace.fs.stat(uri)).type & vscode.FileType.File);
  } catch {
    return false;
  }
}

module.exports = { Failed, insert, isFile, open };
