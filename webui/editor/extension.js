"use strict";
/* Croft in the editor: connects a window to the daemon of the machine it runs on, and does what people ask there.

   Rules: nothing is sent but names and counts until somebody asks; nothing is changed but what somebody asked for; without the
   daemon the editor is as it would be without this extension. */

const crypto = require("node:crypto");
const path = require("node:path");
const vscode = require("vscode");
const context = require("./context");
const edits = require("./edits");
const { Link } = require("./link");
const { Proposals } = require("./proposals");
const { preset } = require("./terminal");
const { speak, t } = require("./words");

const STATE_PAUSE_MS = 200;
const ACTIVE_PAUSE_MS = 60_000;
const HUMAN = new Set([vscode.TextEditorSelectionChangeKind.Keyboard, vscode.TextEditorSelectionChangeKind.Mouse]);

class Window {
  constructor(extension, socket) {
    this.id = crypto.randomBytes(16).toString("hex");
    this.welcome = {};
    this.told = "";
    this.activeAt = -ACTIVE_PAUSE_MS;
    this.entry = vscode.window.createStatusBarItem("croft", vscode.StatusBarAlignment.Right, 90);
    this.entry.name = "Croft";
    this.entry.command = "croft.showAssistant";
    this.proposals = new Proposals((id, state) => this.link.send({ type: "decided", diff: id, state }));
    this.link = new Link(socket, {
      hello: () => ({ window: this.id, version: extension.packageJSON.version }),
      receive: (message) => this.receive(message),
      changed: (state) => this.show(state),
    });
    this.show("away");
  }

  receive(message) {
    if (message.type === "welcome") {
      this.welcome = message;
      speak(message.language);
      this.show(this.link.state);
      this.told = "";
      this.tell();
    } else if (message.type === "ask") {
      this.answer(message);
    } else if (message.type === "heard" && !message.whose) {
      vscode.window.showWarningMessage(t("ask.whose"));
    } else if (message.type === "heard" && !message.page) {
      this.offerPage();
    }
  }

  async answer({ id, op, ...asked }) {
    try {
      const found = await this.acts[op](asked);
      if (!this.link.send({ type: "answer", id, ok: found })) this.link.send({ type: "answer", id, error: "too_large" });
    } catch (error) {
      this.link.send({ type: "answer", id, error: error instanceof edits.Failed ? error.code : "failed" });
      if (!(error instanceof edits.Failed)) console.error("Croft:", error);
    }
  }

  acts = {
    context: async ({ kinds }) => ({ chips: await context.chips(kinds, this.welcome.workspace) }),
    insert: ({ text }) => edits.insert(text, this.welcome.workspace),
    open: ({ path, line, column }) => edits.open(path, line, column),
    diff: ({ diff, path, text }) => this.proposals.show(diff, path, text),
    decide: ({ diff, accept }) => this.proposals.decide(diff, accept),
  };

  /** Tell Croft's page that its person wants to ask about `kind`. */
  ask(kind) {
    if (kind !== "show" && !context.workingEditor()) return vscode.window.showInformationMessage(t("ask.nothing"));
    this.tell();
    if (this.link.send({ type: "asked", kind })) return undefined;
    return vscode.window.showWarningMessage(t("ask.away"));
  }

  async offerPage() {
    const open = t("ask.open");
    if ((await vscode.window.showInformationMessage(t("ask.unheard"), open)) === open) {
      vscode.env.openExternal(vscode.Uri.parse(this.welcome.page));
    }
  }

  /** Soon, and once for many changes at a time. */
  stirred() {
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      this.tell();
    }, STATE_PAUSE_MS);
  }

  /** The state, if it is another than was told last. */
  tell() {
    const state = context.state(this.welcome.workspace);
    const text = JSON.stringify(state);
    if (text !== this.told && this.link.send(state)) this.told = text;
  }

  /** A person works here: said at most once a minute. */
  active() {
    if (!vscode.window.state.focused || performance.now() - this.activeAt < ACTIVE_PAUSE_MS) return;
    if (this.link.send({ type: "active" })) this.activeAt = performance.now();
  }

  show(state) {
    this.entry.text = state === "here" ? "$(sparkle) Croft" : "$(circle-slash) Croft";
    this.entry.tooltip = t(`status.${state}`);
    this.entry.show();
  }

  dispose() {
    clearTimeout(this.timer);
    [this.link, this.proposals, this.entry].forEach((part) => part.dispose());
  }
}

function follow(window) {
  const stirred = () => window.stirred();
  return [
    vscode.window.onDidChangeActiveTextEditor(stirred),
    vscode.window.onDidChangeWindowState(stirred),
    vscode.workspace.onDidSaveTextDocument(stirred),
    vscode.workspace.onDidChangeTextDocument(stirred),
    vscode.languages.onDidChangeDiagnostics(stirred),
    vscode.window.onDidChangeTextEditorSelection(({ kind }) => {
      window.stirred();
      if (HUMAN.has(kind)) window.active();
    }),
  ];
}

function commands(window) {
  const table = {
    "croft.askSelection": () => window.ask("selection"),
    "croft.askFile": () => window.ask("file"),
    "croft.askProblems": () => window.ask("diagnostics"),
    "croft.showAssistant": () => window.ask("show"),
    "croft.acceptProposal": () => window.proposals.decideFront(true),
    "croft.rejectProposal": () => window.proposals.decideFront(false),
    "croft.acceptAllProposals": () => window.proposals.decideAll(true),
    "croft.rejectAllProposals": () => window.proposals.decideAll(false),
  };
  return Object.entries(table).map(([name, act]) => vscode.commands.registerCommand(name, act));
}

/** New terminals find this machine's model; the setting `croft.terminal.openai` says otherwise. */
async function presetTerminals(extension, socket) {
  const variables = extension.environmentVariableCollection;
  variables.persistent = false;
  variables.clear();
  if (!vscode.workspace.getConfiguration("croft").get("terminal.openai")) return;
  const { url, key, ...relay } = await preset(extension.globalStorageUri.fsPath, socket);
  extension.subscriptions.push(relay);
  variables.replace("OPENAI_BASE_URL", url);
  variables.replace("OPENAI_API_KEY", key);
}

async function activate(extension) {
  const socket = process.env.CROFT_EDITOR_SOCKET;
  if (!socket) return; // not an editor that Croft started
  speak(vscode.env.language);
  const window = new Window(extension.extension, socket);
  extension.subscriptions.push(window, ...follow(window), ...commands(window));
  await presetTerminals(extension, path.join(path.dirname(socket), "v1.sock"));
}

module.exports = { activate };
