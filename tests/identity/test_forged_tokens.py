"""Workspace tokens: everything that is not exactly one of ours is refused, quietly and in the same way."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.front import Front

from appliance.identity.access import WorkspaceAccess
from appliance.identity.tokens import ACCESS_TYPE, LAUNCH_TYPE, TokenRefused
from appliance.identity.verify import NOBODY
from webui.ide_gate import IdeGate

ROOT = Path(__file__).parents[2]


def b64(data: bytes | str | Any) -> str:
    raw = data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(data)).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def sign(key: Ed25519PrivateKey, header: Any, body: Any) -> str:
    start = f"{b64(header)}.{b64(body)}"
    return f"{start}.{b64(key.sign(start.encode()))}"


class Forge:
    """Makes tokens with our own key, so that only what is said is wrong."""

    def __init__(self, home: Front) -> None:
        self.key, self.tokens, self.clock = home.tokens._key, home.tokens, home.clock
        self.header = {"alg": "EdDSA", "kid": home.tokens._kid, "typ": ACCESS_TYPE}
        now = int(home.clock.now())
        self.body: dict[str, Any] = {
            "iss": home.store.instance,
            "aud": home.store.instance,
            "sub": "u1",
            "sid": "s1",
            "iat": now,
            "nbf": now,
            "exp": now + 900,
            "jti": "j1",
        }

    def token(
        self,
        header: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        key: Ed25519PrivateKey | None = None,
    ) -> str:
        def merged(base: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
            return {name: value for name, value in (base | (changes or {})).items() if value is not ...}

        return sign(key or self.key, merged(self.header, header), merged(self.body, body))


FORGED: dict[str, Callable[[Forge], str]] = {
    "empty": lambda f: "",
    "dots": lambda f: "..",
    "words": lambda f: "not a token",
    "one part": lambda f: f.token().split(".")[0],
    "two parts": lambda f: f.token().rpartition(".")[0],
    "four parts": lambda f: f.token() + ".x",
    "doubled": lambda f: f.token() + "." + f.token(),
    "no signature": lambda f: f.token().rpartition(".")[0] + ".",
    "junk in the signature": lambda f: f.token() + "!!",
    "padding": lambda f: f.token() + "==",
    "newline at the end": lambda f: f.token() + "\n",
    "space before": lambda f: " " + f.token(),
    "non-ASCII": lambda f: f.token() + "é",
    "lone surrogate": lambda f: f.token() + "\udcff",
    "digits of another script": lambda f: f.token().replace(".", "٠.", 1),
    "too long": lambda f: f.token() + "A" * 5000,
    "deep header": lambda f: b64("[" * 2900) + ".e30.e30",
    "deep header object": lambda f: b64('{"a":' * 500) + ".e30.e30",
    "deep body": lambda f: sign(f.key, f.header, "[" * 2700),
    "header a list": lambda f: sign(f.key, ["EdDSA"], f.body),
    "header text": lambda f: sign(f.key, '"x"', f.body),
    "header not JSON": lambda f: sign(f.key, b"\xff\xfe", f.body),
    "body a list": lambda f: sign(f.key, f.header, [1]),
    "body text": lambda f: sign(f.key, f.header, '"x"'),
    "body not JSON": lambda f: sign(f.key, f.header, b"\xff"),
    "body changed": lambda f: (
        f.token().split(".")[0] + "." + b64(f.body | {"sub": "u2"}) + "." + f.token().split(".")[2]
    ),
    "other key": lambda f: f.token(key=Ed25519PrivateKey.generate()),
    "none": lambda f: b64(f.header | {"alg": "none"}) + "." + b64(f.body) + ".",
    "None": lambda f: f.token({"alg": "None"}),
    "nOnE": lambda f: f.token({"alg": "nOnE"}),
    "HS256 by the public key": lambda f: hs256(f),
    "ES256": lambda f: f.token({"alg": "ES256"}),
    "RS256": lambda f: f.token({"alg": "RS256"}),
    "alg missing": lambda f: f.token({"alg": ...}),
    "alg a list": lambda f: f.token({"alg": ["EdDSA"]}),
    "alg null": lambda f: f.token({"alg": None}),
    "typ missing": lambda f: f.token({"typ": ...}),
    "typ JWT": lambda f: f.token({"typ": "JWT"}),
    "typ of a launch": lambda f: f.token({"typ": LAUNCH_TYPE}),
    "typ in capitals": lambda f: f.token({"typ": ACCESS_TYPE.upper()}),
    "kid missing": lambda f: f.token({"kid": ...}),
    "kid empty": lambda f: f.token({"kid": ""}),
    "kid unknown": lambda f: f.token({"kid": "x"}),
    "kid a path": lambda f: f.token({"kid": "../../dev/null"}),
    "kid SQL": lambda f: f.token({"kid": "x' OR 1=1 --"}),
    "kid huge": lambda f: f.token({"kid": "a" * 2000}),
    "kid a number": lambda f: f.token({"kid": 1}),
    "kid a list": lambda f: f.token({"kid": [f.header["kid"]]}),
    "kid with newline": lambda f: f.token({"kid": f.header["kid"] + "\n"}),
    "kid twice": lambda f: sign(
        f.key, f'{{"alg":"EdDSA","kid":"x","typ":"{ACCESS_TYPE}","kid":"{f.header["kid"]}"}}', f.body
    ),
    "alg twice": lambda f: sign(
        f.key, f'{{"alg":"none","alg":"EdDSA","typ":"{ACCESS_TYPE}","kid":"{f.header["kid"]}"}}', f.body
    ),
    "crit": lambda f: f.token({"crit": ["exp"]}),
    "b64": lambda f: f.token({"b64": False, "crit": ["b64"]}),
    "jwk": lambda f: f.token({"jwk": {"kty": "OKP"}}),
    "jku": lambda f: f.token({"jku": "https://evil.example/k"}),
    "x5u": lambda f: f.token({"x5u": "https://evil.example/c"}),
    "x5c": lambda f: f.token({"x5c": ["x"]}),
    "cty": lambda f: f.token({"cty": "JWT"}),
    "zip": lambda f: f.token({"zip": "DEF"}),
    "iss missing": lambda f: f.token(body={"iss": ...}),
    "iss other": lambda f: f.token(body={"iss": "croft-other"}),
    "iss a list": lambda f: f.token(body={"iss": [f.body["iss"]]}),
    "aud missing": lambda f: f.token(body={"aud": ...}),
    "aud other": lambda f: f.token(body={"aud": "croft-other"}),
    "aud a list": lambda f: f.token(body={"aud": [f.body["aud"]]}),
    "aud empty": lambda f: f.token(body={"aud": ""}),
    "aud prefix": lambda f: f.token(body={"aud": f.body["aud"] + "x"}),
    "sub missing": lambda f: f.token(body={"sub": ...}),
    "sub empty": lambda f: f.token(body={"sub": ""}),
    "sub a number": lambda f: f.token(body={"sub": 1}),
    "jti missing": lambda f: f.token(body={"jti": ...}),
    "jti empty": lambda f: f.token(body={"jti": ""}),
    "jti huge": lambda f: f.token(body={"jti": "x" * 1000}),
    "jti a list": lambda f: f.token(body={"jti": []}),
    "sid a number": lambda f: f.token(body={"sid": 1}),
    "lasts too long": lambda f: f.token(body={"exp": f.body["iat"] + 901}),
    "lasts nothing": lambda f: f.token(body={"exp": f.body["iat"]}),
    "ends before it begins": lambda f: f.token(body={"exp": f.body["iat"] - 10}),
    "over": lambda f: f.token(body={"iat": f.body["iat"] - 931, "exp": f.body["iat"] - 31}),
    "not yet": lambda f: f.token(body={"nbf": f.body["iat"] + 31}),
    "made tomorrow": lambda f: f.token(body={"iat": f.body["iat"] + 31, "exp": f.body["iat"] + 60}),
} | {
    f"{name} {value!r}"[:60]: (lambda f, name=name, value=value: f.token(body={name: value}))
    for name in ("exp", "nbf", "iat")
    for value in (
        ...,
        None,
        True,
        "1800000000",
        [1],
        {},
        -1,
        10**400,
        float("inf"),
        float("-inf"),
        float("nan"),
        1 << 53,
    )
}


def hs256(forge: Forge) -> str:
    start = b64(forge.header | {"alg": "HS256"}) + "." + b64(forge.body)
    public = forge.key.public_key().public_bytes_raw()
    return f"{start}.{b64(hmac.new(public, start.encode(), hashlib.sha256).digest())}"


@pytest.mark.parametrize("make", FORGED.values(), ids=FORGED.keys())
async def test_forged_tokens_are_refused(home: Front, make: Callable[[Forge], str]) -> None:
    """TOK-1..4: TokenRefused and nothing else."""
    forge = Forge(home)
    forge.tokens.verify_access(forge.token())
    with pytest.raises(TokenRefused) as caught:
        forge.tokens.verify_access(make(forge))
    assert caught.value.status == 401
    assert caught.value.message == "this token is not accepted"


async def test_a_good_token_until_it_is_over(home: Front) -> None:
    token = home.tokens.issue_access("u1", "s1")
    assert jwt.get_unverified_header(token)["typ"] == ACCESS_TYPE
    for _ in range(2):
        claims = home.tokens.verify_access(token)
        assert (claims.subject, claims.session) == ("u1", "s1")
    home.clock.advance(900)
    with pytest.raises(TokenRefused):
        home.tokens.verify_access(token)


async def test_a_token_dies_with_its_session(home: Front) -> None:
    session, _ = await home.sign_in_as("operator")
    gate = IdeGate(
        home.sessions,
        WorkspaceAccess(home.tokens, home.sessions, home.api_tokens),
        home.services,
        lambda name, path, accepted: b"",
    )
    token = home.tokens.issue_access(session.user.id, session.id)
    assert gate.check_bearer(token, "ide").session is session
    assert gate.check_bearer(home.tokens.issue_access("somebody else", session.id), "ide") == NOBODY
    await home.sessions.end([session], "revoked", "test")
    assert not home.tokens._verified, "what was verified before is forgotten"
    assert gate.check_bearer(token, "ide") == NOBODY


class Registry:
    """The other end of a launch."""

    def __init__(self, home: Front) -> None:
        self.key, self.home = Ed25519PrivateKey.generate(), home
        self.keys = {"reg-1": self.key.public_key()}

    def token(self, typ: str = LAUNCH_TYPE, kid: str = "reg-1", **changes: Any) -> str:
        now = int(self.home.clock.now())
        body = {
            "iss": "registry",
            "aud": self.home.store.instance,
            "sub": "u1",
            "iat": now,
            "nbf": now,
            "exp": now + 60,
            "jti": "j",
        } | changes
        return sign(self.key, {"alg": "EdDSA", "kid": kid, "typ": typ}, body)

    async def use(self, token: str, home: Front | None = None) -> Any:
        return await (home or self.home).tokens.use_launch(token, self.keys, "registry")


async def test_of_fifty_uses_of_a_launch_one_wins(home: Front) -> None:
    """TOK-5."""
    registry = Registry(home)
    token = registry.token()
    tried = await asyncio.gather(*(registry.use(token) for _ in range(50)), return_exceptions=True)
    assert sum(not isinstance(one, BaseException) for one in tried) == 1
    assert sum(isinstance(one, TokenRefused) for one in tried) == 49


async def test_a_used_launch_stays_used(house: Any) -> None:
    """TOK-5: after a restart, after a reboot, until it is over anyway."""
    async with house.opened() as life:
        registry = Registry(life)
        token = registry.token()
        await registry.use(token)
    for again in (lambda: None, house.reboot):
        again()
        house.clock.wall -= 60 if again == house.reboot else 0
        async with house.opened() as life:
            with pytest.raises(TokenRefused) as caught:
                await registry.use(token, life)
            assert caught.value.why == "used already"


@pytest.mark.parametrize(
    "changes",
    [
        {"typ": ACCESS_TYPE},
        {"typ": "JWT"},
        {"kid": "reg-2"},
        {"iss": "other"},
        {"aud": "croft-other"},
        {"exp": 1_800_000_121},
        {"jti": None},
        {"nbf": 1_800_000_031},
        {"iat": 1_800_000_031},
        {"exp": 1_799_999_969, "iat": 1_799_999_900, "nbf": 1_799_999_900},
    ],
    ids=str,
)
async def test_launches_that_are_not_for_here_and_now(home: Front, changes: dict[str, Any]) -> None:
    """TOK-3, TOK-4: and nothing is used up by them."""
    registry = Registry(home)
    with pytest.raises(TokenRefused):
        await registry.use(registry.token(**changes))
    assert await home.store.database.rows("SELECT * FROM used_tokens") == []
    await registry.use(registry.token(exp=1_800_000_120))


async def test_tokens_are_not_used_across_purposes(home: Front) -> None:
    """TOK-4."""
    registry = Registry(home)
    with pytest.raises(TokenRefused):
        home.tokens.verify_access(registry.token())
    with pytest.raises(TokenRefused):
        await home.tokens.use_launch(
            home.tokens.issue_access("u1", "s1"), {home.tokens._kid: home.tokens._key.public_key()}, home.store.instance
        )


@pytest.mark.parametrize(("package", "floor"), [("PyJWT", (2, 13, 0)), ("aiohttp", (3, 14, 3))])
def test_the_floors_of_the_libraries(package: str, floor: tuple[int, ...]) -> None:
    """TOK-10, FWD-12: in the lock and in what runs."""

    def parts(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split(".")[:3])

    assert parts(metadata.version(package)) >= floor
    locked = re.search(rf"(?im)^{package}==([0-9.]+)", (ROOT / "requirements.txt").read_text())
    assert locked
    assert parts(locked[1]) >= floor
