"""Talking to the assistant from a terminal: the answer as it comes, its proposals decided there, Ctrl-C ends it at the engine.

Rule: what a model writes never drives the terminal, and nothing it proposes happens without a yes that was typed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from appliance.errors import CroftError, Invalid, Unavailable
from appliance.settings import Settings
from appliance.verbs.base import Verbs, shown, visible

if TYPE_CHECKING:
    from appliance.control import Control

MOST_PIPED = 200_000  # characters
INTERRUPTED = 130
STEPS = {
    "list_files": "lists",
    "search_files": "searches for",
    "read_file": "reads",
    "write_file": "wants to write",
    "propose_command": "wants to run",
}


def register(verbs: Verbs) -> None:
    """Add the verb of this page to the command."""
    made = verbs.add("chat", chat, told, "ask the assistant; what is piped in goes along with the question")
    made.add_argument("--tools", action="store_true", help="let it look at files, and propose changes and commands")
    made.add_argument("--continue", dest="conversation", default="", metavar="ID", help="go on with this conversation")
    made.add_argument(
        "prompt", nargs="*", metavar="PROMPT", help="the question; without one they are typed, line by line"
    )
    made.set_defaults(exit=status_of)


def chat(args: argparse.Namespace, settings: Settings, control: Control) -> dict[str, Any]:
    """Ask once, or line by line; what the last answer was."""
    piped = "" if sys.stdin.isatty() else sys.stdin.read(MOST_PIPED + 1)
    if len(piped) > MOST_PIPED:
        piped = piped[:MOST_PIPED]
        _say(f"only the first {MOST_PIPED} characters go along")
    question = " ".join(args.prompt) or ("" if sys.stdin.isatty() else piped.strip())
    if not question and not sys.stdin.isatty():
        raise Invalid("there is no question", hint='Write it, as in `croft chat "What is in this file?" < notes.txt`.')
    conversation = args.conversation or control.call("POST", "/api/conversations", {})["conversation"]["id"]
    talk = _Talk(control, conversation, tools=args.tools, quiet=args.json)
    if question:
        return talk.answer(question, piped if args.prompt else "")
    last: dict[str, Any] = {"conversation": conversation, "state": "done"}
    for line in _typed():
        last = talk.answer(line, "")
    return last


def told(answer: dict[str, Any]) -> None:
    """Its words have been printed as they came."""


def status_of(answer: dict[str, Any]) -> int:
    """0 for an answer, 1 for one that failed, 130 for one that was stopped."""
    return {"done": 0, "stopped": INTERRUPTED}.get(answer["state"], 1)


def _typed() -> Iterator[str]:
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


class _Talk:
    """One conversation. ``quiet``: nothing is printed while it comes (--json)."""

    def __init__(self, control: Control, conversation: str, *, tools: bool, quiet: bool) -> None:
        self._control, self._path = control, f"/api/conversations/{quote(conversation, safe='')}"
        self._conversation, self._tools, self._quiet = conversation, tools, quiet
        self._told: set[str] = set()  # steps and proposals that were told

    def answer(self, question: str, piped: str) -> dict[str, Any]:
        """Ask, print, decide, to the end. Raises CroftError."""
        body: dict[str, Any] = {"text": question, "tools": self._tools}
        if piped:
            body["context"] = [{"kind": "pasted", "path": "", "text": piped}]
        answer = self._control.call("POST", f"{self._path}/messages", body)["answer"]["id"]
        text, state, over = "", "running", {}
        try:
            for name, data in self._control.events(f"{self._path}/stream?as=text"):
                if name == "text" and data["message"] == answer:
                    text += data["text"]
                    self._print(data["text"])
                elif name == "message" and data["message"] == answer and data["state"] != "running":
                    state, over = data["state"], data
                    break
                else:
                    self._tell(name, data, answer)
        except KeyboardInterrupt:
            self._control.call("POST", f"{self._path}/stop", {})
            state = "stopped"
        self._end(text, state, over)
        if state == "running":
            raise Unavailable(
                "Croft stopped answering before the answer ended", hint="The assistant's page has what came of it."
            )
        return {
            "conversation": self._conversation,
            "answer": answer,
            "state": state,
            "text": text,
            "usage": over.get("usage", {}),
        }

    def _print(self, text: str) -> None:
        if not self._quiet:
            print(shown(text), end="", flush=True)

    def _end(self, text: str, state: str, over: dict[str, Any]) -> None:
        if not self._quiet and text and not text.endswith("\n"):
            print(flush=True)
        if state == "stopped":
            _say("stopped; the model works on nothing any more")
        elif words := over.get("error") or over.get("words"):
            _say(str(words))

    def _tell(self, name: str, data: dict[str, Any], answer: str) -> None:
        """What goes on beside the words."""
        if data.get("message") not in (None, answer):
            return
        if name == "status" and data.get("phase") == "queued" and data["place"] > 1:
            _say(f"waits; {data['place'] - 1} before you")
        elif name == "status" and data.get("phase") == "engine" and data.get("state") == "starting":
            _say(str(data.get("words", "the engine starts")))
        elif name == "step" and data.get("about") and (key := f"{answer} {data['n']}") not in self._told:
            self._told.add(key)
            _say(f"it {STEPS.get(data['tool'], 'uses a tool:')} {data['about']}")
        elif name == "proposal" and data["id"] not in self._told and data["state"] == "open":
            self._told.add(data["id"])
            self._decide(data)

    def _decide(self, proposal: dict[str, Any]) -> None:
        """Show what is proposed and ask; where nobody can answer it waits for the pages."""
        try:
            if proposal["kind"] == "write":
                self._decide_write(proposal)
            else:
                self._decide_run(proposal["run"])
        except CroftError as error:
            _say(f"{error.message}. {error.hint}")

    def _decide_write(self, proposal: dict[str, Any]) -> None:
        for line in proposal["diff"].splitlines():
            print("       " + visible(line), file=sys.stderr)
        yes = _yes(f"Write {proposal['path']}?")
        if yes is not None:
            how = "accept" if yes else "reject"
            self._control.call("POST", f"{self._path}/proposals/{proposal['id']}/{how}", {})

    def _decide_run(self, run_id: str) -> None:
        run = self._control.call("GET", f"/api/commands/{run_id}")["run"]
        if run["state"] != "waiting":
            return
        _say(run["reason"])
        for argv in run["stages"]:
            words = " ".join(visible(json.dumps(word, ensure_ascii=False)) for word in argv)
            print(f"       runs   {words}", file=sys.stderr)
        print(f"       in     {visible(run['cwd'] or '.')}, rule {visible(run['rule'])}", file=sys.stderr)
        yes = _yes("Run it once?")
        if yes:
            self._control.call("POST", f"/api/commands/{run_id}/approve", {"hash": run["hash"]})
        elif yes is False:
            self._control.call("POST", f"/api/commands/{run_id}/deny", {})


def _yes(question: str) -> bool | None:
    """What was typed; None where there is nobody to type."""
    if not sys.stdin.isatty():
        print("       It waits for a decision on the assistant's page.", file=sys.stderr)
        return None
    print(f"       {visible(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _say(words: str) -> None:
    print(f"croft: {visible(words)}", file=sys.stderr)
