"""Around an answer: files out of code blocks, questions about runs, what is left when a conversation goes, floods of proposals."""

from __future__ import annotations

import shutil

from support.commands import Room
from support.scripted_engine import Call, Say, ScriptedEngine
from support.talk import Talk


async def test_a_code_block_is_saved_through_a_proposal(worker: Talk, scripted: ScriptedEngine, shop: Room) -> None:
    """Save as: the person sees what it changes, then it is written."""
    scripted.script(Say("```python\nprint(1)\n```"))
    conversation = await worker.begin()
    answer, _ = await worker.answer(conversation, "Code please")
    path = f"/api/conversations/{conversation}/proposals"
    made = (await worker.call("POST", path, 201, message=answer, path="one.py", text="print(1)\n"))["proposal"]
    assert (made["kind"], made["state"], made["new"]) == ("write", "open", True)
    assert "+print(1)" in made["diff"]
    async with worker.reading(conversation) as reader:
        await reader.until(lambda now: made["id"] in now.proposals, "whoever comes sees it")
    await worker.decide(conversation, made["id"], "accept")
    assert (shop.workspace / "one.py").read_text() == "print(1)\n"
    for wrong in (".git/config", "../x", "/etc/passwd", ""):
        refused = await worker.call("POST", path, 400, message=answer, path=wrong, text="x")
        assert refused["error"]["code"] == "file"
    viewer = Talk(shop.front, shop.cookies["viewer"])
    await viewer.call("POST", path, 403, message=answer, path="two.py", text="x")
    (shop.workspace / "one.py").unlink()


async def test_nobody_else_decides(worker: Talk, scripted: ScriptedEngine, shop: Room) -> None:
    """An admin neither: the proposal is its owner's."""
    scripted.script(Say("code"))
    conversation = await worker.begin()
    answer, _ = await worker.answer(conversation, "Code please")
    made = await worker.call(
        "POST", f"/api/conversations/{conversation}/proposals", 201, message=answer, path="x.py", text="x\n"
    )
    admin = Talk(shop.front, shop.cookies["admin"])
    for how in ("accept", "reject", "open"):
        await admin.decide(conversation, made["proposal"]["id"], how, 404)
    theirs = await admin.begin()
    await admin.decide(theirs, made["proposal"]["id"], "accept", 404)
    await worker.decide(conversation, made["proposal"]["id"], "reject")
    assert not (shop.workspace / "x.py").exists()


async def test_asking_about_a_run(worker: Talk, scripted: ScriptedEngine, shop: Room) -> None:
    """AI-7: what it wrote goes along as data, without secrets."""
    run = await shop.shell("echo password=hunter2hunter2; echo no such thing >&2; exit 3")
    scripted.script(Say("It failed because."))
    made = await worker.call("POST", f"/api/commands/{run['id']}/ask", 201)
    async with worker.reading(made["conversation"]["id"]) as reader:
        assert await reader.over(made["answer"]["id"]) == "done"
    asked = scripted.chats[0].body["messages"][-1]["content"]
    assert asked.startswith("[data ")
    assert "no such thing" in asked
    assert "hunter2" not in asked.split("\n", 1)[1].split("Why did")[0]
    assert "fail" in made["message"]["text"]


async def test_nothing_of_a_conversation_outlives_it(worker: Talk, scripted: ScriptedEngine, shop: Room) -> None:
    """PRV-4."""
    scripted.script(Say("code"))
    conversation = await worker.begin()
    answer, _ = await worker.answer(conversation, "Code please")
    await worker.call(
        "POST", f"/api/conversations/{conversation}/proposals", 201, message=answer, path="x.py", text="x\n"
    )
    database = shop.front.store.database
    assert len(await database.rows("SELECT 1 FROM proposals")) == 1
    await worker.call("DELETE", f"/api/conversations/{conversation}", 200)
    assert await database.rows("SELECT 1 FROM proposals") == []


async def test_a_flood_of_proposals_is_bounded(worker: Talk, scripted: ScriptedEngine, shop: Room) -> None:
    """AI-6: a person has ten to decide about at most; an answer that was stopped leaves its own there."""
    for number in range(11):
        scripted.script(Call("write_file", {"path": f"file{number}", "content": "x\n"}))
        scripted.script(Say("I wait."))
        conversation = await worker.begin()
        async with worker.reading(conversation) as reader:
            answer = await worker.ask(conversation, "Write", tools=True)
            await reader.until(lambda now: now.proposals or now.states.get(answer, "") == "done", "it is put", 20)  # noqa: B023
            assert len(reader.proposals) == (number < 10)
        await worker.stop(conversation)
        scripted.forget()
    assert "10 proposals" in scripted.chats[-1].said
    for path in shop.workspace.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
