/* The page of one run: its output live, its end, and a decision wherever it was taken. */

import { watchApprovals } from "./decide.js";
import { isOpen, OutputView, followRun } from "./output.js";
import { ask, complain, find } from "./page.js";

const section = find("[data-run]");
const id = section.dataset.run;
const state = section.dataset.runState;

if (find(".run-lines", section)) {
  if (state === "running") followRun(section, id, (run) => isOpen(run.state) || location.reload());
  else new OutputView(section).setFollow(false);
}

// The whole page is another once the state is: the server knows how it looks then.
if (state === "waiting") watchApprovals(() => location.reload());

find("form[data-cancel]")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("POST", `/api/commands/${id}/cancel`);
  } catch (error) {
    complain(error);
  }
});
