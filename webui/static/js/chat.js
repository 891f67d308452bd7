/* A conversation as it goes on: asking, the answer while it comes, stopping, queueing, other versions. Used by the assistant's page
   and by the panel beside the editor. Rule: the server knows the conversation; what this page holds can be thrown away and read again. */

import { dress, put } from "./blocks.js";
import { Composer } from "./composer.js";
import { connect } from "./live.js";
import { announce, ask, complain, copyOf, find, findAll, setIcon } from "./page.js";
import { piece, showProposal, showRun } from "./proposals.js";
import { t } from "./text.js";

const NEAR_END = 64;
const DRAFT = "croft.assistant.draft.";
const STEP_ICONS = { running: "state-starting", waiting: "clock", mistake: "state-unwell", failed: "state-failed", refused: "state-parked", denied: "close", rejected: "close", stopped: "state-stopped", stale: "state-unwell" };
const TOOLS = new Set(["list_files", "search_files", "read_file", "write_file", "propose_command"]);
const PHASES = new Set(["queued", "begun", "engine", "reading", "thinking", "writing", "choosing", "tool", "deciding"]);
const ENGINE_ICONS = { ready: "state-running", asleep: "state-sleeping", starting: "state-starting", failed: "state-failed", none: "state-absent" };

export class Chat {
  /** `root` is a section[data-chat]. `onTitle(id, title)` hears of names, `onOpened(id)` of another conversation. */
  constructor(root, { onTitle = () => {}, onOpened = () => {} } = {}) {
    this.root = root;
    this.told = { onTitle, onOpened };
    this.scroller = find("[data-scroll]", root);
    this.queue = [];
    this.held = null;
    this.sending = false;
    this.sought = new Set();
    this.composer = new Composer(find("[data-composer]", root), { onSend: (question) => this.send(question), onStop: () => this.stop(), conversation: () => this.id });
    this.following = true;
    this.scroller.addEventListener("scroll", () => { this.following = this.atEnd; this.showToEnd(); }, { passive: true });
    // Whatever grows, cards and outputs too: who is at the end stays there, who reads elsewhere is left alone.
    new ResizeObserver(() => (this.following ? this.toEnd() : this.showToEnd())).observe(this.scroller.firstElementChild);
    find("[data-to-end]", root).addEventListener("click", () => this.toEnd());
    addEventListener("pagehide", () => this.keepDraft());
    // The page is left only after the answer to it has cleared what is stored here.
    addEventListener("submit", ({ target }) => { this.leaving = target.matches("[action='/sign-out']"); });
    this.begin();
  }

  get id() { return this.root.dataset.conversation; }
  get turns() { return find("[data-field=turns]", this.root); }
  turn(id) { return id ? find(`[data-message="${CSS.escape(id)}"]`, this.turns) : null; }
  get last() { return findAll(".turn.answer", this.turns).at(-1); }

  /** Take up what stands on the page. */
  begin() {
    if (!this.composer.text) this.composer.write(sessionStorage.getItem(DRAFT + this.id) ?? "");
    this.sought.clear();
    this.endStream?.();
    this.endStream = null;
    if (this.id) this.listen();
    this.setRunning(this.last?.dataset.state === "running");
    this.showWelcome();
    this.dressAll();
    for (const box of findAll("[data-proposal][data-kind=command]:is([data-state=waiting], [data-state=running])", this.turns)) showRun(box, box.dataset.run);
    this.toEnd();
  }

  /** What is written but not sent outlives a reload of this tab, not who wrote it. */
  keepDraft() {
    const words = [...this.queue.map(({ text }) => text), this.composer.text].filter(Boolean).join("\n\n");
    if (words && !this.leaving) sessionStorage.setItem(DRAFT + this.id, words);
    else sessionStorage.removeItem(DRAFT + this.id);
  }

  dressAll() {
    findAll(".prose", this.turns).forEach((prose) => dress(prose, JSON.parse(prose.dataset.codes ?? "[]")));
  }

  // What the server tells.

  listen() {
    const on = (handle) => (event) => (this.held ? this.held.push(() => handle(event)) : handle(event));
    this.endStream = connect(`/api/conversations/${this.id}/stream`, {
      block: on((patch) => this.onBlock(patch)),
      message: on((message) => this.onMessage(message)),
      step: on((step) => this.onStep(step)),
      proposal: on((proposal) => this.onProposal(proposal)),
      title: ({ title }) => this.onTitle(title),
      status: (status) => this.onStatus(status),
    }, undefined, { resumes: true });
  }

  /** The answer with this id; one that this page has not seen was asked for elsewhere, or is on its way to us. What is not there
      either once the page was read again belongs to another version, and is left alone. */
  answer(id) {
    const found = this.turn(id);
    if (found || this.sending) return found ?? this.addAnswer(id);
    if (!this.sought.has(id)) this.reload();
    this.sought.add(id);
    return null;
  }

  onBlock(patch) {
    const turn = this.answer(patch.message);
    if (!turn) return;
    put(find("[data-field=blocks]", turn), patch);
  }

  onMessage(message) {
    const turn = this.answer(message.message);
    if (!turn) return undefined;
    const before = turn.dataset.state;
    turn.dataset.state = message.state;
    if (message.state === "running") return this.setRunning(true);
    if (before !== "running") return this.showUse(message.usage ?? {});
    this.finish(turn, message);
  }

  finish(turn, message) {
    find("[data-field=working]", turn).hidden = true;
    const fault = find("[data-field=fault]", turn);
    fault.hidden = message.state !== "failed" && message.state !== "interrupted";
    if (!fault.hidden) find("[data-field=fault-words]", fault).textContent = message.error ?? t(`chat.fault.${message.state}`);
    this.showFacts(turn, message);
    this.setRunning(false);
    announce(t(`chat.over.${message.state}`));
    if (message.state === "done") this.sendNext();
    else this.queue.splice(0).reverse().forEach((question) => this.composer.giveBack(question));
    this.showQueue();
  }

  showFacts(turn, { state, usage = {}, model, words: capped }) {
    const words = [];
    if (usage.completion_tokens) words.push(t("chat.facts", { n: usage.completion_tokens, seconds: Math.max(1, Math.round(usage.seconds ?? 0)), model: model ?? "" }));
    if (usage.length) words.push(t("chat.cut"));
    if (capped) words.push(capped);
    if (usage.left_out) words.push(t("chat.summarised"));
    if (state === "stopped") words.push(t("chat.stopped"));
    find("[data-field=facts]", turn).textContent = words.join(" · ");
    this.showUse(usage);
  }

  /** How much of what the model can hold is in use. */
  showUse({ context = 0, context_used: used = 0 }) {
    const size = context || Number(this.root.dataset.context);
    const box = find("[data-field=use]", this.root);
    box.hidden = !used || !size;
    if (box.hidden) return;
    const share = Math.min(100, Math.round((100 * used) / size));
    find("[data-field=use-words]", box).textContent = t("chat.use", { n: used, all: size });
    find("rect", box).setAttribute("width", String(share));
    find(".meter", box).dataset.level = share >= 95 ? "bad" : share >= 85 ? "warn" : "ok";
  }

  /** A step is new, or goes on: each comes whole. */
  onStep({ message, n, tool, about, state, note }) {
    const turn = this.answer(message);
    if (!turn) return;
    const box = find(".steps", turn);
    const list = find("ol", box);
    while (list.children.length < n) list.append(copyOf("step"));
    const item = list.children[n - 1];
    item.dataset.state = state ?? "running";
    setIcon(find(".icon", item), STEP_ICONS[state] ?? "check");
    find("[data-field=words]", item).textContent = t(TOOLS.has(tool) ? `chat.tool.${tool}` : "chat.tool.other", { about: about ?? "" });
    find("[data-field=note]", item).textContent = note ?? "";
    box.hidden = false;
    find("[data-field=steps]", box).textContent = t("chat.steps", { n: list.children.length });
  }

  onProposal(proposal) {
    const turn = this.turn(proposal.message);
    if (!turn) return undefined; // it came with another version
    const known = find(`[data-proposal="${CSS.escape(proposal.id)}"]`, turn);
    // Made and decided while this page was away: its difference is told no more.
    if (!known && proposal.kind === "write" && !proposal.diff) return this.reload();
    return showProposal(turn, proposal);
  }

  /** A command was decided elsewhere: its card gives way to what it writes. */
  decided(run) {
    const box = find(`[data-proposal][data-run="${CSS.escape(run.id)}"]`, this.turns);
    if (box) showRun(box, run.id);
  }

  onTitle(title) {
    this.root.dataset.title = title;
    this.told.onTitle(this.id, title);
  }

  /** What an answer waits for or does: in a queue, for the engine, reading, thinking, writing, looking, for a decision. */
  onStatus({ message, phase, place = 0, state, words }) {
    const turn = this.answer(message);
    if (!turn) return;
    find("[data-field=working]", turn).dataset.phase = phase;
    find("[data-field=phase]", turn).textContent = phase === "engine" && state === "starting" ? words : t(`chat.phase.${PHASES.has(phase) ? phase : "thinking"}`, { n: place });
    if (phase === "deciding") announce(t("chat.phase.deciding"));
  }

  /** The engine's state in words, wherever this page shows it. */
  showEngine(status) {
    const line = find("[data-engine]", this.root);
    this.root.dataset.engineState = status.state;
    if (!line || !status.state) return;
    line.dataset.engine = status.state;
    line.toggleAttribute("data-remote", Boolean(status.remote));
    const going = status.remote && !status.reason && !["none", "starting"].includes(status.state);
    setIcon(find(".icon", line), going ? "external" : ENGINE_ICONS[status.state]);
    const words = find("[data-field=engine]", line);
    if (words.textContent !== status.words) words.textContent = status.words;
    find("[data-field=model]", line).textContent = status.model;
    const bar = find("progress", line);
    const { current = 0, total = 0 } = status.progress ?? {};
    bar.hidden = status.state !== "starting";
    if (total) Object.assign(bar, { max: total, value: current });
    else bar.removeAttribute("value");
  }

  // What the person does.

  async send(question) {
    if (this.running) return this.enqueue(question);
    this.sending = true;
    this.setRunning(true);
    const asked = this.addAsked(question);
    try {
      if (!this.id) await this.create();
      const { message, answer } = await ask("POST", `/api/conversations/${this.id}/messages`, undefined, question);
      asked.dataset.message = message.id;
      this.turn(answer.id) ?? this.addAnswer(answer.id);
      announce(t("chat.asked"));
    } catch (error) {
      asked.remove();
      this.composer.giveBack(question);
      this.setRunning(false);
      this.showWelcome();
      complain(error);
    } finally {
      this.sending = false;
    }
  }

  async create() {
    const { conversation } = await ask("POST", "/api/conversations", undefined, {});
    this.root.dataset.conversation = conversation.id;
    this.listen();
    this.told.onOpened(conversation.id);
  }

  async stop() {
    if (!this.id) return;
    try {
      await ask("POST", `/api/conversations/${this.id}/stop`, undefined, {});
    } catch (error) {
      complain(error);
    }
  }

  enqueue(question) {
    this.queue.push(question);
    this.showQueue();
    announce(t("chat.queued"));
  }

  sendNext() {
    const question = this.queue.shift();
    if (question) this.send(question);
  }

  showQueue() {
    const list = find("[data-field=queue]", this.root);
    list.hidden = this.queue.length === 0;
    list.replaceChildren(...this.queue.map((question) => {
      const item = copyOf("queued");
      find("[data-field=text]", item).textContent = question.text;
      find("[data-remove]", item).addEventListener("click", () => {
        this.queue = this.queue.filter((each) => each !== question);
        this.showQueue();
        this.composer.focus();
      });
      return item;
    }));
  }

  /** Ask again for the answer `id`; the one there is stays, as another version. */
  async regenerate(id) {
    await this.change(`messages/${id}/regenerate`, { tools: this.composer.usesTools });
  }

  /** Read another version of a message. */
  async branch(message) {
    await this.change("branch", { message });
  }

  /** The question `turn` in other words, without the pieces at the places `without`; what followed the old ones stays, as another
      version. */
  async rewrite(turn, text, without) {
    await this.change("messages", { text, edits: turn.dataset.message, without, tools: this.composer.usesTools });
  }

  async change(path, body) {
    try {
      await ask("POST", `/api/conversations/${this.id}/${path}`, undefined, body);
      await this.reload();
    } catch (error) {
      complain(error);
    }
  }

  // The page itself.

  /** Read the conversation again as the server draws it; what is told meanwhile waits. */
  async reload() {
    if (this.held) return;
    this.held = [];
    try {
      const fresh = await piece(`/assistant/${this.id}`, "[data-chat]");
      this.turns.replaceWith(find("[data-field=turns]", fresh));
      this.dressAll();
      this.setRunning(this.last?.dataset.state === "running");
      this.showWelcome();
    } catch (error) {
      complain(error);
    } finally {
      const waiting = this.held;
      this.held = null;
      waiting.forEach((handle) => handle());
    }
  }

  /** Show conversation `id` here; none begins a new one. */
  async open(id, { focus = true } = {}) {
    let fresh;
    try {
      fresh = await piece(id ? `/assistant/${id}` : "/assistant", "[data-chat]");
    } catch (error) {
      // One that was deleted meanwhile: then a new one it is.
      return error.status === 404 && id ? this.told.onOpened("") : complain(error);
    }
    this.keepDraft();
    this.queue = [];
    this.showQueue();
    this.composer.write("");
    this.composer.setChips([]);
    this.turns.replaceWith(find("[data-field=turns]", fresh));
    Object.assign(this.root.dataset, { conversation: fresh.dataset.conversation, title: fresh.dataset.title });
    this.told.onOpened(id);
    this.told.onTitle(id, fresh.dataset.title);
    this.begin();
    if (focus) this.composer.focus();
    return undefined;
  }

  addAsked({ text, context }) {
    const turn = copyOf("turn-asked");
    find("[data-field=said]", turn).textContent = text;
    if (context?.length) {
      const list = copyOf("sent-chips");
      list.append(...context.map(({ kind, path }) => {
        const item = copyOf("sent-chip");
        find("[data-field=label]", item).textContent = path ?? t(`chat.chip.${kind}`);
        return item;
      }));
      find("[data-field=said]", turn).before(list);
    }
    return this.add(turn);
  }

  addAnswer(id) {
    const turn = copyOf("turn-answer");
    Object.assign(turn.dataset, { message: id, state: "running" });
    find("[data-field=working]", turn).hidden = false;
    return this.add(turn);
  }

  add(turn) {
    this.turns.append(turn);
    this.showWelcome();
    this.toEnd();
    return turn;
  }

  setRunning(running) {
    this.running = running;
    this.root.dataset.running = running ? "yes" : "no";
    this.composer.setRunning(running);
  }

  showWelcome() {
    const welcome = find("[data-welcome]", this.root);
    if (welcome) welcome.hidden = this.turns.children.length > 0;
  }

  // The end of it is in sight, or it is not: only then nothing moves under the reader's eyes.

  get atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_END;
  }

  toEnd() {
    this.following = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.showToEnd();
  }

  showToEnd() {
    find("[data-to-end]", this.root).hidden = this.atEnd;
  }
}
