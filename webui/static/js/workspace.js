/* The workspace: the editor's state, and the assistant's panel kept where the person left it.
   Rule: opening the editor waits for nothing here (enter.js). */

import { follow } from "./live.js";
import { complain, find, findAll, setIcon } from "./page.js";
import { addStrings, t } from "./text.js";

const MIN = 280;
const desk = find(".desk");
const grip = find(".grip");
const panel = find(".panel");
const toggle = find("#panel-toggle");

function showPanel(open, remember = true) {
  panel.hidden = grip.hidden = !open;
  desk.dataset.panel = open ? "open" : "closed";
  toggle.setAttribute("aria-expanded", String(open));
  toggle.setAttribute("aria-pressed", String(open));
  if (remember) localStorage.setItem("croft.panel.open", open ? "yes" : "no");
  if (open) assistant().then((bridge) => remember && bridge?.focus());
}

let bridge = null;
let editorState = null;

/** The assistant, brought here when the panel is first opened: until then the editor has the line to itself. */
function assistant() {
  bridge ??= bring().catch((error) => { bridge = null; complain(error); });
  return bridge;
}

async function bring() {
  const [{ fillPanel }, { pageAt }] = await Promise.all([import("./panel.js"), import("./proposals.js")]);
  const page = await pageAt("/assistant");
  addStrings(JSON.parse(find("#strings", page).textContent));
  const styles = findAll("link[rel=stylesheet]", page).filter((each) => !find(`link[href="${CSS.escape(each.getAttribute("href"))}"]`)).map((each) => document.adoptNode(each));
  await Promise.all(styles.map((each) => new Promise((resolve) => {
    each.addEventListener("load", resolve);
    each.addEventListener("error", resolve);
    document.head.append(each);
  })));
  const made = fillPanel(panel, page);
  if (editorState) made.told(editorState);
  return made;
}

/** What is open in the editor; what was asked about there opens the panel. */
async function showEditor(state) {
  editorState = state;
  if (state.windows.length) find(".opening").hidden = true;
  if (state.asked && panel.hidden && localStorage.getItem("croft.assistant.asked") !== state.asked.id) showPanel(true);
  if (bridge) (await bridge)?.told(state);
}

function setWidth(width) {
  const size = Math.round(Math.min(Math.max(width, MIN), innerWidth * 0.6));
  desk.style.setProperty("--panel", `${size}px`);
  grip.setAttribute("aria-valuenow", String(size));
  grip.setAttribute("aria-valuemax", String(Math.round(innerWidth * 0.6)));
  localStorage.setItem("croft.panel.width", String(size));
}

// The panel is at the inline end: on the right in English, on the left in Arabic.
const widthAt = (x) => (document.documentElement.dir === "rtl" ? x - desk.getBoundingClientRect().left : desk.getBoundingClientRect().right - x);

grip.addEventListener("pointerdown", (event) => {
  grip.setPointerCapture(event.pointerId);
  grip.dataset.held = desk.dataset.held = "yes";
});
grip.addEventListener("pointermove", (event) => { if (grip.dataset.held) setWidth(widthAt(event.clientX)); });
grip.addEventListener("lostpointercapture", () => { delete grip.dataset.held; delete desk.dataset.held; });
grip.addEventListener("keydown", (event) => {
  const towardEnd = document.documentElement.dir === "rtl" ? "ArrowLeft" : "ArrowRight";
  const towardStart = document.documentElement.dir === "rtl" ? "ArrowRight" : "ArrowLeft";
  const step = { [towardStart]: 24, [towardEnd]: -24 }[event.key];
  if (!step) return;
  event.preventDefault();
  setWidth(panel.getBoundingClientRect().width + step);
});
toggle.addEventListener("click", () => showPanel(panel.hidden));
find("#panel-close").addEventListener("click", () => { showPanel(false); toggle.focus(); });

function showState({ services }) {
  const view = services.find((each) => each.name === "ide");
  const pill = find("[data-service=ide] .pill");
  if (!view || !pill) return;
  pill.dataset.state = view.shown;
  setIcon(find(".icon", pill), `state-${view.shown}`);
  find("[data-field=state]", pill).textContent = t(`state.${view.shown}`);
}

showPanel(localStorage.getItem("croft.panel.open") === "yes" && innerWidth > 720, false);
setWidth(Number(localStorage.getItem("croft.panel.width")) || 360);
follow({ services: showState, editor: showEditor });
