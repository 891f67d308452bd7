"use strict";
/* What the extension says while it runs, in the language its person chose in Croft.

   VS Code has no Arabic of its own, so its display language cannot decide: Croft tells the language when it greets a window. */

const TABLES = { en: require("./words/en.json"), ar: require("./words/ar.json") };
let table = TABLES.en;

/** Speak `language` from now on, as far as it is known ("ar-EG" is "ar"). */
function speak(language) {
  table = TABLES[String(language || "").split("-")[0]] ?? table;
}

/** The sentence under `key`, its {0}, {1} ... filled in. */
function t(key, ...values) {
  return table[key].replace(/\{(\d)\}/g, (whole, at) => values[at] ?? whole);
}

module.exports = { speak, t };
