/* The one event stream of a page: connect, retry with growing jittered pauses, mark what is shown as stale meanwhile.
   Rule: a person always sees either live data or how old the data is. */

import { announce, ask, find, onceShown } from "./page.js";
import { exact, t } from "./text.js";

const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 30_000;
const QUIET_BEFORE_BANNER = 2500;

/** Open `path` and hand each event's data to `handlers[event]`. `onState("live" | "lost")` is told of changes.
    With `resumes`, a stream that comes back goes on after the last event it was told; once `over()`, its end is the end.
    Returns what ends it. */
export function connect(path, handlers, onState = () => {}, { resumes = false, over = () => false } = {}) {
  let ended = false;
  const live = { source: null, pause: FIRST_PAUSE, timer: 0, lostAt: 0, state: "", after: "", over: () => ended || over() };
  const open = () => {
    if (live.over()) return;
    clearTimeout(live.timer);
    live.source?.close();
    live.source = new EventSource(live.after ? `${path}${path.includes("?") ? "&" : "?"}after=${live.after}` : path);
    live.source.addEventListener("open", () => found(live, onState));
    live.source.addEventListener("error", () => lost(live, open, onState));
    for (const [name, handle] of Object.entries(handlers)) {
      live.source.addEventListener(name, (event) => {
        found(live, onState);
        if (resumes && event.lastEventId) live.after = event.lastEventId;
        handle(JSON.parse(event.data));
      });
    }
  };
  onceShown(open);
  addEventListener("online", open);
  addEventListener("pagehide", () => live.source?.close());
  find("#lost button")?.addEventListener("click", open);
  return () => {
    ended = true;
    clearTimeout(live.timer);
    live.source?.close();
  };
}

const followed = new Map();
let endFollowing = null;
let planned = false;

/** Hand each event of the topics that `handlers` names to its handler. Whoever follows what on a page, one stream brings it all. */
export function follow(handlers) {
  for (const [topic, handle] of Object.entries(handlers)) followed.set(topic, [...(followed.get(topic) ?? []), handle]);
  if (planned) return;
  planned = true;
  onceShown(() => {
    planned = false;
    endFollowing?.();
    const each = [...followed].map(([topic, handles]) => [topic, (data) => handles.forEach((handle) => handle(data))]);
    endFollowing = connect(`/api/events?topics=${[...followed.keys()].join(",")}`, Object.fromEntries(each));
  });
}

function found(live, onState) {
  live.pause = FIRST_PAUSE;
  clearTimeout(live.timer);
  if (live.state === "live") return;
  live.state = "live";
  live.lostAt = 0;
  showLost(0);
  onState("live");
}

function lost(live, open, onState) {
  // The browser would retry by itself at a fixed pace, and not at all after an answer such as 503.
  live.source.close();
  if (live.over()) return;
  live.lostAt ||= Date.now();
  const pause = live.pause * (0.5 + Math.random() / 2);
  live.pause = Math.min(live.pause * 2, LONGEST_PAUSE);
  live.timer = setTimeout(async () => {
    if (await signedOut()) return;
    if (Date.now() - live.lostAt >= QUIET_BEFORE_BANNER) showLost(live.lostAt);
    open();
  }, pause);
  if (live.state !== "lost") onState("lost");
  live.state = "lost";
}

async function signedOut() {
  try {
    await ask("GET", "/api/sessions");
  } catch (error) {
    if (error.status !== 401) return false;
    find("#lost").hidden = true;
    find("#signed-out").hidden = false;
    announce(find("#signed-out p").textContent);
    return true;
  }
  return false;
}

function showLost(since) {
  const banner = find("#lost");
  document.body.toggleAttribute("data-stale", Boolean(since));
  if (!banner) return;
  banner.hidden = !since;
  if (!since) return;
  const said = t("js.lost", { time: exact(since / 1000) });
  if (find("p", banner).textContent !== said) find("p", banner).textContent = said;
}
