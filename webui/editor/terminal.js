"use strict";
/* This machine's own model for programs in the terminal: OPENAI_BASE_URL leads to a listener here, which passes on to a socket of
   Croft's daemon. Unix sockets cross the wall around the workspace; no packet does.

   Rules: it listens on 127.0.0.1 alone and takes only who brings the key, which is made with each start of the editor and kept
   where only this account reads. All windows share one address, so that a terminal outlives the window it was opened in. */

const crypto = require("node:crypto");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");

const TAKE_OVER_MS = 5000;
// What belongs to one hop (RFC 9110 7.6.1), and the key, which ends here.
const DROPPED = new Set(["authorization", "connection", "host", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"]);

/** Listen and say where: `{url, key}`, and `dispose`. `folder` is the extension's own, `socket` where the daemon serves /v1. */
async function preset(folder, socket) {
  fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
  const file = path.join(folder, `terminal-${startOfTheEditor()}.json`);
  const server = http.createServer({ requestTimeout: 0 }, (request, answer) => pass(request, answer, socket, shared.key));
  server.on("error", () => {}); // another window has the address: see takeOver
  const shared = known(file) ?? (await claim(file, server));
  const takeOver = () => server.listening || server.listen(shared.port, "127.0.0.1");
  takeOver();
  const timer = setInterval(takeOver, TAKE_OVER_MS);
  const dispose = () => {
    clearInterval(timer);
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://127.0.0.1:${shared.port}/v1`, key: shared.key, dispose };
}

/** Take a free port and write it down with a new key; where another window was faster, theirs holds. */
async function claim(file, server) {
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const mine = { port: server.address().port, key: `croft-${crypto.randomBytes(32).toString("base64url")}` };
  const draft = `${file}.${process.pid}`;
  fs.writeFileSync(draft, JSON.stringify(mine), { mode: 0o600 });
  try {
    fs.linkSync(draft, file); // whole or not at all, and never over another's
    forgetOthers(file);
    return mine;
  } catch {
    await new Promise((closed) => server.close(closed));
    return known(file) ?? mine;
  } finally {
    fs.rmSync(draft, { force: true });
  }
}

function known(file) {
  try {
    return JSON.parse(fs.readFileSync(file, "utf8"));
  } catch {
    return undefined;
  }
}

function forgetOthers(file) {
  for (const name of fs.readdirSync(path.dirname(file))) {
    if (/^terminal-.*\.json$/.test(name) && name !== path.basename(file)) fs.rmSync(path.join(path.dirname(file), name), { force: true });
  }
}

/** What differs with each start of the editor: its main process, by number and start time (proc(5): field 22). */
function startOfTheEditor() {
  const fields = fs.readFileSync(`/proc/${process.ppid}/stat`, "utf8").split(") ").pop().split(" ");
  return `${process.ppid}-${fields[19]}`;
}

function pass(request, answer, socketPath, key) {
  if (!holds(request.headers.authorization, key)) return refuse(answer, 401, "invalid_api_key", "OPENAI_API_KEY of another start of the editor; open a new terminal");
  if (!request.url.startsWith("/v1/")) return refuse(answer, 404, "not_found", "only /v1 is served here");
  const headers = Object.fromEntries(Object.entries(request.headers).filter(([name]) => !DROPPED.has(name)));
  const onward = http.request({ socketPath, path: request.url, method: request.method, headers: { ...headers, host: "localhost" } });
  onward.on("response", (found) => {
    answer.writeHead(found.statusCode, found.headers);
    found.pipe(answer);
    found.on("error", () => answer.destroy());
  });
  onward.on("error", () => (answer.headersSent ? answer.destroy() : refuse(answer, 503, "unavailable", "Croft does not answer at the moment; try again in a few seconds")));
  answer.on("close", () => onward.destroy()); // who hangs up stops the model
  request.pipe(onward);
}

function holds(header, key) {
  const digest = (text) => crypto.createHash("sha256").update(text).digest();
  return crypto.timingSafeEqual(digest(header ?? ""), digest(`Bearer ${key}`));
}

/** In the shape that OpenAI's clients read. */
function refuse(answer, status, code, message) {
  answer.writeHead(status, { "content-type": "application/json", connection: "close" });
  answer.end(JSON.stringify({ error: { message, type: "invalid_request_error", param: null, code } }));
}

module.exports = { preset };
