"""What /v1 lets through: quotas of tokens and people, sizes, names of models, and who may come at all."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import openai
import pytest
from support.folders import short_folder
from support.front import Front, front
from support.scripted_engine import OverHttp, Say, Script, ScriptedEngine, Stall
from support.waiting import until

from appliance.assistant import v1_request
from appliance.assistant.quotas import NOTED_TOKENS, Client, QuotaReached, Quotas
from webui.forms import BODIES_MAX

QUESTION: Any = [{"role": "user", "content": "Hello"}]
BODY = {"model": "croft", "messages": QUESTION}


async def change(door: Front, **settings: int) -> None:
    await door.desk.change({f"ai.{name}": str(value) for name, value in settings.items()}, "console")


async def refused(programs: Any, text: str) -> tuple[str, int]:
    """The error's code and its Retry-After."""
    client = await programs.client(text)
    with pytest.raises(openai.RateLimitError) as told:
        await client.chat.completions.create(**BODY)
    return str(told.value.code), int(told.value.response.headers["Retry-After"])


async def test_a_burst_then_a_pace(door: Front, programs: Any) -> None:
    """AI-11: each token has a bucket of its own; a restart does not fill it."""
    await change(door, rate_minute=60, rate_burst=3)
    (token, text), (_, other) = await programs.token(), await programs.token()
    client = await programs.client(text)
    for _ in range(3):
        await client.chat.completions.create(**BODY)
    assert await refused(programs, text) == ("rate_limit_exceeded", 1)
    await (await programs.client(other)).chat.completions.create(**BODY)
    quotas = await door.quotas.get()
    await quotas.close()
    again = Quotas(door.store.database, door.audit, door.clock, quotas._limits)
    await again.load()
    with pytest.raises(QuotaReached):
        again.begin(Client(token.actor, token.user.id))
    door.clock.advance(1.1)
    await client.chat.completions.create(**BODY)


async def test_the_tokens_of_a_day(door: Front, engine: ScriptedEngine, programs: Any) -> None:
    """AI-11: of one API token, and of its person with all of theirs; anew at midnight UTC."""
    await change(door, token_day=10, person_day=16)
    engine.otherwise = lambda body: engine_says(8)
    (_, first), (_, second), (_, third) = [await programs.token(days=9) for _ in range(3)]
    client = await programs.client(first)
    said = await client.chat.completions.create(**BODY)
    assert said.usage is not None
    each = said.usage.total_tokens
    assert each >= 10
    code, wait = await refused(programs, first)
    assert code == "insufficient_quota"
    assert 0 < wait <= 86400
    stream = await (await programs.client(second)).chat.completions.create(**BODY, stream=True)
    assert len([chunk async for chunk in stream]) > 8
    assert (await refused(programs, third))[0] == "insufficient_quota", "it is the person's now"
    stranger = (await programs.token(role="viewer"))[1]
    await (await programs.client(stranger)).chat.completions.create(**BODY)
    door.clock.advance(86400)
    await client.chat.completions.create(**BODY)


def engine_says(words: int) -> Any:
    return Script((Say("word " * words),))


async def test_what_is_under_way_counts(door: Front, engine: ScriptedEngine, programs: Any) -> None:
    """Many at once gain nothing over one after the other."""
    await change(door, parallel=2)
    token, text = await programs.token()
    client = await programs.client(text)
    for _ in range(2):
        engine.script(Stall())
    held = [asyncio.ensure_future(client.chat.completions.create(**BODY)) for _ in range(2)]
    await until(lambda: engine.busy == 2, "both are under way")
    assert (await refused(programs, text))[0] == "rate_limit_exceeded"
    await change(door, parallel=0, token_day=500)  # an answer counts for 256 tokens until its length is known
    assert (await refused(programs, text))[0] == "insufficient_quota"
    for task in held:
        task.cancel()
    await until(lambda: not engine.busy, "the engine is free")
    quotas = await door.quotas.get()
    await until(lambda: not quotas.under_way, "and so is the quota")
    mine, _ = quotas.used(Client(token.actor, token.user.id))
    assert 0 < mine < 200, "what was read before it was stopped counts, what was never said does not"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("limit", ["token_day", "person_day"])
async def test_an_answer_without_an_end_ends_with_the_day_s_tokens(
    door: Front, engine: ScriptedEngine, programs: Any, stream: bool, limit: str
) -> None:
    """AI-11: one request that never ends, or asks for very much, is no way around the limit; neither are two at once."""
    await change(door, **{limit: 1000})
    # No faster than engines are: beyond the limit comes what one read brings, whatever that is.
    engine.otherwise = lambda body: Script((Say("word " * 5000, rate=2000), Stall()))
    token, text = await programs.token()
    client = await programs.client(text)

    async def take(came: list[Any]) -> None:
        async for chunk in await client.chat.completions.create(**BODY, max_tokens=1, n=1, stream=stream):
            came.append(chunk)

    async def ask() -> int:
        came: list[Any] = []
        with pytest.raises(openai.APIError) as told:
            await take(came)
        assert str(told.value.code) == "insufficient_quota"
        return len(came)

    async with asyncio.timeout(20):
        came = await asyncio.gather(ask(), ask())
    assert sum(came) < 1000 + 4 * NOTED_TOKENS
    mine, of_person = (await door.quotas.get()).used(Client(token.actor, token.user.id))
    assert 1000 < mine == of_person < 1000 + 4 * NOTED_TOKENS


async def test_use_is_in_the_audit_log_as_sums_without_a_word(
    door: Front, engine: ScriptedEngine, programs: Any
) -> None:
    """AI-12, PRV-2: who, how often, how much; and it can be told and forgotten (PRV-4, PRV-6)."""
    token, text = await programs.token()
    client = await programs.client(text)
    secret: Any = [{"role": "user", "content": "the harbour password is swordfish"}]
    for _ in range(3):
        engine.script(Say("swordfish indeed"))
        await client.chat.completions.create(model="croft", messages=secret)
    await (await door.quotas.get()).save()
    await (await door.quotas.get()).save()
    (record,) = await door.audit.records(event="ai.use")
    assert record.actor == token.actor
    assert (record.detail["requests"], record.detail["tokens_out"], record.detail["refused"]) == (3, 6, 0)
    assert await door.audit.verify() is None
    kept = b"".join(path.read_bytes() for path in door.settings.paths.state.rglob("*") if path.is_file())
    assert b"swordfish" not in kept
    told = json.dumps(await door.own_data.of(token.user))
    assert f'"subject": "{token.actor}"' in told
    await door.users.remove(token.user, "console")
    assert await door.store.database.rows("SELECT * FROM ai_use WHERE person = ?", (token.user.id,)) == []


async def test_counts_outlive_the_daemon(engine: ScriptedEngine) -> None:
    with short_folder() as folder:
        for expected in (2, 4):
            async with front(folder, engine=OverHttp(engine)) as door:
                quotas = await door.quotas.get()
                for _ in range(2):
                    quotas.begin(Client("token:a")).end(5, 5)
                assert quotas.used(Client("token:a"))[0] == expected * 10
                await quotas.save()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid"),
        (b"[]", 400, "invalid"),
        (b'{"model": "croft"}', 400, "invalid"),
        (b'{"model": 5, "messages": []}', 400, "invalid"),
        (b'{"model": "croft", "messages": [' + b"[" * 5000, 400, "invalid"),
        (b'{"model": "nothing", "messages": []}', 404, "model_not_found"),
        (b'{"model": "croft", "model": "nothing", "messages": []}', 404, "model_not_found"),
        (b'{"model": "croft", "messages": [], "x": "' + b"y" * (4 << 20) + b'"}', 413, "too_large"),
    ],
)
async def test_what_cannot_be_asked_is_told_in_openai_s_shape(
    engine: ScriptedEngine, programs: Any, body: bytes, status: int, code: str
) -> None:
    (_, text), how = await programs.token(), {"Content-Type": "application/json"}
    async with programs.ask("POST", "/v1/chat/completions", text, data=io.BytesIO(body), headers=how) as answer:
        said = (await answer.json())["error"]
        assert (answer.status, said["code"]) == (status, code)
        assert set(said) == {"message", "type", "param", "code"}
        assert said["type"] == "invalid_request_error"
    assert engine.chats == []


@pytest.mark.parametrize(
    ("more", "answer"),
    [({}, 256), ({"max_tokens": 10}, 10), ({"max_tokens": -1}, 256), ({"max_tokens": 0}, 256), ({"max_completion_tokens": -(10**30)}, 256),
     ({"max_tokens": 10, "n": 20}, 200), ({"max_tokens": 10, "n": -5}, 10), ({"n": 3}, 768)],
)  # fmt: skip
def test_what_is_under_way_counts_for_all_that_was_asked_for(more: dict[str, int], answer: int) -> None:
    """No limit, several answers and nonsense gain nothing either."""
    asked = v1_request.chat(json.dumps(BODY | more).encode())
    assert asked.estimate - asked.prompt == answer


@pytest.mark.parametrize("terminal", [False, True])
async def test_large_bodies_of_one_asker_come_a_few_at_a_time(door: Front, programs: Any, terminal: bool) -> None:
    """WEB-16: four megabytes on every connection that somebody opens, with whichever token, would be the daemon's memory."""
    texts = [(await programs.token())[1] for _ in range(2)]
    head = [
        (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: croft.localhost\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {text}\r\nContent-Length: {4 << 20}\r\n\r\n"
        ).encode()
        for text in texts
    ]
    socket = str(door.settings.paths.run / "editor/v1.sock")
    writers = [
        (await (asyncio.open_unix_connection(socket) if terminal else door.raw()))[1] for _ in range(BODIES_MAX + 2)
    ]

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(head[writers.index(writer) % 2] + b"x" * (3 << 20))
        await writer.drain()

    sending = {asyncio.ensure_future(send(writer)): writer for writer in writers}
    try:
        taken, _ = await asyncio.wait(sending, timeout=2)
        assert len(taken) == BODIES_MAX
        sending[taken.pop()].transport.abort()
        await until(lambda: sum(one.done() for one in sending) == BODIES_MAX + 1, "the next one comes in")
    finally:
        for task, writer in sending.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*sending, return_exceptions=True)


@pytest.mark.parametrize("kind", ["image_url", "audio_url", "video_url"])
@pytest.mark.parametrize(
    "spelt", ["http://169.254.169.254/x", "HTTPS://example.org/", "file:///etc/passwd", "/etc/passwd"]
)
async def test_nothing_in_a_request_makes_the_engine_fetch(
    engine: ScriptedEngine, programs: Any, kind: str, spelt: str
) -> None:
    """AI-9, AI-10: an address in a message, also where its name is spelt with escapes, or in letters that LocalAI takes for these."""
    _, text = await programs.token()
    escaped, address = kind.replace("_", "\\u005f"), json.dumps(spelt)
    for content, name, value in (
        ("content", escaped, address),
        ("content", escaped, f'{{"url": {address}}}'),
        ("content", kind.title(), f'{{"url": "data:", "URL": {address}}}'),
        ("Content", kind, address),
    ):
        body = f'{{"model": "croft", "messages": [{{"role": "user", "{content}": [{{"type": "{kind}", "{name}": {value}}}]}}]}}'
        how = {"Content-Type": "application/json"}
        async with programs.ask("POST", "/v1/chat/completions", text, data=body, headers=how) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (400, "remote_content")
    assert engine.chats == []


async def test_workspace_tokens_count_here_as_long_as_what_they_were_made_from(
    door: Front, engine: ScriptedEngine, programs: Any
) -> None:
    """DECIDED 13, AUTH-9: of a session and of an API token; the session's own cookie is never sent back."""
    session, cookie = await door.sign_in_as("operator")
    token, text = await programs.token("workspace")
    async with door.ask("POST", "/api/workspace-token", cookie) as answer:
        by_session = (await answer.json())["token"]
    async with programs.ask("POST", "/api/workspace-token", text) as answer:
        by_token = (await answer.json())["token"]
    session.rotate = True
    for access in (by_session, by_token):
        assert (await (await programs.client(access)).chat.completions.create(**BODY)).choices
        async with programs.ask("POST", "/v1/chat/completions", access, json=BODY) as answer:
            assert "Set-Cookie" not in answer.headers
    with pytest.raises(openai.PermissionDeniedError):
        await (await programs.client(text)).models.list()
    quotas = await door.quotas.get()
    assert quotas.used(Client(f"workspace:{token.user.id}", token.user.id))[0] > 0
    engine.script(Say("word "), Stall())
    stream = await (await programs.client(by_session)).chat.completions.create(**BODY, stream=True)
    await door.sessions.end([session], "sign-out", "test")
    await door.api_tokens.revoke([token], "test")
    await until(lambda: not engine.busy, "the stream ends with the session", 2)
    await stream.close()
    for access in (by_session, by_token, by_session[:-4] + "AAAA"):
        with pytest.raises(openai.AuthenticationError):
            await (await programs.client(access)).models.list()


async def test_a_page_of_another_site_cannot_ask_with_a_person_s_cookie(door: Front, programs: Any) -> None:
    """WEB-5: a cookie counts on Croft's own pages alone; a token needs no page."""
    _, cookie = await door.sign_in_as("operator")
    foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    async with door.ask("POST", "/v1/chat/completions", cookie, headers=foreign, json=BODY) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (403, "cross_site")
    async with door.ask("POST", "/v1/chat/completions", cookie, json=BODY) as answer:
        assert answer.status == 200
    _, text = await programs.token()
    async with programs.ask("POST", "/v1/chat/completions", text, headers=foreign, json=BODY) as answer:
        assert answer.status == 200
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_there_is_nothing_else_below_v1(programs: Any) -> None:
    _, text = await programs.token()
    for method, path in (("POST", "/v1/completions"), ("GET", "/v1/"), ("DELETE", "/v1/models/croft")):
        async with programs.ask(method, path, text) as answer:
            assert answer.status in (404, 405)
            assert set((await answer.json())["error"]) == {"message", "type", "param", "code"}
