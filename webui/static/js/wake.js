/* The page shown on the editor's host while the editor wakes. It asks how far things are and goes on when ready.
   Rule: it goes only where the server said in data-next, a path on this same host. */

import { setIcon } from "./page.js";
import { t, bytes } from "./text.js";

const PAUSE = 300;
const FETCHING = 2; // pulling, extracting and creating are seldom needed, and hidden until they are
const page = document.querySelector("[data-wake]");
const phases = [...page.querySelectorAll("[data-name]")];
const bar = page.querySelector("progress");

function show({ phase, current = 0, total = 0 }) {
  const at = phases.findIndex((item) => item.dataset.name === phase);
  phases.forEach((item, index) => {
    if (at <= FETCHING) item.hidden = false;
    item.dataset.phase = index < at ? "done" : index === at ? "now" : "later";
    setIcon(item.querySelector(".icon"), index < at ? "state-running" : index === at ? "state-starting" : "state-absent");
  });
  if (total > 0) {
    bar.max = total;
    bar.value = current;
  } else bar.removeAttribute("value");
  page.querySelector("[data-field=amount]").textContent =
    total > 0 ? t("machine.used_of", { used: bytes(current), total: bytes(total) }) : "";
}

function go() {
  const next = new URL(page.dataset.next, location.origin);
  if (next.origin === location.origin) location.replace(next.href);
}

async function look() {
  try {
    const response = await fetch(page.dataset.poll, { headers: { Accept: "application/json" }, cache: "no-store" });
    const answer = await response.json();
    if (answer.phase === "ready") return go();
    // Sign-in and failure have pages of their own; the server shows the right one at the same address.
    if (response.status === 401 || answer.phase === "failed") return go();
    if (answer.phase) show(answer);
  } catch {
    // The daemon or the line is away for a moment: keep asking.
  }
  return setTimeout(look, PAUSE);
}

look();
