"use strict";
/* The right sides of proposals: small files in memory, which may be edited, so that a part of a change can be taken back (the menu
   beside it) before the rest is accepted.

   Rule: nothing here is ever on the disk. */

const vscode = require("vscode");

const SCHEME = "croft-proposal";

class Drafts {
  constructor() {
    this.files = new Map(); // by the proposal's id
    this.emitter = new vscode.EventEmitter();
    this.onDidChangeFile = this.emitter.event;
    this.registration = vscode.workspace.registerFileSystemProvider(SCHEME, this, { isCaseSensitive: true });
  }

  /** A draft for proposal `id`. It has the path of the file, so that its language is known by its name. */
  make(id, file, text) {
    this.files.set(id, { data: Buffer.from(text), mtime: Date.now() });
    return Drafts.uri(id, file);
  }

  static uri(id, file) {
    return vscode.Uri.from({ scheme: SCHEME, path: file.path, query: id });
  }

  /** What it holds by now: with edits that are not saved in it. */
  text(id) {
    const open = vscode.workspace.textDocuments.find(({ uri }) => uri.scheme === SCHEME && uri.query === id);
    return open ? open.getText() : this.files.get(id).data.toString();
  }

  /** Let it go; a tab that shows it closes without a question. */
  async forget(id) {
    const open = vscode.workspace.textDocuments.find(({ uri }) => uri.scheme === SCHEME && uri.query === id);
    if (open?.isDirty) await open.save();
    this.files.delete(id);
  }

  find({ query }) {
    const found = this.files.get(query);
    if (!found) throw vscode.FileSystemError.FileNotFound();
    return found;
  }

  // vscode.FileSystemProvider

  stat(uri) {
    const { data, mtime } = this.find(uri);
    return { type: vscode.FileType.File, ctime: 0, mtime, size: data.length };
  }

  readFile(uri) {
    return this.find(uri).data;
  }

  writeFile(uri, data) {
    Object.assign(this.find(uri), { data: Buffer.from(data), mtime: Date.now() });
  }

  watch() {
    return { dispose() {} };
  }

  readDirectory() {
    throw vscode.FileSystemError.FileNotFound();
  }

  createDirectory() {
    throw vscode.FileSystemError.NoPermissions();
  }

  delete() {
    throw vscode.FileSystemError.NoPermissions();
  }

  rename() {
    throw vscode.FileSystemError.NoPermissions();
  }

  dispose() {
    this.registration.dispose();
    this.emitter.dispose();
  }
}

module.exports = { Drafts, SCHEME };
