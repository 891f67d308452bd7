/* The blocks of an answer as they come: prose and code, each replaced only while it is still being written.
   Rule: a finished block is never built again; code is what the server sent as code, never read back from the page. */

import { nodesOf } from "./markup.js";
import { copyOf, find, findAll } from "./page.js";
import { t } from "./text.js";

const SHELL = /^(sh|bash|zsh|shell|console|shell-?session|terminal)$/i;

/** The element of block `n` in `list`, if it is there. */
const at = (list, n) => find(`:scope > [data-n="${n}"]`, list);
const slot = (made) => (made.matches("[data-field=html]") ? made : find("[data-field=html]", made));

/** Put a patch of the server where it belongs in `list`: a whole block, or text that goes on at the open place of one. */
export function put(list, patch) {
  const there = at(list, patch.n);
  if (there?.dataset.done) return;
  if ("add" in patch) {
    if (there) goOn(there, patch.add);
    return;
  }
  const fits = there && there.classList.contains("code") === (patch.kind === "code");
  const made = fits ? there : copyOf(patch.kind === "code" ? "block-code" : "block-prose");
  made.dataset.n = patch.n;
  if (there && !fits) there.replaceWith(made);
  else if (!there) list.insertBefore(made, [...list.children].find((each) => Number(each.dataset.n) > patch.n) ?? null);
  fill(made, patch);
}

function goOn(made, text) {
  const place = slot(made);
  (find("[data-open]", place) ?? place).append(text);
  if (made.classList.contains("code")) made.dataset.code += text;
}

function fill(made, patch) {
  slot(made).replaceChildren(nodesOf(patch.html));
  if (patch.done) made.dataset.done = "yes";
  if (patch.kind === "code") name(made, patch.lang ?? "", patch.code ?? "");
  else dress(made, patch.codes ?? []);
}

function name(figure, lang, code) {
  Object.assign(figure.dataset, { code, lang });
  find("[data-field=lang]", figure).textContent = lang || t("chat.text");
  const run = find("[data-do=run]", figure);
  if (run) run.hidden = !SHELL.test(lang); // a viewer has none
}

/** What prose needs of scripts: code inside it, in a list for instance, gets the frame that other code has. */
export function dress(prose, codes) {
  // A table that is wider than the page is moved by keys as well.
  findAll(".wide", prose).forEach((table) => { table.tabIndex = 0; });
  for (const pre of findAll("pre[data-code]", prose)) {
    const found = codes[Number(pre.dataset.code)];
    if (!found || pre.closest(".block.code")) continue;
    const figure = copyOf("block-code");
    pre.replaceWith(figure);
    find("pre", figure).replaceWith(pre);
    name(figure, found.lang, found.code);
  }
}

/** The commands of a shell block, one a line: prompts and remarks left out, continued lines joined. */
export function commandsOf(code) {
  return code.replace(/\\\n\s*/g, " ").split("\n").map((line) => line.replace(/^\s*[$%>]\s+/, "").trim())
    .filter((line) => line && !line.startsWith("#"));
}

const ENDINGS = { python: "py", py: "py", javascript: "js", js: "js", typescript: "ts", ts: "ts", html: "html", css: "css", json: "json",
  toml: "toml", yaml: "yaml", yml: "yml", markdown: "md", md: "md", sql: "sql", go: "go", rust: "rs", c: "c", cpp: "cpp", "c++": "cpp",
  java: "java", ruby: "rb", php: "php", bash: "sh", sh: "sh", shell: "sh", dockerfile: "Dockerfile", makefile: "Makefile" };

/** A name to begin with for a block that is saved: what its first line says, else one that fits its language. */
export function nameFor(code, lang) {
  const said = /^\s*(?:#|\/\/|--|;|<!--|\/\*)\s*(?:file(?:name)?:\s*)?([\w.-]+(?:\/[\w.-]+)*\.\w{1,8})\b/i.exec(code.split("\n", 1)[0]);
  if (said) return said[1];
  const ending = ENDINGS[lang.toLowerCase()] ?? "txt";
  return /^[A-Z]/.test(ending) ? ending : `new.${ending}`;
}
