/* The assistant beside the editor: the same conversation as on its own page, brought here when the panel is first opened.
   Rule: the editor's page carries nothing of it before that; templates, words and styles are those of /assistant. */

import { watchActs } from "./acts.js";
import { Chat } from "./chat.js";
import { lookAgain } from "./decide.js";
import { tieEditor } from "./editor.js";
import { follow } from "./live.js";
import { complain, find, findAll } from "./page.js";
import { piece } from "./proposals.js";

const LAST = "croft.assistant.last";

/** Fill `panel` from the assistant's page, already read as `page`. Returns the bridge to the editor. */
export function fillPanel(panel, page) {
  document.body.append(...findAll("template:not([id=toast], [id=palette-option]), dialog#save-as", page)
    .filter((each) => !document.getElementById(each.id)).map((each) => document.adoptNode(each)));
  find("#keys dl").append(...findAll("#keys [data-does]:not([data-does^='/'])", page)
    .filter((row) => !find(`#keys [data-press="${CSS.escape(row.dataset.press)}"]`)).map((row) => document.adoptNode(row)));
  const threads = document.adoptNode(find("[data-threads]", page));
  threads.hidden = true;
  panel.append(document.adoptNode(find("[data-chat]", page)), threads);
  find("[data-panel-wait]", panel)?.remove();
  return begin(panel, threads);
}

function begin(panel, threads) {
  const address = find("#panel-page");
  const chat = new Chat(find("[data-chat]", panel), {
    onOpened(id) {
      localStorage.setItem(LAST, id);
      address.href = id ? `/assistant/${id}` : "/assistant";
    },
  });
  const editor = tieEditor(chat);
  watchActs(chat, editor);
  follow({ assistant: (status) => chat.showEngine(status), approvals: () => lookAgain((run) => chat.decided(run)) });
  switchThreads(panel, chat, threads);
  watchKeys(chat);
  const last = localStorage.getItem(LAST);
  // Where it was left; the editor keeps the keys.
  if (last) chat.open(last, { focus: false });
  return { told: (state) => editor.told(state), focus: () => chat.composer.focus() };
}

/** The list takes the conversation's place while one chooses. */
function switchThreads(panel, chat, threads) {
  const button = find("#panel-threads");
  const show = (listed) => {
    threads.hidden = !listed;
    chat.root.hidden = listed;
    button.setAttribute("aria-pressed", String(listed));
  };
  const read = async (path) => {
    try {
      find("[data-field=threads]", threads).replaceWith(await piece(path, "[data-threads] [data-field=threads]"));
    } catch (error) {
      complain(error);
    }
  };
  button.addEventListener("click", async () => {
    show(threads.hidden);
    if (threads.hidden) return chat.composer.focus();
    await read("/assistant");
    find("input[type=search]", threads).focus();
  });
  find("#panel-new").addEventListener("click", async () => {
    show(false);
    await chat.open("");
  });
  threads.addEventListener("click", async (event) => {
    const link = event.target.closest("a[href^='/assistant']");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const row = link.closest("[data-thread]");
    if (!row) return read(link.getAttribute("href"));
    show(false);
    await chat.open(row.dataset.thread);
  });
  threads.addEventListener("submit", (event) => {
    event.preventDefault();
    read(`/assistant?${new URLSearchParams(new FormData(event.target))}`);
  });
}

function watchKeys(chat) {
  const keys = {
    new: () => chat.open(""),
    write: () => chat.composer.focus(),
    stop: () => chat.running && chat.stop(),
    again: () => chat.last && !chat.running && chat.regenerate(chat.last.dataset.message),
  };
  document.addEventListener("croft:key", ({ detail }) => keys[detail]?.());
}
