/* The editor's window as the assistant sees it: what is open there, and handing text over to it.
   Rule: what goes along with a question is fetched when the person adds it, and shown before it is sent (PRV-3). */

import { announce, ask, complain, find, findAll, toast } from "./page.js";
import { t } from "./text.js";

// The last question from the editor that a page of this browser took up: each is taken up once.
const ASKED = "croft.assistant.asked";

/** Tie `chat` to the editor, if a window of it is open. Returns what hands text over. */
export function tieEditor(chat) {
  const adds = find("[data-field=adds]", chat.root);
  const add = (kinds) => addContext(chat, kinds);
  findAll("[data-add]", chat.root).forEach((button) => button.addEventListener("click", () => {
    const kind = button.dataset.add;
    if (button.getAttribute("aria-pressed") === "true") chat.composer.setChips(chat.composer.chips.filter((chip) => chip.kind !== kind));
    else add([kind]);
    chat.composer.focus();
  }));
  return {
    /** What topic `editor` tells: the windows, what is in front of each, and what was asked about there. */
    told({ windows, asked }) {
      const front = windows.toSorted((a, b) => b.active_at - a.active_at)[0];
      chat.root.dataset.editor = front ? "yes" : "no";
      adds.hidden = !front;
      showWhatThereIs(adds, front?.file);
      if (!asked || localStorage.getItem(ASKED) === asked.id) return;
      localStorage.setItem(ASKED, asked.id);
      chat.composer.focus();
      if (asked.kind === "show") return;
      addContext(chat, [asked.kind], asked.window);
      announce(t(`chat.add.${asked.kind}`));
    },
    async insert(text) {
      await ask("POST", "/api/editor/insert", undefined, { text });
      toast(t("chat.inserted"));
    },
    async open(path, line) {
      try {
        await ask("POST", "/api/editor/open", undefined, { path, line });
      } catch (error) {
        complain(error);
      }
    },
    async openProposal(conversation, id) {
      await ask("POST", `/api/conversations/${conversation}/proposals/${id}/open`, undefined, {});
    },
  };
}

/** Only what there is can be added: without a selection there is no button for one. */
function showWhatThereIs(adds, file) {
  const there = { file: Boolean(file), selection: Boolean(file?.selected), diagnostics: Boolean(file?.errors || file?.warnings), names: true };
  findAll("[data-add]", adds).forEach((button) => { button.disabled = !there[button.dataset.add] && button.getAttribute("aria-pressed") !== "true"; });
}

async function addContext(chat, kinds, window = "") {
  try {
    const { chips } = await ask("POST", "/api/editor/context", undefined, { kinds, window });
    if (!chips.length) return toast(t("chat.context_failed"), "bad");
    chat.composer.addChips(chips);
  } catch (error) {
    complain(error);
  }
}
