"use strict";
/* The line to Croft's daemon: one JSON object a line over a unix socket, both ways.

   Rules: quiet while the daemon is away (it restarts now and then), and back with growing, jittered pauses; a line is never
   longer than the daemon takes, so that one large file does not cost the connection. */

const net = require("node:net");

const PROTOCOL = 1;
const LINE_MAX = 512 * 1024;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 30_000;
const REFUSED_PAUSE = 300_000; // it will not be nicer in a moment: another version, or no room

class Link {
  /** `hello` gives the first line's fields, `receive` gets each message, `changed` is told "here", "away" or "outdated". */
  constructor(path, { hello, receive, changed }) {
    Object.assign(this, { path, hello, receive, changed });
    this.state = "away";
    this.pause = FIRST_PAUSE;
    this.closed = false;
    this.connect();
  }

  connect() {
    const socket = (this.socket = net.connect(this.path));
    let rest = "";
    socket.setEncoding("utf8");
    socket.on("connect", () => this.write({ type: "hello", protocol: PROTOCOL, ...this.hello() }));
    socket.on("data", (piece) => {
      const lines = (rest + piece).split("\n");
      rest = lines.pop();
      for (const line of lines) this.take(line);
    });
    socket.on("error", () => {}); // "close" follows and says it all
    socket.on("close", () => this.lost());
  }

  take(line) {
    let message;
    try {
      message = JSON.parse(line);
    } catch {
      this.socket.destroy(); // half a line of a daemon that died
      return;
    }
    if (message.type === "welcome") {
      this.pause = FIRST_PAUSE;
      this.become("here");
    } else if (message.type === "refused") {
      this.pause = REFUSED_PAUSE;
      if (message.code === "version") this.become("outdated");
    }
    this.receive(message);
  }

  lost() {
    if (this.closed) return;
    if (this.state === "here") this.become("away");
    this.timer = setTimeout(() => this.connect(), this.pause * (0.5 + Math.random() / 2));
    this.pause = this.pause === REFUSED_PAUSE ? FIRST_PAUSE : Math.min(this.pause * 2, LONGEST_PAUSE);
  }

  become(state) {
    if (this.state === state) return;
    this.state = state;
    this.changed(state);
  }

  /** Send `message` if the daemon is there. Says whether it was. */
  send(message) {
    return this.state === "here" && this.write(message);
  }

  write(message) {
    const line = JSON.stringify(message);
    if (Buffer.byteLength(line) >= LINE_MAX) return false;
    this.socket.write(`${line}\n`);
    return true;
  }

  dispose() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket.destroy();
  }
}

module.exports = { Link, LINE_MAX };
