"""The policy by HTTP: read, asked, previewed over real history, and changed with a version and a record."""

from __future__ import annotations

from support.daemon import POLICY

from appliance.commands.tokenizer import MOST_CHARACTERS

WITHOUT_ECHO = POLICY.replace('id = "quick-echo"', 'id = "quick-other"').replace('bin = "echo"', 'bin = "other"')


async def test_a_change_is_previewed_then_made_and_recorded(room):
    await room.front.policy_file.open()
    await room.ask("PUT", "/api/policy", "admin", 200, json={"text": POLICY})
    before = await room.ask("GET", "/api/policy", "viewer", 200)
    room.front.policy = room.front.policy_file.current
    for _ in range(2):
        await room.propose("echo", "x", wait=5)
    seen = await room.ask("POST", "/api/policy/preview", "admin", 200, json={"text": WITHOUT_ECHO})
    assert [(row["line"], row["before"], row["after"], row["times"]) for row in seen["changes"]] == [
        ("echo x", "allow", "ask", 2)
    ]
    changed = {"text": WITHOUT_ECHO, "base": before["digest"]}
    after = await room.ask("PUT", "/api/policy", "admin", 200, json=changed)
    assert (after["text"], len(after["versions"])) == (WITHOUT_ECHO, len(before["versions"]) + 1)
    assert (await room.ask("PUT", "/api/policy", "admin", 409, json=changed))["error"]["code"] == "conflict"
    assert [one.event for one in await room.audit()].count("policy.change") == 3
    await room.ask("PUT", "/api/policy", "operator", 403, json=changed)


async def test_a_faulty_text_changes_nothing_and_names_its_line(room):
    await room.front.policy_file.open()
    digest = room.front.policy_file.current.digest
    for method, path in (("PUT", "/api/policy"), ("POST", "/api/policy/preview")):
        said = await room.ask(method, path, "admin", json={"text": POLICY + "\n[[rule]]\nid = 3\n"})
        assert said["fault"]["line"] > 10
    assert room.front.policy_file.current.digest == digest


async def test_explaining_records_and_runs_nothing(room):
    await room.front.policy_file.open()
    said = await room.ask("POST", "/api/policy/explain", "viewer", 200, json={"line": "ls -la", "role": "viewer"})
    assert said["verdict"] in ("allow", "ask")
    assert said["reason"]
    said = await room.ask(
        "POST", "/api/policy/explain", "viewer", 200, json={"argv": ["bash", "-c", "x"], "actor": "ai"}
    )
    assert said["verdict"] == "deny"
    assert (await room.ask("GET", "/api/commands", "admin"))["runs"] == []
    # A11: what is beyond the longest line is not looked through, for that takes a second for a megabyte.
    line = "a" * MOST_CHARACTERS + "\u200b"
    said = await room.ask("POST", "/api/policy/explain", "viewer", 200, json={"line": line})
    assert (said["verdict"], said["hidden"]) == ("deny", [])
