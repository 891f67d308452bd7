"""Questions about the services that the broker answers in either runtime."""

from __future__ import annotations

import asyncio

from appliance.broker.client import BrokerClient, BrokerError
from appliance.errors import Unavailable

ANSWER_WITHIN = 10.0  # no verb takes the broker long


async def count_terminals(client: BrokerClient) -> int:
    """How many terminals of the IDE have a program in front, in either runtime. Raises Unavailable."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            return int((await client.call("terminals")).data["foreground"])
    except (BrokerError, TimeoutError) as error:
        raise Unavailable("the broker cannot count terminals") from error


def for_model(model_mb: int | None) -> dict[str, int]:
    """How the broker is told what the model in use needs: not at all where there is none."""
    return {} if model_mb is None else {"model_mb": model_mb}
