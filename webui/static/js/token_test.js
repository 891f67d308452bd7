/* Tries a token that was just made as a program would: the list of models, then a short answer.
   Rule: the token is sent to this appliance alone, without the page's own cookie, so that what works here works elsewhere. */

import { find } from "./page.js";
import { t } from "./text.js";

const box = find(".tool-test");
const result = find("[data-field=result]", box);
const QUESTION = { model: "croft", messages: [{ role: "user", content: "Say hello in one short sentence." }], max_tokens: 24, stream: true };

function say(key, kind, params = {}) {
  result.dataset.kind = kind;
  result.textContent = t(`tokens.tested.${key}`, params);
}

async function ask(path, body) {
  const answer = await fetch(path, {
    method: body ? "POST" : "GET",
    credentials: "omit",
    headers: { Authorization: `Bearer ${box.dataset.token}`, ...(body && { "Content-Type": "application/json" }) },
    body: body && JSON.stringify(body),
  });
  if (answer.ok) return answer;
  const { error } = await answer.json();
  throw new Error(error.message);
}

/** The text of a streamed answer; an error may come as an event, since an engine that starts is waited for. */
async function read(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text.trim();
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    if (lines.some((line) => line.startsWith(":"))) say("starting", "busy");
    for (const line of lines.filter((each) => each.startsWith("data: {"))) {
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(event.error.message);
      text += event.choices[0]?.delta.content ?? "";
    }
  }
}

async function test() {
  const began = performance.now();
  try {
    say("models", "busy");
    const { data } = await (await ask("/v1/models")).json();
    if (!data.length) return say("none", "bad");
    say("asking", "busy");
    const text = await read(await ask("/v1/chat/completions", QUESTION));
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    say(text ? "works" : "silent", text ? "good" : "bad", { model: data.at(-1).id, text: text.slice(0, 200), seconds });
  } catch (error) {
    say("failed", "bad", { cause: error instanceof TypeError ? t("js.unreachable") : error.message });
  }
}

find("[data-do=test]", box).addEventListener("click", async (event) => {
  const button = event.currentTarget;
  button.disabled = true;
  await test();
  button.disabled = false;
});
