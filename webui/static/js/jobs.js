/* Jobs: how far each is, as it comes; whatever begins or ends is shown by the page itself, loaded anew.
   Rule: the server decides what is true; this only writes figures into elements the server made. */

import { follow } from "./live.js";
import { find } from "./page.js";
import { bytes, duration, t } from "./text.js";

const shown = document.getElementById("jobs");

function amount(job, unit) {
  if (unit === "steps") return job.total ? t("job.steps", { current: job.current, total: job.total }) : "";
  if (!job.total) return job.current ? bytes(job.current) : "";
  return t("machine.used_of", { used: bytes(job.current), total: bytes(job.total) });
}

function show({ jobs, ended }) {
  const boxes = new Map([...document.querySelectorAll("[data-job]")].map((box) => [box.dataset.job, box]));
  const same = jobs.every((job) => boxes.get(job.id)?.dataset.state === job.state || !relevant(job));
  if (String(ended) !== shown.dataset.ended || !same) {
    location.reload();
    return;
  }
  for (const job of jobs) if (boxes.has(job.id) && job.state === "running") write(boxes.get(job.id), job);
}

/** Whether this page shows such jobs at all: the page of models shows those of models. */
function relevant(job) {
  return !document.querySelector("table.models") || job.kind.startsWith("model.");
}

function write(box, job) {
  const unit = box.dataset.unit;
  if (job.phase) find("[data-field=phase]", box).textContent = t(`job.phase.${job.phase}`);
  find("[data-field=amount]", box).textContent = amount(job, unit);
  const pace = unit === "bytes" && job.phase === "downloading" && job.speed > 0 && job.left !== null;
  find("[data-field=pace]", box).textContent = pace ? t("job.pace", { speed: bytes(job.speed), left: duration(job.left) }) : "";
  const bar = find("progress", box);
  if (!bar) return;
  if (job.total) {
    bar.max = job.total;
    bar.value = job.current;
  } else {
    bar.removeAttribute("value");
  }
}

follow({ jobs: show });
