/* The inbox: cards that stay true while people decide elsewhere, leases that count down. */

import { watchApprovals } from "./decide.js";
import { find } from "./page.js";
import { t } from "./text.js";

const inbox = find("[data-inbox]");
const inHand = () => inbox.contains(document.activeElement) || Boolean(find("details[open]", inbox));

/** New questions come below the others; while somebody is deciding, nothing moves under their hand. */
function more() {
  if (inHand()) find("[data-field=newer]").hidden = false;
  else location.reload();
}

document.addEventListener("croft:waiting", ({ detail: n }) => {
  find("[data-field=waiting]", inbox).textContent = t("approvals.waiting", { n });
});
watchApprovals(undefined, more);
