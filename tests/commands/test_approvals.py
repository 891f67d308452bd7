"""Approvals: for exactly what was shown, once, by a person, within five minutes; and leases."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from support.commands import TOUCH

from appliance.commands.asker import Asker
from appliance.commands.assessing import Proposal
from appliance.commands.execution import Execution
from appliance.commands.judge import Policy
from appliance.commands.language import load
from appliance.commands.limits import MOST_PENDING
from appliance.commands.model import Actor, Limits
from appliance.errors import CroftError
from appliance.identity.users import Role

MODEL = Asker(Actor.AI, "operator", person="nobody-yet", name="Assistant", session="conversation-1")
SHOWN = Execution(
    scope="workspace",
    runtime="docker",
    image="sha256:1",
    uid=1000,
    workspace="croft-1",
    cwd="src",
    folder="801-10",
    programs=("/usr/bin/make 801-2",),
    stages=(("make", "all"),),
    env={"LANG": "C"},
    limits=Limits(),
    rule="make",
    policy="abc",
)


@pytest.mark.parametrize("field", Execution.__struct_fields__)
def test_every_field_is_in_the_hash(field):
    """POL-10, DECIDED 26: nothing that is bound can change without the hash."""
    other = {
        "scope": "host", "runtime": "process", "image": "sha256:2", "uid": 1001, "workspace": "croft-2", "cwd": "src/", "folder": "801-11",
        "programs": ("/usr/bin/make 801-3",), "stages": (("make", "all", ""),), "env": {"LANG": "C", "TERM": ""},
        "limits": Limits(seconds=31), "rule": "make2", "policy": "abd", "view": "rehearsal", "stdin": "x", "version": 3,
    }[field]  # fmt: skip
    assert replace(SHOWN, **{field: other}).digest() != SHOWN.digest()
    assert replace(SHOWN).digest() == SHOWN.digest()


def rules(text: str, defaults: str = "") -> Policy:
    return load(f"version = 1\n[defaults]\n{defaults}\n[paths]\nexclude = []\n{text}")


def test_words_cannot_move_between_arguments_or_stages():
    shapes = [(("a b",),), (("a", "b"),), (("a",), ("b",)), (("a", "", "b"),), (("a,b",),), (('a","b',),)]
    assert len({replace(SHOWN, stages=stages, programs=("",) * len(stages)).digest() for stages in shapes}) == len(
        shapes
    )


async def test_fifty_approvals_make_one_run(room):
    """POL-11: single use, also in a race."""
    run = await room.propose("sh", "-c", "echo x >> made")
    answers = await asyncio.gather(*(room.approve(run, status=None) for _ in range(50)))
    assert sum("run" in one for one in answers) == 1
    assert {one["error"]["code"] for one in answers if "error" in one} == {"decided"}
    await room.over(run["id"])
    assert (room.workspace / "made").read_text() == "x\n"
    assert (await room.approve(run, status=409))["error"]["code"] == "decided"
    (room.workspace / "made").unlink()


async def test_only_people_approve(room):
    """POL-11, AI-1: not a viewer, a token, the model, a GET, or the session the proposal came from."""
    run = await room.propose("sh", "-c", "true")
    await room.approve(run, who="viewer", status=403)
    for method, path in (("GET", "approve"), ("HEAD", "approve")):
        async with room.front.ask(method, f"/api/commands/{run['id']}/{path}", room.cookies["admin"]) as response:
            assert response.status in (404, 405)
    commands = room.front.commands
    operator = await room.front.member("operator")
    token = Asker(Actor.TOKEN, "admin", operator.id, token="tok_1")
    for asker in (MODEL, token, Asker(Actor.REGISTRY, "admin", "x"), Asker(Actor.HUMAN, "admin", operator.id)):
        with pytest.raises(CroftError):
            await commands.approve(asker, run["id"], run["hash"])
    model = replace(MODEL, person=operator.id)
    proposed = await commands.propose(model, Proposal(stages=(("sh", "-c", "true"),)))
    same = Asker(Actor.HUMAN, "admin", operator.id, session=MODEL.session)
    with pytest.raises(CroftError, match="session it came from"):
        await commands.approve(same, proposed.id, proposed.hash)
    assert (await room.over((await room.approve(run))["run"]["id"]))["state"] == "done"


async def test_a_wrong_hash_changes_nothing(room):
    run = await room.propose("sh", "-c", "true")
    for digest in ("", "0" * 64, run["hash"][:-1], run["hash"].upper(), run["hash"] + "x", "é"):
        answer = await room.approve(run, status=409, hash=digest)
        assert answer["error"]["code"] == "changed"
    assert (await room.approve(run, wait=10))["run"]["state"] == "done"


async def test_an_approval_lasts_five_minutes_of_uptime(room):
    """A jump of the wall clock neither ends nor extends it."""
    run = await room.propose("sh", "-c", "true")
    room.front.clock.wall += 86_400
    assert (await room.ask("GET", f"/api/commands/{run['id']}"))["run"]["state"] == "waiting"
    room.front.clock.boot += 299
    assert 0 < (await room.ask("GET", f"/api/commands/{run['id']}"))["run"]["expires_in"] <= 1
    room.front.clock.boot += 2
    assert (await room.ask("GET", f"/api/commands/{run['id']}"))["run"]["state"] == "expired"
    assert (await room.approve(run, status=409))["error"]["code"] == "expired"
    assert (await room.ask("GET", "/api/approvals"))["runs"] == []


_NOT_FOR_OPERATORS = """
[[rule]]
id = "no"
bin = "tool"
anything = true
mode = "deny"
roles = ["operator"]
"""


@pytest.mark.parametrize("what", ["policy", "folder", "program", "link", "role", "gone", "env", "limits"])
async def test_what_changed_after_it_was_shown_is_not_started(room, what):
    """POL-10: each of them between proposal and approval; the proposal is closed, nothing ran."""
    workspace, front = room.workspace, room.front
    folder = workspace / "here"
    folder.mkdir()
    room.broker.give(folder)
    room.broker.workspace_file("tool", "#!/bin/sh\ntouch ran\n")
    who = "viewer" if what in ("role", "gone") else "operator"
    run = await room.propose(str(workspace / "tool"), cwd="here", who=who)
    defaults = {"env": 'env = { LANG = "C" }', "limits": "asked_limits = { seconds = 9 }"}
    if what in ("policy", "env", "limits"):
        front.policy = rules("# another\n", defaults.get(what, ""))
    elif what == "folder":
        folder.rename(workspace / "there")
        (workspace / "here").mkdir()
    elif what == "link":
        folder.rename(workspace / "there")
        (workspace / "here").symlink_to("there")
    elif what == "program":
        (workspace / "tool").rename(workspace / "old")
        room.broker.workspace_file("tool", "#!/bin/sh\ntouch ran\n")
    else:
        viewer = await front.member("viewer")
        if what == "gone":
            await front.users.remove(viewer, "test")
        else:
            front.policy = rules(_NOT_FOR_OPERATORS)
            await front.users.change(viewer, "test", role=Role.operator)
    answer = await room.approve(run, who="admin", status=409)
    assert answer["error"]["code"] == "changed"
    assert (await room.ask("GET", f"/api/commands/{run['id']}", "admin"))["run"]["state"] == "expired"
    assert not list(workspace.glob("*/ran"))
    for path in sorted(workspace.iterdir()):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


async def test_a_policy_that_changes_while_a_command_is_looked_at_starts_nothing(room):
    """POL-10: between the verdict and the start, for what runs at once and for what was approved."""
    (room.workspace / "a.txt").write_text("text")
    person = Asker(Actor.HUMAN, "operator", (await room.front.member("operator")).id, session="s")
    commands, before = room.front.commands, room.front.policy
    waiting = await commands.propose(person, Proposal(stages=(("sh", "-c", "true"),), cwd=""))
    for ask in (
        lambda: commands.propose(person, Proposal(stages=(("cat", "a.txt"),))),
        lambda: commands.approve(person, waiting.id, waiting.hash),
    ):
        room.front.policy = before
        asked = asyncio.ensure_future(ask())
        await asyncio.sleep(0)
        room.front.policy = rules("# another\n")
        with pytest.raises(CroftError) as refused:
            await asked
        assert refused.value.code == "changed"
    assert commands.changed(person)[-1]["state"] == "expired"


async def test_approving_elsewhere_updates_the_first_page_at_once(room):
    run = await room.propose("sh", "-c", "true")
    async with room.front.ask("GET", "/api/events?topics=approvals,runs", room.cookies["operator"]) as response:
        await response.content.readuntil(b"\n\n")
        await room.approve(run, who="admin")
        async with asyncio.timeout(2):
            while True:
                line = await response.content.readline()
                if run["id"].encode() in line and b'"running"' in line:
                    break


async def test_a_denied_proposal_is_muted(room):
    """AI-6: ten minutes for the same command of the same asker, and for nothing else."""
    run = await room.propose("sh", "-c", "true")
    denied = (await room.ask("POST", f"/api/commands/{run['id']}/deny", "admin", 200))["run"]
    assert (denied["state"], denied["approved_by"]) == ("denied", "admin")
    answer = await room.ask("POST", "/api/commands", status=403, json={"argv": ["sh", "-c", "true"]})
    assert (answer["error"]["code"], answer["run"]["state"]) == ("muted", "refused")
    assert (await room.propose("sh", "-c", "false"))["state"] == "waiting"
    assert (await room.propose("sh", "-c", "true", who="admin"))["state"] == "waiting"
    room.front.clock.advance(601)
    assert (await room.propose("sh", "-c", "true"))["state"] == "waiting"


async def test_the_same_question_is_put_once_and_not_too_many(room):
    first = await room.propose("sh", "-c", "true")
    assert (await room.propose("sh", "-c", "true"))["id"] == first["id"]
    for number in range(MOST_PENDING - 1):
        await room.propose("sh", "-c", f"echo {number}")
    async with room.front.ask(
        "POST", "/api/commands", room.cookies["operator"], json={"argv": ["sh", "-c", "one more"]}
    ) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (429, "rate_pending")
        assert int(response.headers["Retry-After"]) > 200
    withdrawn = (await room.ask("POST", f"/api/commands/{first['id']}/cancel", status=200))["run"]
    assert withdrawn["state"] == "cancelled"
    assert (await room.propose("sh", "-c", "one more"))["state"] == "waiting"


async def test_a_refused_command_is_kept_with_its_reason(room):
    room.front.policy = rules('[[rule]]\nid = "no"\nbin = "true"\nanything = true\nmode = "deny"\n')
    answer = await room.ask("POST", "/api/commands", status=403, json={"line": "true"})
    assert answer["error"]["code"] == "denied"
    assert answer["error"]["message"] == answer["run"]["reason"]
    kept = (await room.ask("GET", "/api/commands?state=refused"))["runs"]
    assert [run["id"] for run in kept] == [answer["run"]["id"]]


LEASED = f"""{TOUCH}
[[rule]]
id = "runs-code"
bin = "sh"
exec = "/bin/sh"
anything = true
mode = "ask"
"""


async def test_a_lease_lets_the_exact_command_through_until_it_is_used_up(room):
    room.front.policy = rules(LEASED)
    run = await room.propose("touch", "a")
    assert run["leasable"]
    await room.approve(run, lease={"runs": 2, "minutes": 5}, wait=10)
    (lease,) = (await room.ask("GET", "/api/leases"))["leases"]
    assert (lease["left"], lease["expires_in"], lease["line"]) == (2, 300.0, "touch a")
    room.front.clock.advance(60)
    assert (await room.ask("GET", "/api/leases"))["leases"][0]["expires_in"] == 240.0
    for left in (1, 0):
        again = await room.propose("touch", "a", wait=10)
        assert (again["state"], again["lease"]) == ("done", lease["id"])
        assert sum(one["left"] for one in (await room.ask("GET", "/api/leases"))["leases"]) == left
    assert (await room.propose("touch", "a"))["state"] == "waiting"
    for other in ({"argv": ["touch", "b"]}, {"argv": ["touch", "a", "a"]}):
        assert (await room.ask("POST", "/api/commands", json=other))["run"]["state"] == "waiting"
    assert (await room.propose("touch", "a", who="admin"))["state"] == "waiting"


@pytest.mark.parametrize("end", ["time", "revoked", "policy"])
async def test_a_lease_ends(room, end):
    room.front.policy = rules(LEASED)
    run = await room.propose("touch", "a")
    await room.approve(run, lease={"runs": 5, "minutes": 5}, wait=10)
    assert (await room.propose("touch", "a", wait=10))["state"] == "done"
    if end == "time":
        room.front.clock.boot += 301
    elif end == "policy":
        room.front.policy = rules(LEASED + "# edited\n")
    else:
        (lease,) = (await room.ask("GET", "/api/leases"))["leases"]
        await room.ask("DELETE", f"/api/leases/{lease['id']}", "viewer", 403)
        assert (await room.ask("DELETE", f"/api/leases/{lease['id']}", "admin", 200))["leases"] == []
    assert (await room.propose("touch", "a"))["state"] == "waiting"


@pytest.mark.parametrize("change", [{"role": Role.viewer}, {"suspended": True}])
async def test_a_lease_is_worth_no_more_than_who_gave_it(room, change):
    room.front.policy = rules(LEASED)
    run = await room.propose("touch", "a", who="admin")
    await room.approve(run, lease={"runs": 5, "minutes": 5}, wait=10)
    assert (await room.propose("touch", "a", who="admin", wait=10))["state"] == "done"
    await room.front.users.change(await room.front.users.find("operator@example.org"), "test", **change)
    assert (await room.ask("GET", "/api/leases", "admin"))["leases"] == []
    assert (await room.propose("touch", "a", who="admin"))["state"] == "waiting"


async def test_a_lease_in_a_race_is_used_as_often_as_granted(room):
    room.front.policy = rules(LEASED, "asked_limits = { parallel = 12 }")
    run = await room.propose("touch", "a")
    await room.approve(run, lease={"runs": 3, "minutes": 5}, wait=10)
    answers = await asyncio.gather(*(room.propose("touch", "a", status=None, wait=10) for _ in range(2)))
    answers += await asyncio.gather(
        *(room.ask("POST", "/api/commands", json={"argv": ["touch", "a"]}) for _ in range(6))
    )
    used = [one for one in answers if (one.get("run") or one).get("lease")]
    assert len(used) == 3


async def test_programs_that_run_others_are_never_leased(room):
    """AI-5: interpreters and wrappers, and terms out of bounds."""
    room.front.policy = rules(LEASED)
    run = await room.propose("sh", "-c", "true")
    assert not run["leasable"]
    assert (await room.approve(run, status=400, lease={"runs": 1, "minutes": 1}))["error"]["code"] == "not_leasable"
    run = await room.propose("touch", "a")
    for terms in (
        {"runs": 0, "minutes": 1},
        {"runs": 51, "minutes": 1},
        {"runs": 1, "minutes": 0},
        {"runs": 1, "minutes": 241},
    ):
        assert (await room.approve(run, status=400, lease=terms))["error"]["code"] == "lease_terms"


async def test_host_verbs_need_an_admin_who_has_just_signed_in(room):
    """SECURITY 5.2 (7), AUTH-10: typed verbs only, restart asks, and the console counts as root's own presence."""
    room.front.policy = rules(
        '[[rule]]\nid = "list"\nscope = "host"\nbin = "service"\nsub = ["list"]\nexact = [""]\nmode = "auto"\n'
        '[[rule]]\nid = "change"\nscope = "host"\nbin = "service"\nsub = ["restart"]\nargs = ["enum(ide,proxy,ai)"]\n'
        'dashes = "none"\nmode = "ask"\n'
    )
    run = await room.propose("service", "list", scope="host", wait=10)
    assert run["state"] == "done"
    assert b"proxy" in await room.output(run["id"])
    for words in (["service", "restart", "sshd"], ["cat", "/etc/shadow"], ["service", "list", "x"]):
        await room.ask("POST", "/api/commands", "admin", 403, json={"argv": words, "scope": "host"})
    run = await room.propose("service", "restart", "ide", scope="host", who="admin")
    await room.approve(run, who="operator", status=403)
    room.front.clock.advance(299)
    run = await room.propose("service", "restart", "ai", scope="host", who="admin")
    room.front.clock.advance(200)
    assert (await room.approve(run, who="admin", status=403))["error"]["code"] == "step_up"
    async with room.front.console(
        "POST", f"/api/commands/{run['id']}/approve", json={"hash": run["hash"], "wait": 10}
    ) as got:
        assert (await got.json())["run"]["state"] == "done"


async def test_who_shares_a_name_with_somebody_removed_loses_nothing(room):
    """PRV-4: a name is not one person's alone, and may have been another when they decided."""
    users, room.front.policy = room.front.users, rules(LEASED)
    run = await room.propose("touch", "a")
    approved = (await room.approve(run, lease={"runs": 5, "minutes": 5}, wait=10))["run"]
    decider = await users.find("operator@example.org")
    namesake = await users.create("other@example.org", approved["approved_by"], Role.viewer, "test")
    await users.remove(namesake, "test")
    assert (await room.over(run["id"]))["approved_by"] == approved["approved_by"]
    assert len((await room.ask("GET", "/api/leases"))["leases"]) == 1
    await users.rename(decider, "Somebody Else")
    await users.remove(decider, "test")
    assert (await room.over(run["id"], "admin"))["approved_by"] is None
    assert (await room.ask("GET", "/api/leases", "admin"))["leases"] == []
