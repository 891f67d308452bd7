/* Small tools every script of the pages uses: asking the server, toasts, dialogs, icons.
   Rule: text enters the page by textContent only; nothing here makes markup out of strings. */

import { has, lang, t } from "./text.js";

export const find = (selector, root = document) => root.querySelector(selector);
export const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

/** Do `work` once the page has loaded and been painted: what keeps it true must not hold up the first sight of it. */
export function onceShown(work) {
  if (document.readyState === "complete") work();
  else addEventListener("load", () => setTimeout(work), { once: true });
}

/** Hold `list` at its end for as long as `following()`. Lines out of sight get their height only when they come near
    (content-visibility), so that the end moves for some frames after it was reached. */
export function keepAtEnd(list, following, frames = 5) {
  if (!following()) return;
  list.scrollTop = list.scrollHeight;
  if (frames) requestAnimationFrame(() => keepAtEnd(list, following, frames - 1));
}

/** What the server said no to, in words for people. */
export class Refused extends Error {
  constructor(status, message, hint, code) {
    super(message);
    this.status = status;
    this.hint = hint ?? "";
    this.code = code ?? "";
  }
}

/** Ask the API. Returns the JSON answer; throws Refused with the server's words, or ours when it cannot be reached.
    What needs a fresh proof of identity is asked for again, exactly as it was, once the person has given one. */
export async function ask(method, path, signal, body) {
  let response;
  const headers = { Accept: "application/json", ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  try {
    response = await fetch(path, { method, headers, cache: "no-store", signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, t("js.unreachable"));
  }
  const answer = response.headers.get("content-type")?.startsWith("application/json") ? await response.json() : {};
  if (response.ok) return answer;
  if (response.status === 401) throw new Refused(401, t("js.signed_out"));
  if (answer.error?.code === "step_up" && document.getElementById("step-up")) {
    const { proveAgain } = await import("./step_up.js");
    if (await proveAgain()) return ask(method, path, signal, body);
  }
  throw refusal(response.status, answer.error);
}

/** The API speaks English; people who read another language get the catalogue's words for the code. */
function refusal(status, error) {
  if (!error) return new Refused(status, t("js.unreachable"));
  if (lang === "en") return new Refused(status, error.message, error.hint, error.code);
  return new Refused(status, t(has(`fault.${error.code}`) ? `fault.${error.code}` : "fault.error"), "", error.code);
}

/** A copy of the <template> with this id, as its first element. */
export const copyOf = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

/** Make an icon another drawing of the sprite. */
export function setIcon(svg, name) {
  if (!svg || svg.dataset.icon === name) return;
  svg.dataset.icon = name;
  const use = document.createElementNS(svg.namespaceURI, "use");
  use.setAttribute("href", `${document.documentElement.dataset.icons}#${name}`);
  svg.replaceChildren(use);
}

/** Say what became of something the person just did. Bad news stays until it is closed. */
export function toast(text, kind = "good", hint = "") {
  const box = document.getElementById("toasts");
  const item = copyOf("toast");
  item.dataset.kind = kind;
  find("[data-field=text]", item).textContent = text;
  find("[data-field=hint]", item).textContent = hint;
  setIcon(item.querySelector(".icon"), kind === "bad" ? "state-failed" : "check");
  item.querySelector("button").addEventListener("click", () => item.remove());
  box.append(item);
  while (box.children.length > 3) box.firstElementChild.remove();
  if (kind !== "bad") setTimeout(() => item.remove(), 5000);
}

/** Tell of a failure: what the server said, and what to do. */
export function complain(error) {
  if (!(error instanceof Refused)) throw error;
  toast(error.message, "bad", error.hint);
}

/** Ask before something that cannot be undone; the button names the thing. Resolves to true or false. */
export function confirmed(question, detail, verb) {
  const dialog = document.getElementById("confirm");
  find("h2", dialog).textContent = question;
  find("p", dialog).textContent = detail;
  find("[value=yes]", dialog).textContent = verb;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Put text on the clipboard and say so on the button for a moment. */
export async function copyText(text, button) {
  await navigator.clipboard.writeText(text);
  setIcon(find(".icon", button), "check");
  announce(t("js.copied"));
  setTimeout(() => setIcon(find(".icon", button), "copy"), 1500);
}

/** Words for those who listen rather than look. */
export function announce(text) {
  const region = document.getElementById("announcer");
  if (region && region.textContent !== text) region.textContent = text;
}

// The same set as webui/filters.py: control characters, and those that change direction or are not seen.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

/** Text with every unseen character spelt out, as nodes. */
export function spell(text) {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(UNSEEN)) {
    nodes.push(text.slice(from, match.index));
    const sign = document.createElement("span");
    sign.className = "sign";
    sign.textContent = `U+${match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    nodes.push(sign);
    from = match.index + match[0].length;
  }
  nodes.push(text.slice(from));
  return nodes;
}
