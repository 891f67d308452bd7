"""Keeping the one connection to the broker up, whatever happens to the broker.

Rule: attempts are spaced by capped, jittered waits, and whoever waits for a broken connection has failed
already: the client sees to that.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from appliance.broker.client import BrokerClient, BrokerError
from appliance.errors import Unavailable

log = logging.getLogger(__name__)

FIRST_WAIT = 0.1  # seconds; a restarting broker is back in well under a second
LONGEST_WAIT = 5.0
ANSWER_WITHIN = 10.0  # no verb takes the broker long


async def keep_connected(client: BrokerClient, changed: Callable[[], None]) -> None:
    """Connect, and again whenever the connection is lost, until cancelled. ``changed`` is called after
    either."""
    tries = 0
    while True:
        try:
            if not _connected(client):
                await client.connect()
        except Unavailable as error:
            log.log(
                logging.DEBUG if tries else logging.WARNING,
                "cannot connect to the broker",
                extra={"cause": error.message},
            )
            await asyncio.sleep(_wait(tries))
            tries += 1
            continue
        tries = 0
        changed()
        await asyncio.shield(client.closed)
        log.warning("connection to the broker lost")
        changed()
        await asyncio.sleep(_wait(0))


async def count_terminals(client: BrokerClient) -> int:
    """How many terminals of the IDE have a program in front, in either runtime. Raises Unavailable."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            return int((await client.call("terminals")).data["foreground"])
    except (BrokerError, TimeoutError) as error:
        raise Unavailable("the broker cannot count terminals") from error


def _connected(client: BrokerClient) -> bool:
    closed: asyncio.Future[None] | None = getattr(client, "closed", None)
    return closed is not None and not closed.done()


def _wait(tries: int) -> float:
    longest: float = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(tries, 10))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
