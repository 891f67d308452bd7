"""A1, A3, A4, A5: what signing in costs every request to the IDE, and that signing out is final."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from measure import Figure, NotRun, cpu_seconds, interleave, medians, ratio, wrk
from stage import IDE, Caddy, Ready, Visitor, running_appliance, scratch, signed_in

SECONDS = 3  # wrk takes whole ones
UPSTREAM = """
http:// {
	bind unix/%s
	respond "ok"
}
"""
ANSWERS_ITSELF = """
http:// {
	bind unix/%s
	respond 204
}
"""


def part_of_a_page(cookie: str) -> list[str]:
    return [f"Host: {IDE}", f"Cookie: {cookie}", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: no-cors"]


def decisions(rounds: int) -> list[Figure]:
    """A1 and A3 with a trivial upstream, so that only the check differs."""
    with signed_in() as ready, scratch() as folder:
        stages: list[Caddy] = []
        try:
            return _decisions(ready, folder, rounds, stages)
        finally:
            for stage in stages:
                stage.close()


def _decisions(ready: Ready, folder: Path, rounds: int, stages: list[Caddy]) -> list[Figure]:
    upstream = folder / "upstream.sock"
    through_daemon = Caddy(folder / "d", UPSTREAM % upstream)
    stages.append(through_daemon)
    by_itself = Caddy(folder / "c", ANSWERS_ITSELF % (folder / "c/run/web/verify.sock"))
    stages.append(by_itself)
    unchecked = Caddy(folder / "o", check=False)
    stages.append(unchecked)
    through_daemon.settings.paths.socket("verify").symlink_to(ready.appliance.paths.socket("verify"))
    for stage in stages:
        stage.settings.paths.socket("ide").symlink_to(upstream)

    headers, daemon = part_of_a_page(ready.cookie), [ready.appliance.daemon_pid()]
    per_decision: list[float] = []
    per_request: list[float] = []

    def load(url: str, pids: list[int], spent: list[float] | None) -> float:
        before = cpu_seconds(pids)
        seen = wrk(url, 32, SECONDS, headers)
        if seen.bad or not seen.rate:
            raise RuntimeError(f"{seen.bad} answers of {url} were not 2xx")
        if spent is not None:
            spent.append((cpu_seconds(pids) - before) / (seen.rate * SECONDS) * 1e6)
        return seen.rate

    found = interleave(
        {
            "croft": lambda: load(f"{through_daemon.ide_url}/a.js", daemon, per_decision),
            "caddy": lambda: load(f"{by_itself.ide_url}/a.js", daemon, None),
            "unchecked": lambda: load(f"{unchecked.ide_url}/a.js", [unchecked.process.pid], per_request),
        },
        rounds,
    )
    rates = {f"{name} req/s": value for name, value in medians(found).items()}
    cost = {"us per decision": _median(per_decision), "us per unchecked request": _median(per_request)}
    shares = [a / b for a, b in zip(per_decision, per_request, strict=True)]
    return [
        Figure(
            "A1",
            "protected route, c=32: daemon / Caddy answering itself",
            0.90,
            1.0,
            False,
            ratio(found, "croft", "caddy"),
            detail=rates,
        ),
        Figure(
            "A3",
            "daemon CPU per decision / Caddy CPU per unchecked request",
            0.20,
            0.12,
            True,
            _median(shares),
            detail=cost,
        ),
    ]


def workbench(rounds: int) -> list[Figure]:
    """A4: code-server's page with sign-in over the same page without."""
    with signed_in() as ready, scratch() as folder:
        guarded, bare = Caddy(folder / "g"), Caddy(folder / "b", check=False)
        try:
            guarded.settings.paths.socket("verify").symlink_to(ready.appliance.paths.socket("verify"))
            for stage in (guarded, bare):
                stage.settings.paths.socket("ide").symlink_to(ready.appliance.paths.socket("ide"))
            headers = [f"Host: {IDE}", f"Cookie: {ready.cookie}", "Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"]

            def load(url: str) -> float:
                seen = wrk(url, 6, SECONDS, headers)
                if seen.bad or not seen.rate:
                    raise RuntimeError(f"{seen.bad} answers of {url} were not 2xx")
                return seen.rate

            found = interleave(
                {
                    "with": lambda: load(f"{guarded.ide_url}/?ew=true"),
                    "without": lambda: load(f"{bare.ide_url}/?ew=true"),
                },
                rounds,
            )
        finally:
            guarded.close()
            bare.close()
    rates = {f"{name} req/s": value for name, value in medians(found).items()}
    return [
        Figure(
            "A4",
            "workbench page, c=6: with sign-in / without",
            0.93,
            0.97,
            False,
            ratio(found, "with", "without"),
            detail=rates,
        )
    ]


def after_sign_out(rounds: int) -> list[Figure]:
    """A5: requests begun after signing out had been answered and let through all the same. A count."""
    through = asked = 0
    with running_appliance(ide=True) as appliance:
        for _ in range(rounds):
            visitor = Visitor(appliance)
            visitor.sign_in(appliance.croft("login-link")["url"])
            visitor.enter()
            late = _hammer_and_leave(visitor)
            asked += len(late)
            through += sum(status < 400 and status != 302 for status in late)
    if not asked:
        raise NotRun("no request was begun after signing out")
    return [
        Figure(
            "A5",
            "requests let through after sign-out returned",
            0,
            0,
            True,
            float(through),
            detail={"asked": float(asked)},
        )
    ]


def _hammer_and_leave(visitor: Visitor) -> list[int]:
    """Statuses of the requests that four threads began after the sign-out was answered."""
    seen: list[tuple[float, int]] = []
    done = threading.Event()

    def hammer() -> None:
        while not done.is_set():
            begun = time.monotonic()
            seen.append((begun, visitor.ask(IDE, "/manifest.json", Sec_Fetch_Site="same-origin")[0]))

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    try:
        status = visitor.sign_out()
        left = time.monotonic()
        time.sleep(0.5)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    if status != 303:
        raise RuntimeError(f"cannot sign out: {status}")
    return [status for begun, status in seen if begun > left]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
