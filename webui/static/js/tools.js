/* Toolchains: bytes as they come; whatever begins or ends is shown by the page itself, loaded anew.
   Rule: the server decides what is true; this only writes figures into elements the server made. */

import { follow } from "./live.js";
import { find } from "./page.js";
import { bytes, t } from "./text.js";

const shown = document.getElementById("tools");

function show({ job, ended }) {
  const box = job && find(`[data-tool="${CSS.escape(`${job.name}-${job.series}`)}"] .tool-progress`);
  if (String(ended) !== shown.dataset.ended || (job && !box)) {
    location.reload();
    return;
  }
  if (!box || !job.total) return;
  find("[data-field=amount]", box).textContent = t("machine.used_of", { used: bytes(job.current), total: bytes(job.total) });
  const bar = find("progress", box);
  bar.max = job.total;
  bar.value = job.current;
}

follow({ tools: show });
