/* From the server's sanitised HTML to nodes, without any sink that makes markup out of strings (WEB-3, WEB-13).
   Rule: an element or attribute that is not on this list is not made, whatever the server says; what cannot be read is shown as text. */

const ELEMENTS = new Set(["p", "br", "hr", "ul", "ol", "li", "blockquote", "strong", "em", "del", "code", "pre", "span", "bdi", "div",
  "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "a"]);
const EMPTY = new Set(["br", "hr"]);
const ATTRIBUTES = new Set(["class", "dir", "start", "title", "role", "tabindex", "data-open", "data-code", "data-path", "data-line"]);
const ADDRESS = /^(https?:\/\/|mailto:)/i;
const TOKEN = /<\/([a-z][a-z0-9]*)\s*>|<([a-z][a-z0-9]*)((?:\s+[a-z-]+(?:="[^"]*")?)*)\s*\/?>|<!--[^]*?-->|([^<]+|<)/g;
const ATTRIBUTE = /([a-z-]+)(?:="([^"]*)")?/g;
const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };

const read = (text) => text.replace(/&(?:#(\d{1,7})|#x([0-9a-f]{1,6})|([a-z]+));/gi, (whole, decimal, hex, name) => {
  if (name) return NAMED[name] ?? whole;
  const point = decimal ? Number(decimal) : parseInt(hex, 16);
  return point <= 0x10ffff ? String.fromCodePoint(point) : whole;
});

/** The nodes that `html` describes. */
export function nodesOf(html) {
  const root = document.createDocumentFragment();
  const open = [root];
  for (const [whole, closing, opening, attributes, text] of html.matchAll(TOKEN)) {
    const here = open.at(-1);
    if (text !== undefined) here.append(read(text));
    else if (closing) close(open, closing);
    else if (opening && ELEMENTS.has(opening)) {
      const made = element(opening, attributes);
      here.append(made);
      if (!EMPTY.has(opening)) open.push(made);
    } else if (opening) here.append(whole);
  }
  return root;
}

function close(open, name) {
  const at = open.findLastIndex((each, place) => place > 0 && each.localName === name);
  if (at > 0) open.length = at;
}

function element(name, attributes) {
  const made = document.createElement(name);
  for (const [, key, value = ""] of attributes.matchAll(ATTRIBUTE)) {
    if (ATTRIBUTES.has(key)) made.setAttribute(key, read(value));
    else if (key === "href" && name === "a") link(made, read(value));
  }
  return made;
}

function link(made, address) {
  if (!ADDRESS.test(address)) return;
  Object.assign(made, { href: address, rel: "noopener noreferrer", target: "_blank" });
}
