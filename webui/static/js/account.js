/* The account page: what was removed leaves the list, and codes are copied, saved and printed.
   Rule: a row goes only after the server said that it is gone. */

import { announce, find, findAll, setIcon, toast } from "./page.js";
import { t } from "./text.js";

document.addEventListener("croft:done", (event) => event.target.closest("[data-row]")?.remove());

/** Ten codes, each on a line, under what they are for. */
function codesText() {
  const sheet = find("[data-codes]");
  return `${sheet.dataset.codes}\n\n${findAll("code", sheet).map((code) => code.textContent).join("\n")}\n`;
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([codesText()], { type: "text/plain" }));
  link.download = find("[data-do=save]").dataset.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function copy(button) {
  try {
    await navigator.clipboard.writeText(codesText());
    setIcon(find(".icon", button), "check");
    announce(t("js.copied"));
  } catch {
    toast(t("js.copy_failed"), "bad");
  }
}

find("[data-do=print]")?.addEventListener("click", () => print());
find("[data-do=save]")?.addEventListener("click", save);
find("[data-do=copy]")?.addEventListener("click", (event) => copy(event.currentTarget));
