"""The plan in force, held against what really runs (appliance.broker.shares).

Rule: what a service may use and what it holds is read from its control group each time; nothing is remembered but the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from appliance.broker import cgroups, shares
from appliance.broker.cgroups import Group
from appliance.broker.shares import Plan, Share, Use
from appliance.settings import Settings


class Sharing:
    """One machine's. ``docker``: its engine takes a part as well."""

    def __init__(self, settings: Settings, *, docker: bool) -> None:
        self._machine, self._docker, self._wish = shares.measure(), docker, settings.ide_memory_mb
        self.follow(None)

    def follow(self, model_mb: int | None) -> None:
        """From now on the machine is shared out for a model that needs ``model_mb`` MiB, or without one (None)."""
        self.plan: Plan = shares.plan(self._machine, docker=self._docker, ide_memory_mb=self._wish, model_mb=model_mb)

    def steps(self, groups: Mapping[str, Group]) -> Iterator[tuple[str, int]]:
        """The limits to write, in MiB, one after the other: what is given to one has been taken from the other by then."""
        yield from shares.lowered(self.plan, uses(groups)).items()
        yield from shares.raised(self.plan, uses(groups)).items()

    def given(self, service: str, groups: Mapping[str, Group]) -> Share:
        """What ``service`` starts with beside what runs. Raises NoRoom."""
        return shares.given(self.plan, service, uses(groups))


def for_start(service: str, model_mb: int | None) -> int | None:
    """``model_mb`` for a start of ``service``: where the engine starts there is a model, known or not."""
    return 0 if service == "ai" and model_mb is None else model_mb


def uses(groups: Mapping[str, Group]) -> dict[str, Use]:
    """Of those whose memory is counted. One without a limit (somebody started its unit by hand) may take whatever there is."""
    held = {service: group.memory_held() for service, group in groups.items()}
    return {
        service: Use((groups[service].memory_limit() or cgroups.BOUNDLESS) >> 20, (count >> 20) + 1)
        for service, count in held.items()
        if count is not None
    }
