"""An engine elsewhere: which addresses it may have, that its key goes to nobody else, and that people are told."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from support.front import front

from appliance.assistant import endpoint
from appliance.assistant.engine import EngineState, NoEngine
from appliance.assistant.remote_engine import RemoteEngine, has_key, key_file, let_key_go, read_key, write_key
from appliance.errors import Invalid, Unavailable
from appliance.settings import Paths, load

FORM = {"Content-Type": "application/x-www-form-urlencoded"}

# Where nobody's endpoint is: this machine, its networks, what clouds keep their secrets at, and what only looks public.
INSIDE = [
    "127.0.0.1",
    "127.1.2.3",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "::1",
    "::",
    "fd12::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "2002:7f00:1::",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
]
NEVER = [
    "169.254.169.254",
    "169.254.1.1",
    "100.100.100.200",
    "192.0.0.192",
    "fd00:ec2::254",
    "fe80::1",
    "ff02::1",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2001:db8::1",
    "198.51.100.7",
]


def answering(*addresses: str) -> endpoint.LookUp:
    async def look_up(host: str, port: int) -> list[str]:
        return list(addresses)

    return look_up


def url_of(address: str, scheme: str = "https") -> str:
    return f"{scheme}://[{address}]" if ":" in address else f"{scheme}://{address}"


@pytest.mark.parametrize("address", [*INSIDE, *NEVER])
@pytest.mark.parametrize("by_name", [False, True])
async def test_a_public_endpoint_is_at_a_public_address(address: str, by_name: bool) -> None:
    """AI-10, NET-8: whether the address is written or a name leads there."""
    where = endpoint.parse("https://api.example.org" if by_name else url_of(address), private=False)
    with pytest.raises(Invalid, match="where no endpoint may be"):
        await endpoint.resolve(where, answering(address))


@pytest.mark.parametrize("address", NEVER)
async def test_some_addresses_are_nobodys_endpoint_even_for_an_admin_who_says_private(address: str) -> None:
    """AI-10"""
    for scheme in ("http", "https"):
        where = endpoint.parse(url_of(address, scheme), private=True)
        with pytest.raises(Invalid):
            await endpoint.resolve(where, answering(address))


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "::1", "fd12::1", "100.64.0.1"])
async def test_one_in_the_own_network_is_reached_where_an_admin_says_so(address: str) -> None:
    where = endpoint.parse(url_of(address, "http") + ":11434/api", private=True)
    assert await endpoint.resolve(where) == address
    assert where.base == f"{url_of(address, 'http')}:11434/api/v1"


async def test_one_wrong_address_among_good_ones_is_enough_to_refuse() -> None:
    """NET-8: a name that leads to both is a name somebody plays with."""
    where = endpoint.parse("https://api.example.org", private=False)
    with pytest.raises(Invalid):
        await endpoint.resolve(where, answering("93.184.216.34", "10.0.0.1"))
    assert await endpoint.resolve(where, answering("93.184.216.34", "2606:2800:220:1::1")) == "93.184.216.34"
    with pytest.raises(Unavailable, match="has no address"):
        await endpoint.resolve(where, answering())


async def test_plain_http_leaves_no_machine() -> None:
    """PRV-3"""
    with pytest.raises(Invalid, match="without TLS"):
        endpoint.parse("http://api.example.org/v1", private=False)
    outside = endpoint.parse("http://api.example.org/v1", private=True)
    with pytest.raises(Invalid):
        await endpoint.resolve(outside, answering("93.184.216.34"))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example.org",
        "https://",
        "https://user:pass@a.example.org",
        "https://a.example.org/v1?x=1",
        "https://a.example.org/v1#x",
        "https://a.example.org:99999",
        "https://a.example.org/\r\nX: y",
        "https://a.example.org\\@b",
        "file:///etc/passwd",
        "https://a b.example.org",
        "a.example.org",
        "",
    ],
)
def test_what_is_no_plain_address_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        endpoint.parse(url, private=True)


async def test_people_are_told_that_text_leaves_the_machine(tmp_path: Path) -> None:
    """PRV-3: nobody is asked elsewhere unless an admin chose it, and then every page says so."""
    async with front(tmp_path) as door:
        assert not door.engine.status().remote
        await door.use_endpoint("http://127.0.0.1:9/v1", "some-model")
        status = door.engine.status()
        assert (status.state, status.remote, status.host, status.model) == (
            EngineState.READY,
            True,
            "127.0.0.1",
            "some-model",
        )
        _, viewer = await door.sign_in_as("viewer")
        for language, words in (("en", "leaves this machine"), ("ar", "يغادر هذا الجهاز")):
            async with door.ask("GET", "/api/assistant", viewer, headers={"Accept-Language": language}) as said:
                told = await said.json()
                assert words in told["words"]
                assert told["remote"] is True
        await door.desk.change({"ai.engine": "nobody"}, "test")
        with pytest.raises(NoEngine, match="turned off"):
            async with door.engine.hold("a question"):
                pass


async def test_the_key_is_sealed_goes_nowhere_and_stays_behind_with_its_endpoint(tmp_path: Path) -> None:
    """AI-10, SEC-1: an admin's session that was taken over cannot send the key to an address of its own."""
    async with front(tmp_path) as door:
        _, admin = await door.sign_in_as("admin")
        await door.use_endpoint("http://127.0.0.1:9/v1")
        async with door.ask(
            "POST", "/settings/engine/key", admin, data={"key": "sk-very-secret"}, headers=FORM
        ) as said:
            assert said.status == 303
        file = key_file(door.settings)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        async with door.engine.hold("a question") as upstream:
            assert (upstream.key, upstream.address) == ("sk-very-secret", "127.0.0.1")
            assert "sk-very-secret" not in repr(upstream)
        for path in ("/settings", "/api/assistant", "/api/status"):
            async with door.ask("GET", path, admin) as said:
                assert "sk-very-secret" not in await said.text()
        assert "sk-very-secret" not in str(await door.audit.records(event="assistant.key"))
        await door.desk.change({"ai.url": "http://127.0.0.1:10/v1"}, "test")
        assert not file.exists()


async def test_the_key_is_changed_by_who_proved_who_they_are(tmp_path: Path) -> None:
    """AUTH-10, PRV-3: with a key of somebody else's account, what people ask would stand in that account."""
    async with front(tmp_path) as door:
        _, admin = await door.sign_in_as("admin")
        await door.use_endpoint("http://127.0.0.1:9/v1")
        post = {"method": "POST", "path": "/settings/engine/key", "cookie": admin}
        async with door.ask(**post, data={"key": "sk-ours"}, headers=FORM) as said:
            assert said.status == 303
        async with door.ask(**post, data={}, headers=FORM) as said:
            assert (said.status, said.headers["Location"]) == (303, "/settings#engine")
        door.clock.advance(301)
        async with door.ask(**post, data={"key": "sk-theirs"}, headers=FORM | {"Accept": "text/html"}) as said:
            assert "sk-theirs" not in await said.text()
        assert read_key(door.desk.current) == "sk-ours"


async def test_the_key_is_sent_to_its_endpoint_alone_however_that_changed(tmp_path: Path) -> None:
    """AI-10: root may write another one into croft.toml, and an admin may change it while the name of the old one is looked up."""
    old = replace(load(Paths.under(tmp_path)), ai_url="https://old.example.org/v1", ai_model="m")
    old.paths.keys.mkdir(parents=True)
    new = replace(old, ai_url="https://new.example.org/v1")
    write_key(old, "sk-old")
    assert (read_key(old), read_key(new)) == ("sk-old", "")
    assert not has_key(new)
    now = old

    async def look_up(host: str, port: int) -> list[str]:
        nonlocal now
        let_key_go(now, new)
        now = new
        write_key(now, "sk-new")
        return ["93.184.215.14"]

    engine = RemoteEngine(lambda: now, look_up=look_up)
    async with engine.hold("a question") as upstream:
        assert (upstream.base, upstream.key) == ("https://old.example.org/v1", "sk-old")
    assert read_key(new) == "sk-new"
    async with engine.hold("the next") as upstream:
        assert (upstream.base, upstream.key) == ("https://new.example.org/v1", "sk-new")


async def test_a_key_that_was_changed_counts_with_the_next_question(tmp_path: Path) -> None:
    """However it was changed: on the page, by root, from a backup that is as long as the old one."""
    settings = replace(load(Paths.under(tmp_path)), ai_url="https://api.example.org/v1", ai_model="m")
    settings.paths.keys.mkdir(parents=True)
    engine = RemoteEngine(lambda: settings, look_up=answering("93.184.215.14"))

    async def sent() -> str:
        async with engine.hold("a question") as upstream:
            return upstream.key

    assert await sent() == ""
    for key in ("sk-one", "sk-two"):
        write_key(settings, key)
        assert await sent() == key
    file = key_file(settings)
    file.write_bytes(file.read_bytes().replace(b"sk-two", b"sk-six"))
    assert await sent() == "sk-six"
    write_key(settings, "")
    assert await sent() == ""


@pytest.mark.parametrize("key", ["with space", "line\nbreak", "x" * 4001, "schlüssel"])
async def test_a_key_that_cannot_be_one_is_refused_in_words(tmp_path: Path, key: str) -> None:
    async with front(tmp_path) as door:
        _, admin = await door.sign_in_as("admin")
        async with door.ask("POST", "/settings/engine/key", admin, data={"key": key}, headers=FORM) as said:
            assert said.status == 400
        async with door.console("PUT", "/api/assistant/key", json={"key": key}) as said:
            assert (said.status, (await said.json())["error"]["code"]) == (400, "endpoint_key")
        async with door.console("PUT", "/api/assistant/key", json={"key": "sk-good"}) as said:
            assert said.status == 200
        async with door.console("PUT", "/api/assistant/key", json={"key": ""}) as said:
            assert said.status == 200
        assert not key_file(door.settings).exists()


async def test_an_endpoint_that_is_not_complete_is_said_to_be_so(tmp_path: Path) -> None:
    async with front(tmp_path) as door:
        await door.desk.change({"ai.engine": "remote"}, "test")
        assert door.engine.status().reason == "no_endpoint"
        await door.desk.change({"ai.url": "https://api.example.org/v1"}, "test")
        assert door.engine.status().reason == "no_endpoint"
        with pytest.raises(NoEngine, match="no model is set"):
            async with door.engine.hold("a question"):
                pass
