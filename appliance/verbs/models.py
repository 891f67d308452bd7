"""Language models, and long work of every kind."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from appliance.errors import CroftError, Unavailable
from appliance.settings import Settings
from appliance.verbs.base import Verbs, table, visible, when

if TYPE_CHECKING:
    from appliance.control import Control

LOOK_SECONDS = 0.5
UNFINISHED = ("queued", "running")
FITS = {"fits": "fits", "big": "too big"}


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    group = verbs.group("models", "language models for the assistant")
    listed = group.add("list", look, show, "list what is offered, what fits this machine and what is installed")
    listed.add_argument("--language", choices=("en", "ar"), default="en", help="which to suggest a model for")
    pull = group.add("pull", begin, ended, "download one; without a name the one that suits this machine")
    pull.add_argument("name", nargs="?", default="", help="a name of the list, or an https address")
    pull.add_argument("--sha256", default="", help="what a model from an address has to have")
    pull.add_argument("--as", dest="called", default="", metavar="NAME", help="what a model from an address is called")
    pull.add_argument("--anyway", action="store_true", help="even if it is too big for this machine")
    pull.add_argument("--no-wait", action="store_true", help="do not follow it to its end")
    adopt = group.add("add", begin, ended, "take in a file that lies in the models folder")
    adopt.add_argument("name", metavar="FILE")
    use = group.add("use", lambda a, s, c: act(c, a.name, "use", context=a.context), done_with("use"), "choose one")
    use.add_argument("name")
    use.add_argument("--context", type=int, default=0, help="tokens of conversation; the most that fits when left out")
    remove = group.add("remove", lambda a, s, c: act(c, a.name, "remove"), done_with("remove"), "delete one")
    remove.add_argument("name")
    group.add("measure", begin, ended, "measure how fast the model in use answers, in twenty seconds")
    group.add("check", begin, ended, "give the model in use eight small coding tasks, each run in a rehearsal")
    jobs = verbs.group("jobs", "long work under way")
    jobs.add("list", lambda a, s, c: c.call("GET", "/api/jobs"), show_jobs, "list what is under way and what ended")
    for action in ("pause", "resume", "cancel"):
        verb = jobs.add(action, tell, lambda answer: print(answer["job"]["state"]), f"{action} one")
        verb.add_argument("id")


def look(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    """Every model. Raises CroftError."""
    return control.call("GET", f"/api/models?language={args.language}")


def act(control: Control, name: str, action: str, **how: Any) -> Any:
    """One action on one model. Raises CroftError."""
    return control.call("POST", f"/api/models/{quote(name, safe='')}/{action}", how)


def tell(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    """Pause, resume or cancel. Raises CroftError."""
    return control.call("POST", f"/api/jobs/{quote(args.id, safe='')}/{args.action}")


def begin(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    """Begin a job and follow it to its end. Raises CroftError when it fails."""
    answer = _begun(args, control)
    if getattr(args, "no_wait", False):
        return answer
    return {"job": _followed(args, control, answer["job"]["id"])}


def _begun(args: argparse.Namespace, control: Control) -> Any:
    if args.action == "pull" and "://" in args.name:
        wanted = {"url": args.name, "sha256": args.sha256, "name": args.called}
        return control.call("POST", "/api/models", wanted)
    if args.action == "pull":
        return act(control, args.name or _suggested(control), "pull", anyway=args.anyway)
    if args.action == "add":
        return act(control, args.name, "adopt")
    return act(control, _in_use(control), args.action)


def _suggested(control: Control) -> str:
    first = control.call("GET", "/api/models")["first_choice"]
    if not first:
        raise Unavailable(
            "no model of the list fits this machine", hint="Set a remote endpoint in the settings instead."
        )
    return str(first)


def _in_use(control: Control) -> str:
    for row in control.call("GET", "/api/models")["models"]:
        if row["in_use"]:
            return str(row["name"])
    raise Unavailable("no model is in use", hint="`croft models pull` downloads one.")


def _followed(args: argparse.Namespace, control: Control, job: str) -> Any:
    told = ""
    while (found := control.call("GET", f"/api/jobs/{job}")["job"])["state"] in UNFINISHED:
        words = _words(found)
        if words != told and not args.json:
            print(words, flush=True)
        told = words
        time.sleep(LOOK_SECONDS)
    if found["state"] == "failed":
        raise CroftError(visible(f"cannot {args.action} {found['subject']}: {found['cause']}"), hint=_next(found))
    return found


def _next(job: dict[str, Any]) -> str:
    return f"`croft jobs resume {job['id']}` tries again." if "resume" in job["actions"] else "Try again."


def _words(job: dict[str, Any]) -> str:
    if not job["total"]:
        return visible(job["phase"] or job["state"])
    if job["kind"] not in ("model.pull", "model.adopt"):
        return visible(f"{job['phase']}: {job['current']} of {job['total']}")
    pace = f", {job['speed'] / 1e6:.1f} MB/s, {job['left']} s left" if job["left"] is not None else ""
    return visible(f"{job['phase']}: {size(job['current'])} of {size(job['total'])}{pace}")


def size(count: int) -> str:
    """Bytes as sources of models give them."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def fit(row: dict[str, Any]) -> str:
    """In words, before anything is downloaded."""
    found = row["fit"]
    if found["verdict"] == "big":
        return f"too big: needs about {size(found['need'])}, this machine has {size(found['have'])}"
    return f"{FITS[found['verdict']]} (about {size(found['need'])})"


def show(answer: dict[str, Any]) -> None:
    rows = [
        (
            ("* " if row["in_use"] else "  ") + row["name"],
            size(row["size"]),
            "yes" if row["installed"] else row["job"]["state"] if row["job"] else "-",
            f"{row['tokens_per_second']:.1f}/s" if row["tokens_per_second"] else "-",
            " ".join(row["languages"]) or "-",
            fit(row),
        )
        for row in answer["models"]
    ]
    table(("  MODEL", "SIZE", "INSTALLED", "TOKENS", "LANGUAGES", "THIS MACHINE"), rows)
    if answer["first_choice"]:
        print(f"\nFor this machine: {answer['first_choice']}")
    for one in answer["found"]:
        print(f"Found in the models folder: {one['file']} ({size(one['size'])}); `croft models add {one['file']}`")


def ended(answer: dict[str, Any]) -> None:
    job = answer["job"]
    if job["state"] != "done":
        print(f"{job['subject']}: {job['state']} ({job['id']})")
    elif job["kind"] == "model.measure":
        print(f"{job['result']['tokens_per_second']} tokens a second")
    elif job["kind"] == "model.check":
        table(("TASK", "SOLVED"), [(name, "yes" if good else "no") for name, good in job["result"]["tasks"].items()])
        print(f"\n{job['result']['passed']} of {job['result']['total']} solved.")
    else:
        print(f"{job['subject']} is installed: {size(job['result']['size'])}, sha256 {job['result']['sha256']}")


def done_with(action: str) -> Any:
    """What to say after ``action``."""
    said = {"use": "The assistant uses it from its next start.", "remove": "It is deleted."}
    return lambda answer: print(said[action])


def show_jobs(answer: dict[str, Any]) -> None:
    rows = [
        (job["id"], job["kind"], job["subject"], job["state"], _words(job), when(job["ended_at"] or job["created_at"]))
        for job in answer["jobs"]
    ]
    table(("JOB", "KIND", "OF", "STATE", "HOW FAR", "WHEN"), rows)
