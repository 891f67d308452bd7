/* Where a question is written: it grows, tells what it costs, and holds what goes along.
   Rule: nothing goes along that does not stand above the question as a chip, and each can be taken away (PRV-3). */

import { ask, copyOf, find, findAll, setIcon } from "./page.js";
import { t } from "./text.js";

const PAUSE = 350;
const ICONS = { file: "file", selection: "selection", diagnostics: "state-unwell", names: "log", output: "terminal" };
const TOOLS = "croft.assistant.tools";

export class Composer {
  /** `onSend(question)` gets `{text, context, tools}`; `onStop()` is the Stop button; `conversation()` names the one it is for. */
  constructor(form, { onSend, onStop, conversation }) {
    this.form = form;
    this.conversation = conversation;
    this.field = find("textarea", form);
    this.chips = [];
    this.running = false;
    this.tools = find("[data-tools]", form);
    this.listen(onSend, onStop);
    this.useTools(localStorage.getItem(TOOLS) === "yes");
    this.grow();
  }

  listen(onSend, onStop) {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      const question = this.take();
      if (question) onSend(question);
    });
    this.field.addEventListener("input", () => { this.grow(); this.estimateSoon(); });
    this.field.addEventListener("keydown", (event) => {
      // While letters are being composed, Enter belongs to them.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.form.requestSubmit(find("[data-send]", this.form));
    });
    find("[data-stop]", this.form).addEventListener("click", onStop);
    this.tools?.addEventListener("click", () => this.useTools(this.tools.getAttribute("aria-pressed") !== "true"));
  }

  useTools(on) {
    if (!this.tools) return;
    this.tools.setAttribute("aria-pressed", String(on));
    localStorage.setItem(TOOLS, on ? "yes" : "no");
  }

  get usesTools() { return this.tools?.getAttribute("aria-pressed") === "true"; }

  get text() { return this.field.value.trim(); }

  grow() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
    this.showButtons();
  }

  /** Stop stands where Send stood while an answer runs and nothing is written; with words there, they queue. */
  setRunning(running) {
    this.running = running;
    this.showButtons();
  }

  showButtons() {
    const [send, stop] = [find("[data-send]", this.form), find("[data-stop]", this.form)];
    const held = document.activeElement;
    stop.hidden = !this.running;
    send.hidden = this.running && !this.text;
    const said = t(this.running ? "chat.queue" : "chat.send");
    send.title = said;
    send.setAttribute("aria-label", said);
    if (held === send && send.hidden) stop.focus();
    if (held === stop && stop.hidden) this.field.focus();
  }

  /** What is to be sent; the form is empty afterwards. */
  take() {
    const text = this.text;
    if (!text) return null;
    const question = { text, context: this.chips.map(({ kind, path, text: words }) => ({ kind, path, text: words })), tools: this.usesTools };
    this.write("");
    this.setChips([]);
    return question;
  }

  /** Words for the field, the cursor behind them. */
  write(text) {
    this.field.value = text;
    this.grow();
    this.estimateSoon();
  }

  /** What could not be sent comes back; what was written since stays, below it. */
  giveBack({ text, context }) {
    this.write([text, this.field.value].filter(Boolean).join("\n\n"));
    this.setChips([...context.map((chip) => ({ ...chip, tokens: 0 })), ...this.chips]);
  }

  focus() {
    this.field.focus();
    this.field.setSelectionRange(this.field.value.length, this.field.value.length);
  }

  /** Add what may go along; the same thing once. */
  addChips(chips) {
    const key = (chip) => `${chip.kind} ${chip.path ?? ""}`;
    const fresh = new Set(chips.map(key));
    this.setChips([...this.chips.filter((chip) => !fresh.has(key(chip))), ...chips]);
  }

  setChips(chips) {
    this.chips = chips;
    const list = find("[data-field=chips]", this.form);
    list.hidden = chips.length === 0;
    list.replaceChildren(...chips.map((chip) => this.chip(chip)));
    findAll("[data-add]", this.form).forEach((button) => button.setAttribute("aria-pressed", String(chips.some((chip) => chip.kind === button.dataset.add))));
    this.estimateSoon();
  }

  chip(chip) {
    const item = copyOf("chip");
    setIcon(find(".icon", item), ICONS[chip.kind] ?? "file");
    const label = find("[data-field=label]", item);
    const name = t(`chat.chip.${chip.kind}`);
    label.textContent = chip.path ? chip.path : name;
    label.classList.toggle("path", Boolean(chip.path));
    item.title = chip.path ? `${name}: ${chip.path}` : name;
    find("[data-field=cost]", item).textContent = chip.tokens ? t("chat.tokens", { n: chip.tokens }) : "";
    find("[data-remove]", item).addEventListener("click", () => {
      this.setChips(this.chips.filter((each) => each !== chip));
      this.field.focus();
    });
    return item;
  }

  estimateSoon() {
    clearTimeout(this.timer);
    this.asked?.abort();
    if (!this.text) return this.showEstimate(null);
    this.timer = setTimeout(() => this.estimate(), PAUSE);
  }

  async estimate() {
    this.asked = new AbortController();
    const context = this.chips.map(({ kind, path, text }) => ({ kind, path, text }));
    try {
      this.showEstimate(await ask("POST", "/api/assistant/estimate", this.asked.signal, { text: this.text, context, conversation: this.conversation() }));
    } catch (error) {
      // A guess that cannot be had is left out; what is really wrong is said when the question is sent.
      if (error.name !== "AbortError" && error.status === undefined) throw error;
    }
  }

  showEstimate(found) {
    const said = find("[data-field=estimate]", this.form);
    if (!found) said.textContent = "";
    else if (found.seconds) said.textContent = t("chat.estimate", { n: found.tokens, seconds: Math.max(1, Math.round(found.seconds)) });
    else said.textContent = t("chat.tokens", { n: found.tokens });
  }
}
