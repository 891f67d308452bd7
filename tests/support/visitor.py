"""A browser as far as cookies and forms go, over a front."""

from __future__ import annotations

from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

from support.front import Front
from webui.guard import COOKIE


class Visitor:
    """Keeps its cookies; every request is a navigation from our own page."""

    def __init__(self, door: Front, address: str = "192.0.2.50") -> None:
        self.door, self.address = door, address
        self.cookies: dict[str, str] = {}

    async def ask(self, method: str, path: str, **form: str) -> tuple[int, str, str]:
        """Status, body and Location."""
        sent = {"Accept": "text/html", "X-Forwarded-For": self.address, "Sec-Fetch-Mode": "navigate"}
        sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        how = {"data": form} if method == "POST" else {}
        async with self.door.ask(method, path, headers=sent, **how) as answer:
            for line in answer.headers.getall("Set-Cookie", []):
                for name, morsel in SimpleCookie(line).items():
                    self.cookies[name] = morsel.value
                    if not morsel.value:
                        del self.cookies[name]
            return answer.status, await answer.text(), answer.headers.get("Location", "")

    @property
    def signed_in(self) -> bool:
        return self.door.sessions.check(self.cookies.get(COOKIE, "")) is not None


def token(link: str) -> str:
    """The secret that a link holds."""
    return parse_qs(urlsplit(link).query)["t"][0]
