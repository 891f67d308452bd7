/* The string catalogue in the browser: the same keys, plural rules and units as webui/i18n.py.
   Rule: no sentence is put together here; every text is a key of the catalogue with values filled in. */

const block = document.getElementById("strings");
const strings = block ? JSON.parse(block.textContent) : {};
export const lang = document.documentElement.lang || "en";
const rightToLeft = document.documentElement.dir === "rtl";
// Made when first needed: reading a language's rules costs tens of milliseconds, which the first sight of a page need not wait for.
let plurals, exactTime;
const form = (n) => (plurals ??= new Intl.PluralRules(lang)).select(n);
const otherDirection = rightToLeft ? /[0-9A-Za-z\u00c0-\u058f]/ : /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/;
const bidiControls = /[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]/g;

/** Texts that come later, with a part of another page. */
export const addStrings = (more) => Object.assign(strings, more);

/** Whether the catalogue of this page holds `key`. */
export const has = (key) => key in strings;

/** The text for `key`, with `params` filled in; `n` chooses the plural form. */
export function t(key, params = {}) {
  const found = strings[key] ?? key;
  const text = typeof found === "string" ? found : found[form(Number(params.n ?? 0))] ?? found.other;
  return text.replace(/\{([a-z_]+)\}/g, (whole, name) => (name in params ? isolate(params[name]) : whole));
}

export function bytes(count) {
  let [size, unit] = [count, "B"];
  for (const larger of ["KB", "MB", "GB", "TB"]) {
    if (size < 1000) break;
    [size, unit] = [size / 1024, larger];
  }
  return leftToRight(`${size.toFixed(size < 10 && "GBTB".includes(unit) && unit !== "B" ? 1 : 0)} ${unit}`);
}

export const percent = (value) => leftToRight(`${Math.round(value)}%`);

export function duration(seconds) {
  let rest = Math.max(0, Math.floor(seconds));
  const parts = [];
  for (const [unit, size] of [["days", 86400], ["hours", 3600], ["minutes", 60], ["seconds", 1]]) {
    const n = Math.floor(rest / size);
    rest %= size;
    if (n || (unit === "seconds" && !parts.length)) parts.push(t(`time.duration.${unit}`, { n }));
    else if (parts.length) break;
    if (parts.length === 2) break;
  }
  return parts.length === 1 ? parts[0] : t("time.duration.both", { a: parts[0], b: parts[1] });
}

export function ago(ts) {
  const seconds = Math.max(0, Math.floor(Date.now() / 1000 - ts));
  for (const [unit, size] of [["days", 86400], ["hours", 3600], ["minutes", 60]]) {
    if (seconds >= size) return t(`time.ago.${unit}`, { n: Math.floor(seconds / size) });
  }
  return t("time.ago.now");
}

/** The exact moment in the reader's own zone. */
export function exact(ts) {
  exactTime ??= new Intl.DateTimeFormat(`${lang}-u-ca-gregory-nu-latn`, { dateStyle: "medium", timeStyle: "short" });
  return exactTime.format(new Date(ts * 1000));
}

/** Point a <time data-ago> at another moment. */
export function setTime(element, ts) {
  element.hidden = !ts;
  if (!ts) return;
  element.dataset.ago = ts;
  element.dateTime = new Date(ts * 1000).toISOString();
  element.title = exact(ts);
  const said = ago(ts);
  if (element.textContent !== said) element.textContent = said;
}

function isolate(value) {
  if (typeof value !== "string") return String(value);
  const clean = value.replace(bidiControls, "");
  return otherDirection.test(clean) ? `\u2068${clean}\u2069` : clean;
}

const leftToRight = (text) => (rightToLeft ? `\u2066${text}\u2069` : text);
