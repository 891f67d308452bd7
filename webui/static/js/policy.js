/* The policy page: finding rules, the place of a fault in the text, keys for the text. */

import { find, findAll } from "./page.js";

const query = find("[data-rule-find]");
const groups = findAll("[data-rules]");
const opened = groups.map((group) => group.open);

query.addEventListener("input", () => {
  const wanted = query.value.trim().toLocaleLowerCase();
  let shown = 0;
  groups.forEach((group, place) => {
    const rules = findAll("[data-rule]", group);
    rules.forEach((rule) => { rule.hidden = Boolean(wanted) && !rule.textContent.toLocaleLowerCase().includes(wanted); });
    const left = rules.filter((rule) => !rule.hidden).length;
    group.hidden = left === 0;
    group.open = wanted ? left > 0 : opened[place];
    shown += left;
  });
  find("[data-rule-none]").hidden = shown > 0;
});

const text = find(".policy-text");
const fault = find("[data-fault-line]");
if (text && fault) {
  const lines = text.value.split("\n");
  const line = Math.max(1, Number(fault.dataset.faultLine));
  const from = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
  text.focus();
  text.setSelectionRange(from, from + (lines[line - 1]?.length ?? 0));
  text.scrollTop = (text.scrollHeight / lines.length) * Math.max(0, line - 6);
}

// What was typed is not lost to a careless click.
let kept = text?.value;
text?.form.addEventListener("submit", () => { kept = text.value; });
addEventListener("beforeunload", (event) => { if (text && text.value !== kept) event.preventDefault(); });
