"""The address of an engine elsewhere: what it may look like, and which addresses of the network it may lead to (AI-10, NET-8).

Rule: a name is looked up once for each use, every address it has is checked, and the connection goes to one that was checked. So a
name that leads elsewhere a moment later leads nowhere.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from msgspec import Struct

from appliance.errors import Invalid, Unavailable

Address = IPv4Address | IPv6Address
LookUp = Callable[[str, int], Awaitable[list[str]]]

_URL = re.compile(
    r"(https?)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]{1,253})(?::([0-9]{1,5}))?(/[A-Za-z0-9._~/-]{0,200})?\Z"
)
# Where clouds tell a machine its secrets; some of these count as private or public addresses otherwise.
_METADATA = frozenset(
    map(ip_address, ("169.254.169.254", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))
)
_PRIVATE = [
    ip_network(text)
    for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "::1/128", "fc00::/7")
]
_TRANSLATED = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
_SECONDS = 10.0


class Endpoint(Struct, frozen=True):
    """An engine elsewhere. ``private``: an admin said that it is on this machine or in a private network."""

    scheme: str
    host: str
    port: int
    path: str
    private: bool

    @property
    def base(self) -> str:
        """Its address as requests name it, ending in /v1."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"https": 443, "http": 80}[self.scheme]
        return f"{self.scheme}://{name}{'' if self.port == usual else f':{self.port}'}{self.path}"


@functools.lru_cache(maxsize=8)
def parse(url: str, *, private: bool) -> Endpoint:
    """Read what an admin set. Raises Invalid."""
    found = _URL.match(url)
    if not found:
        raise Invalid("the endpoint's address is not usable", hint="It looks like https://api.example.org/v1.")
    scheme, host, port, path = found[1], found[2].strip("[]").lower(), int(found[3] or 0), (found[4] or "").rstrip("/")
    if scheme == "http" and not private:
        raise Invalid(
            "text may not leave the machine without TLS",
            hint="Use https, or say that the endpoint is on this machine or in a private network.",
        )
    if port > 65535:
        raise Invalid("the endpoint's port is not one", hint="A port is a number from 1 to 65535.")
    path = path if path.endswith("/v1") else f"{path}/v1"
    return Endpoint(scheme, host, port or {"https": 443, "http": 80}[scheme], path, private)


async def resolve(endpoint: Endpoint, look_up: LookUp | None = None) -> str:
    """The address to connect to. Raises Unavailable when the name has none, Invalid when one of them is not allowed."""
    try:
        return _written(endpoint)
    except ValueError:
        pass  # a name
    try:
        async with asyncio.timeout(_SECONDS):
            found = await (look_up or _look_up)(endpoint.host, endpoint.port)
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"cannot find {endpoint.host}: the name has no address") from error
    addresses = [_allowed(ip_address(text), endpoint) for text in found]
    if not addresses:
        raise Unavailable(f"cannot find {endpoint.host}: the name has no address")
    return str(addresses[0])


@functools.lru_cache(maxsize=8)
def _written(endpoint: Endpoint) -> str:
    """The address that the endpoint is called by. Raises ValueError where that is a name, Invalid where none may be there."""
    return str(_allowed(ip_address(endpoint.host), endpoint))


def _allowed(address: Address, endpoint: Endpoint) -> Address:
    """Raises Invalid unless the endpoint may be there."""
    for one in _meant(address):
        private = any(one in network for network in _PRIVATE)
        public = _public(one) and endpoint.scheme == "https"
        if one in _METADATA or not ((private and endpoint.private) or public):
            raise Invalid(
                f"{endpoint.host} leads to {address}, where no endpoint may be",
                hint="A public endpoint needs https and a public address; one in a private network has to be set as such.",
            )
    return address


def is_public(text: str) -> bool:
    """Whether an address, and each that is written into it, is one of the internet's. Raises ValueError for what is none."""
    return all(_public(one) and one not in _METADATA for one in _meant(ip_address(text)))


def _public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved


def _meant(address: Address) -> list[Address]:
    """The address, and those of IPv4 that are written into one of IPv6."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped:
        return [address.ipv4_mapped]
    if address.sixtofour:
        return [address, address.sixtofour]
    if address.teredo:
        return [address, *address.teredo]
    if any(address in network for network in _TRANSLATED):
        return [ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)]
    return [address]


async def _look_up(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    rows = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(row[4][0]) for row in rows]
