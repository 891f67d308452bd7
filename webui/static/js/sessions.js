/* Ending sessions without reloading. Rule: a row leaves the table only after the server said the session is over. */

import { findAll } from "./page.js";

document.addEventListener("croft:done", (event) => {
  const row = event.target.closest("tr");
  if (!row) return;
  row.remove();
  const others = findAll("tr[data-session]:not([data-current])").length;
  findAll("[data-needs-others]").forEach((element) => { element.hidden = !others; });
});
