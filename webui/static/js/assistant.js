/* The assistant's own page: the list beside the conversation, searching, naming, putting away. */

import { watchActs } from "./acts.js";
import { Chat } from "./chat.js";
import { lookAgain } from "./decide.js";
import { tieEditor } from "./editor.js";
import { follow } from "./live.js";
import { ask, complain, confirmed, find } from "./page.js";
import { pageAt } from "./proposals.js";
import { t } from "./text.js";

const PAUSE = 200;
const root = find("[data-chat]");
const chat = new Chat(root, { onTitle, onOpened });
const editor = tieEditor(chat);
let timer = 0;

watchActs(chat, editor);
follow({
  assistant: (status) => chat.showEngine(status),
  approvals: () => lookAgain((run) => chat.decided(run)),
  editor: (state) => editor.told(state),
});

function onTitle(id, title) {
  if (!title) return;
  find(".top h1").textContent = title;
  document.title = `${title} · Croft`;
  const row = find(`[data-thread="${CSS.escape(id)}"] .thread-title`);
  if (row) row.textContent = title;
}

/** A conversation that began on this page has an address from now on, a place in the list, and a menu. */
async function onOpened(id) {
  history.replaceState(null, "", `/assistant/${id}`);
  find("[data-composer]").action = `/assistant/${id}`;
  document.body.classList.add("one");
  await showList(`/assistant/${id}`, true);
}

async function showList(path, headToo = false) {
  try {
    const fresh = await pageAt(path);
    for (const part of ["[data-threads] [data-field=threads]", ...(headToo ? ["header.top"] : [])]) {
      find(part).replaceWith(document.adoptNode(find(part, fresh)));
    }
    onTitle(chat.id, root.dataset.title);
  } catch (error) {
    // The list as it stands is still true enough; the banner says that the connection is lost.
    if (error.status === undefined) throw error;
  }
}

find(".threads-find").addEventListener("input", (event) => {
  clearTimeout(timer);
  const form = event.currentTarget;
  timer = setTimeout(() => showList(`/assistant?${new URLSearchParams(new FormData(form))}`), PAUSE);
});

// The menu of this conversation.

const menu = () => find("[data-options]");
const change = (body) => ask("PATCH", `/api/conversations/${chat.id}`, undefined, body);

const OPTIONS = {
  async rename() {
    const dialog = document.getElementById("rename");
    const field = find("input", dialog);
    dialog.returnValue = "";
    dialog.showModal();
    field.select();
    await new Promise((resolve) => { dialog.addEventListener("close", resolve, { once: true }); });
    if (dialog.returnValue !== "yes" || !field.value.trim()) return;
    const { conversation } = await change({ title: field.value.trim() });
    root.dataset.title = conversation.title;
    field.value = conversation.title;
    onTitle(chat.id, conversation.title);
  },
  async pin(button) {
    await change({ pinned: toggled(button, "chat.pin", "chat.unpin") });
    await showList(`/assistant/${chat.id}`);
  },
  async archive(button) {
    await change({ archived: toggled(button, "chat.archive", "chat.unarchive") });
    await showList(`/assistant/${chat.id}`);
  },
  async delete() {
    if (!(await confirmed(t("chat.ask_delete"), t("chat.ask_delete_effect"), t("chat.delete")))) return;
    await ask("DELETE", `/api/conversations/${chat.id}`);
    location.assign("/assistant");
  },
};

function toggled(button, off, on) {
  const now = button.dataset.on !== "yes";
  button.dataset.on = now ? "yes" : "no";
  find("span", button).textContent = t(now ? on : off);
  return now;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-option]");
  if (menu()?.open && (button || !menu().contains(event.target))) menu().open = false;
  if (!button) return;
  try {
    await OPTIONS[button.dataset.option](button);
  } catch (error) {
    complain(error);
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !menu()?.open) return;
  menu().open = false;
  find("summary", menu()).focus();
});

// The keys of this page; the help names them.

const KEYS = {
  new: () => location.assign("/assistant#new"),
  write: () => chat.composer.focus(),
  stop: () => chat.running && chat.stop(),
  again: () => chat.last && !chat.running && chat.regenerate(chat.last.dataset.message),
};
document.addEventListener("croft:key", ({ detail }) => KEYS[detail]?.());
// Who asked for a new conversation wants to write; who came to look is left at the top of the page.
const begin = () => location.hash === "#new" && chat.composer.focus();
addEventListener("hashchange", begin);
begin();
