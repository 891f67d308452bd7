"""The daemon's life: it waits for the broker, opens the store, serves, and stops in the other order.

Rule: what the store needs is imported first. All the rest, which takes the longest of a start, is imported in a thread while the
broker is asked and the database opened (F2).
"""

from __future__ import annotations

from appliance import lean  # first: see there

# isort: split
import argparse
import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

from appliance import log as logs
from appliance.audit import AuditUnavailable
from appliance.broker.client import call as broker_call
from appliance.errors import CroftError, Unavailable
from appliance.notify import Notifier
from appliance.settings import Paths, Settings, load
from appliance.settings_desk import SettingsDesk
from appliance.store import Store, open_store

log = logging.getLogger("croft")

BROKER_TRIES = 60  # half a minute in all
SETTLE_SECONDS = 1.0  # nobody who asks at once waits for what can wait


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises CroftError when something needed is missing."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    notifier = Notifier()
    rest = asyncio.create_task(asyncio.to_thread(_rest), name="imports")
    version = asyncio.create_task(asyncio.to_thread(caddy_version, settings), name="caddy version")
    # Before the store: the broker makes the folders that everything below lies in.
    broker = await ask_broker(settings)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        await _announce_start(store)
        desk = SettingsDesk(store.database, store.audit, store.clock, settings)
        settings = await desk.load()
        serve = await rest
        tasks = await stack.enter_async_context(serve(settings, desk, store, broker, version))
        loop.call_later(SETTLE_SECONDS, lean.settle)
        notifier.send("READY=1")
        log.info("croft is up", extra={"url": settings.ui_origin})
        tasks.append(asyncio.create_task(_heartbeat(notifier), name="heartbeat"))
        waiting = asyncio.create_task(stop.wait(), name="stop")
        done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        notifier.send("STOPPING=1")
        for task in done:
            task.result()
    log.info("croft has stopped")


def _rest() -> Callable[..., AbstractAsyncContextManager[list[asyncio.Task[None]]]]:
    from appliance.serving import serve

    return serve


async def _announce_start(store: Store) -> None:
    try:
        interrupted = await store.audit.interrupted()
        await store.audit.note("daemon.start", "daemon", interrupted=interrupted)
    except AuditUnavailable as error:
        # With a full disk people must still get in and see why (R10); what needs the audit log refuses by itself (LOG-3).
        log.error("the audit log cannot be written; starting all the same", exc_info=error)


async def ask_broker(settings: Settings) -> dict[str, Any]:
    """What the broker says of itself, waiting for it as long as a slow boot takes (R25). Raises Unavailable."""
    for attempt in range(BROKER_TRIES):
        try:
            return (await asyncio.to_thread(broker_call, settings.paths.socket("broker"), "hello")).data
        except Unavailable:
            if attempt == BROKER_TRIES - 1:
                raise
            await asyncio.sleep(min(0.02 * (attempt + 1), 1.0))
    raise AssertionError("the loop above ends by returning or raising")


def caddy_version(settings: Settings) -> str:
    """What ``caddy version`` prints, '' when there is no Caddy (the services page says so then)."""
    program = settings.paths_caddy or shutil.which("caddy")
    if not program:
        return ""
    try:
        done = subprocess.run([program, "version"], capture_output=True, timeout=10, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired):  # a machine that is still starting may be that slow
        return ""
    return done.stdout.strip()


async def _heartbeat(notifier: Notifier) -> None:
    """Tell systemd's watchdog that the event loop turns (SYS-6)."""
    while True:
        notifier.send("WATCHDOG=1")
        await asyncio.sleep(notifier.interval or 3600)


def main() -> int:
    """Entry point of ``python -m appliance.daemon``."""
    parser = argparse.ArgumentParser(prog="croft-daemon")
    parser.add_argument("--home", help="use the appliance beneath this folder")
    args = parser.parse_args()
    os.umask(0o077)
    try:
        settings = load(Paths.under(Path(args.home)) if args.home else Paths.system())
        logs.set_up(settings.log_level, settings.log_format)
        import uvloop

        uvloop.run(run(settings))
    except CroftError as error:
        log.error("croft cannot run", extra={"cause": error.message, "hint": error.hint})
        print(f"croft: {error.message}\n       {error.hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
