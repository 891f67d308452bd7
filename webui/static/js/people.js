/* The tables of people: sorting by a click on a head, filtering while typing, and going on after somebody was removed.
   Rule: rows are moved and hidden, never made. */

import { announce, find, findAll } from "./page.js";
import { lang, t } from "./text.js";

const collator = new Intl.Collator(lang, { numeric: true, sensitivity: "base" });

function sortBy(table, head, key) {
  const down = head.getAttribute("aria-sort") === "ascending";
  findAll("th[aria-sort]", table).forEach((other) => other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => collator.compare(a.dataset[key], b.dataset[key]));
  body.append(...(down ? rows.reverse() : rows));
}

findAll("table.sorts").forEach((table) => table.classList.add("sorted-by-script"));
findAll("th[data-sort]").forEach((head) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => sortBy(head.closest("table"), head, head.dataset.sort));
});

findAll("input[data-filter]").forEach((input) => input.addEventListener("input", () => {
  const wanted = input.value.normalize("NFC").toLocaleLowerCase(lang).trim();
  const rows = [...document.getElementById(input.dataset.filter).tBodies[0].rows];
  rows.forEach((row) => { row.hidden = !row.textContent.toLocaleLowerCase(lang).includes(wanted); });
  const shown = rows.filter((row) => !row.hidden).length;
  find(`[data-none=${input.dataset.filter}]`).hidden = shown > 0;
  announce(t("js.rows_shown", { n: shown }));
}));

document.addEventListener("croft:done", (event) => {
  const { then } = event.target.dataset;
  if (then) location.assign(then);
  else event.target.closest("tr[data-session]")?.remove();
});
