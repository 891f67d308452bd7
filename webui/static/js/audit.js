/* New audit records while one looks. Rule: rows are made from the server's own sentences, as text. */

import { ask, copyOf, find, findAll, Refused } from "./page.js";
import { setTime } from "./text.js";

const PAUSE = 3000;
const KEPT = 500;
const table = find("table.audit");
const button = find("#audit-follow");
let timer = 0;

function row(record) {
  const made = copyOf("audit-row");
  setTime(find("time", made), record.at);
  find("[data-field=who]", made).textContent = record.who;
  find("[data-field=said]", made).textContent = record.said;
  find("[data-field=raw]", made).textContent = `${record.seq} ${record.event} ${JSON.stringify(record.detail)}`;
  find("[data-field=seq]", made).textContent = record.seq;
  return made;
}

async function look() {
  if (!document.hidden) {
    try {
      const join = table.dataset.api.includes("?") ? "&" : "?";
      const { records } = await ask("GET", `${table.dataset.api}${join}after=${table.dataset.newest}`);
      if (records.length) {
        table.dataset.newest = records[0].seq;
        find("tbody", table).prepend(...records.map(row));
        findAll("tbody tr", table).slice(KEPT).forEach((old) => old.remove());
      }
    } catch (error) {
      // Away for a moment: the next look tells.
      if (!(error instanceof Refused) || error.status === 401) throw error;
    }
  }
  if (button.getAttribute("aria-pressed") === "true") timer = setTimeout(look, PAUSE);
}

button.hidden = !table;
button.addEventListener("click", () => {
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  clearTimeout(timer);
  if (on) look();
});
