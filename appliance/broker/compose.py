"""The Docker runtime: containers created by Compose from our own file, started and stopped over the Engine API.

Rule: at most one job per service, and nothing here decides to restart anything. What is running is adopted; what is
made is made under the one name a service has, so nothing can be there twice.
"""

from __future__ import annotations

import os
import selectors
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from appliance.broker import caddyfile, catalogue, containers, egress, fetching, images, layout
from appliance.broker import packages as package_images
from appliance.broker.accounts import Accounts
from appliance.broker.backend import SERVICES, Notify, Row
from appliance.broker.cgroups import Group
from appliance.broker.docker_filter import DockerFilter
from appliance.broker.engine import SOCKET, Call, EngineGone, Program, Task, Work
from appliance.broker.fetching import NAME, NETWORK, PORT, Fetching
from appliance.broker.launch import Launch, launch
from appliance.broker.project import FINGERPRINT_LABEL, Project
from appliance.broker.protocol import Field, Peer, Reply, Verb, many, one_of, text, whole
from appliance.broker.shares import Share
from appliance.broker.sharing import Sharing, for_start
from appliance.errors import Conflict, CroftError, NotFound, Unavailable
from appliance.settings import Settings

_SERVICE = Field(one_of(SERVICES))
_SHUTDOWN_GRACE = 10.0
_WATCH_AGAIN = 1.0  # seconds until the engine is asked for its events again
_STATES = {"start": "starting", "stop": "stopping"}


class ComposeBackend:
    """See :class:`~appliance.broker.backend.ServiceBackend`.

    A job's end is told by ``{"event": "done", "op", "service", "error": null | {code, message}}``, a pull's way by
    ``{"event": "progress", "service", "phase", "current", "total"}``. ``files`` is the root-owned folder that holds
    compose.yaml and pins.toml.
    """

    runtime = "docker"

    def __init__(
        self,
        settings: Settings,
        accounts: Accounts,
        notify: Notify,
        *,
        files: Path | None = None,
        engine: Path = SOCKET,
    ) -> None:
        self._settings = settings
        self._accounts = accounts
        self._notify = notify
        self._engine = engine
        state = settings.paths.programs / "docker"
        self._project = Project(settings, accounts, files or _files(settings), state, engine)
        self._pins = images.read_pins(self._project.pins)
        self._ledger = images.Ledger(state / "images.json")
        self._packages = state / "packages.json"
        self._build_problem = ""
        self._filter = DockerFilter(settings.paths.socket("docker"), engine, accounts)
        self._jobs: dict[str, str] = {}
        self._seen: dict[str, containers.Seen] = {}
        self._images: dict[str, str] = {}
        self._started_by: dict[str, str] = {}
        self._sharing = Sharing(settings, docker=True)
        self._fetching = Fetching(engine)
        self._letting = False
        self._let_at = 0.0
        self._watch: Call | None = None
        self._watch_at = 0.0
        self._ending = False

    def register(self, selector: selectors.BaseSelector) -> None:
        """Fence the bridges, open the filtered API, and look at what is there."""
        self._selector = selector
        egress.install()
        self._filter.register(selector)
        self._look()

    def services(self) -> list[Row]:
        return [self._row(service) for service in SERVICES]

    def start(self, service: str, model_mb: int | None, started_by: str, safe: bool = False) -> Row:
        if self._jobs.get(service) != "start":
            self._sharing.follow(for_start(service, model_mb))
            self._started_by[service] = started_by
            self._begin("start", service, self._starting(service, safe))
        return self._row(service)

    def share(self, model_mb: int | None) -> None:
        self._sharing.follow(model_mb)
        Task(self._selector, self._settling(), self._settled).begin()

    def stop(self, service: str, grace: float) -> Row:
        if self._jobs.get(service) != "stop":
            self._begin("stop", service, self._stopping(service, grace))
        return self._row(service)

    def logs(self, service: str) -> int:
        raise NotFound("logs of containers are read through docker.sock")

    def pump(self) -> float | None:
        """Watch the engine again after it went away; let slow clients of the filter go."""
        waits = [wait for wait in (self._filter.pump(), self._watching(), self._letting_in()) if wait is not None]
        return min(waits, default=None)

    def verbs(self) -> Mapping[str, Verb]:
        return {
            "image-status": Verb(self._image_status, {"service": _SERVICE}),
            "image-pull": Verb(self._image_pull, {"service": _SERVICE}),
            "image-packages": Verb(
                self._image_packages, {"packages": Field(many(package_images.MOST, text(package_images.NAME)), False)}
            ),
            "engine": Verb(self._where),
            "engine-egress": Verb(self._engine_egress, {"seconds": Field(whole(0, fetching.LONGEST))}),
        }

    def shutdown(self) -> None:
        self._ending = True
        self._filter.close()
        for service in SERVICES:
            if service not in self._jobs and self._running(service):
                self._begin("stop", service, self._stopping(service, _SHUTDOWN_GRACE))

    def busy(self) -> bool:
        return bool(self._jobs) or self._letting

    # Verbs.

    def _image_status(self, peer: Peer, service: str) -> Reply:
        pin, held = self._pins[service], self._ledger.held().get(service)
        current = held is not None and (held.repository, held.version) == (pin.repository, pin.version)
        return Reply(
            {
                "service": service,
                "present": service in self._images,
                "image": self._images.get(service),
                "repository": pin.repository,
                "version": pin.version,
                "digest": held.digest if held else "",
                "held_version": held.version if held else "",
                "current": current,
                "packages": list(package_images.read(self._packages).packages) if service == "ide" else [],
                "building": self._jobs.get(service) == "build",
                "build_problem": self._build_problem if service == "ide" else "",
            }
        )

    def _image_pull(self, peer: Peer, service: str) -> Reply:
        def report(phase: str, current: int, total: int) -> None:
            self._notify({"event": "progress", "service": service, "phase": phase, "current": current, "total": total})

        def work() -> Work:
            yield from images.pull(self._engine, self._pins[service], self._ledger, report)
            if service == "ide" and (wanted := package_images.read(self._packages).packages):
                yield from package_images.build(self._engine, self._ledger, self._packages, wanted)

        self._begin("pull", service, work())
        return Reply({"service": service})

    def _image_packages(self, peer: Peer, packages: list[str] | None = None) -> Reply:
        """Have exactly these packages in the IDE's image; none leads back to the image as it was pulled."""
        wanted = tuple(dict.fromkeys(packages or ()))
        self._begin("build", "ide", package_images.build(self._engine, self._ledger, self._packages, wanted))
        return Reply({"packages": list(wanted)})

    def _where(self, peer: Peer) -> Reply:
        """Where the engine listens, and its key: for the daemon, which is the only one to call it."""
        seen = self._seen.get("ai")
        networks = seen.networks if seen and seen.running else {}
        if not networks.get(NETWORK):
            raise Unavailable("the engine does not run", code="not_running")
        key, egress = self._project.ai_key(), NAME in networks
        return Reply({"address": networks[NETWORK], "port": PORT, "key": key, "egress": egress})

    def _engine_egress(self, peer: Peer, seconds: int) -> Reply:
        """Let the engine out for so many seconds, or for longer; 0 ends it."""
        self._fetching.lease(seconds, time.monotonic())
        return Reply({"seconds": seconds})  # and the loop's next turn does it

    # Jobs. Each is a generator for engine.Task.

    def _begin(self, op: str, service: str, work: Work) -> None:
        if service in self._jobs:
            raise Conflict(f"the {service} service is busy: {self._jobs[service]}", code="busy")
        self._jobs[service] = op
        Task(self._selector, self._whole(service, work), lambda error: self._done(op, service, error)).begin()

    def _whole(self, service: str, work: Work) -> Work:
        """The job, and then a look at what it led to, whether it went well or not."""
        problem: Exception | None = None
        try:
            yield from work
        except (CroftError, OSError) as error:
            problem = error
        try:
            yield from self._looking(service)
        except EngineGone as error:
            problem = problem or error
        if problem is not None:
            raise problem

    def _done(self, op: str, service: str, error: Exception | None) -> None:
        if error is not None and not isinstance(error, CroftError | OSError):
            raise error
        problem = error if isinstance(error, CroftError) else Unavailable(f"cannot {op} the {service} service: {error}")
        if op == "build":
            self._build_problem = problem.message if error else ""
        del self._jobs[service]
        told = None if error is None else {"code": problem.code, "message": problem.message}
        self._notify({"event": "done", "op": op, "service": service, "error": told})
        if self._ending and self._running(service):
            self._begin("stop", service, self._stopping(service, _SHUTDOWN_GRACE))

    def _starting(self, service: str, safe: bool) -> Work:
        yield from self._looking(service)
        if self._running(service):
            return
        yield from self._settling()
        share, before = self._sharing.given(service, self._groups()), self._seen.get(service)
        yield from self._creating(service, share, safe)
        if before and before.memory != share.memory_mb << 20:
            yield from self._limiting(service, share.memory_mb)  # it was another while that one ran
        if service == "ai":
            self._fetching.lease(0, time.monotonic())
            yield from self._fetching.apply()  # it does not begin with a way out that an earlier run had
        answer = yield Call(self._engine, "POST", f"/containers/{containers.name(service)}/start")
        if answer.status >= 400:
            raise Unavailable(f"cannot start the {service} service: {answer.message}", code="start_failed")
        yield from self._settling()  # others may have been started, or shared out anew, meanwhile

    def _settling(self) -> Work:
        """Write the limits of what runs as the plan gives them, as far as what it holds allows."""
        for service in SERVICES:
            if self._running(service):
                yield from self._looking(service)
        groups = self._groups()
        for service, megabytes in self._sharing.steps(groups):
            with groups[service].pressed(megabytes) as fits:
                if fits:
                    yield from self._limiting(service, megabytes)

    def _limiting(self, service: str, megabytes: int) -> Work:
        """With as much swap again, as the engine gives by itself. A kernel that refuses leaves the limit where it was."""
        limits = {"Memory": megabytes << 20, "MemorySwap": megabytes << 21}
        answer = yield Call(self._engine, "POST", f"/containers/{containers.name(service)}/update", limits)
        if answer.status >= 400:
            sys.stderr.write(f"croft broker: cannot limit the {service} service: {answer.message}\n")

    def _settled(self, error: Exception | None) -> None:
        if error is not None:
            if not isinstance(error, CroftError | OSError):
                raise error
            sys.stderr.write(f"croft broker: {error}\n")

    def _groups(self) -> dict[str, Group]:
        return {service: containers.group(seen.pid) for service, seen in self._seen.items() if seen.running}

    def _stopping(self, service: str, grace: float) -> Work:
        path = f"/containers/{containers.name(service)}/stop?t={max(0, round(grace))}"
        answer = yield Call(self._engine, "POST", path)
        if answer.status >= 400 and answer.status != 404:
            raise Unavailable(f"cannot stop the {service} service: {answer.message}", code="stop_failed")

    def _creating(self, service: str, limits: Share, safe: bool = False) -> Work:
        """Make the container unless the one there is what would be made; a service that runs is left alone."""
        image = yield from self._image(service)
        limits = yield from self._holdable(limits)
        values = self._project.environment(service, limits, image, safe=safe)
        seen = self._seen.get(service)
        if seen and seen.running:
            return  # its configuration included: a changed one is told by the row's ``outdated``
        if seen and seen.labels.get(FINGERPRINT_LABEL) == values["CROFT_FINGERPRINT"]:
            yield from self._prepare(service)
            return
        yield from self._prepare(service)
        argv, env = self._project.create(service, values)
        code, said = yield Program(argv, env)
        if code:
            words = said.strip().splitlines()
            raise Unavailable(
                f"cannot create the {service} service: {words[-1] if words else f'status {code}'}"[:500],
                code="create_failed",
            )

    def _holdable(self, limits: Share) -> Work:
        """``limits`` without the share of cores on a machine that gives out none: the engine would refuse the container.

        Memory it only warns about, and `croft doctor` says so.
        """
        info = (yield Call(self._engine, "GET", "/info")).json()
        return limits if info.get("CpuCfsQuota", True) else limits._replace(cpus=0.0)

    def _image(self, service: str) -> Work:
        """The id of the image to run: the one on record, named again if somebody gave its name to another."""
        held = self._ledger.held().get(service)
        answer = yield Call(self._engine, "GET", f"/images/{images.local_tag(service)}/json")
        found = str(answer.json()["Id"]) if answer.status == 200 else ""
        if held and found != held.id:
            path = f"/images/{held.id}/tag?repo=croft/{service}&tag=pin"
            found = held.id if (yield Call(self._engine, "POST", path)).status == 201 else ""
        if not found:
            raise Unavailable(f"the image of the {service} service is not on this machine", code="image_missing")
        return found

    def _prepare(self, service: str) -> Work:
        """What a container finds in its folders."""
        if service == "ide":
            yield from self._write_ide_settings()
        elif service == "proxy":
            text = caddyfile.render(self._settings, self.runtime)
            _replace(catalogue.caddyfile_path(self._settings), text, self._accounts.proxy.gid)

    def _write_ide_settings(self) -> Work:
        """As the workspace's user, because the home is that user's to fill with links."""
        program = catalogue.ide(self._settings, self._accounts)
        account = program.account if self._accounts.switching else None
        root = layout.open_folder(program.folder, program.account.uid)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            pid = launch(Launch((), root, null, null, null, account=account, entry=program.entry))
        finally:
            os.close(root)
            os.close(null)
        code, _ = yield Program.adopt(pid)
        if code:
            raise Unavailable("cannot prepare the editor's settings", code="start_failed")

    # Looking.

    def _looking(self, service: str) -> Work:
        answer = yield Call(self._engine, "GET", f"/containers/{containers.name(service)}/json")
        seen = containers.read(service, answer.json()) if answer.status == 200 else None
        if seen is None:
            self._seen.pop(service, None)
        else:
            self._seen[service] = seen
        answer = yield Call(self._engine, "GET", f"/images/{images.local_tag(service)}/json")
        if answer.status == 200:
            self._images[service] = str(answer.json()["Id"])
        else:
            self._images.pop(service, None)

    def _look(self, services: tuple[str, ...] = SERVICES, then: Callable[[], None] = lambda: None) -> None:
        def work() -> Work:
            for service in services:
                yield from self._looking(service)

        def ended(error: Exception | None) -> None:
            if error is not None and not isinstance(error, EngineGone):
                raise error
            then()

        Task(self._selector, work(), ended).begin()

    def _watching(self) -> float | None:
        """Keep one event stream open. Seconds until the next try, None while it is open."""
        if self._watch is not None or self._ending:
            return None
        if time.monotonic() < self._watch_at:
            return self._watch_at - time.monotonic()
        self._watch = Call(self._engine, "GET", f"/events?filters={containers.EVENT_FILTER}", line=self._event)
        self._watch.begin(self._selector, lambda result: self._unwatched())
        if self._watch is not None:
            self._look()
        return None if self._watch is not None else _WATCH_AGAIN

    def _letting_in(self) -> float | None:
        """Open or close the engine's way out when that is due. Seconds until it is, None while it is closed."""
        left = self._fetching.left(time.monotonic())
        if left == 0 and not self._letting and not self._ending and time.monotonic() >= self._let_at:
            # Not one of the jobs: a start or a stop does not have to wait for it.
            self._letting = True
            Task(self._selector, self._whole("ai", self._fetching.apply()), self._let).begin()
        return left or (_WATCH_AGAIN if left == 0 else None)

    def _let(self, error: Exception | None) -> None:
        self._letting = False
        if error is not None:
            if not isinstance(error, CroftError | OSError):
                raise error
            sys.stderr.write(f"croft broker: {error}\n")
            self._let_at = time.monotonic() + _WATCH_AGAIN

    def _unwatched(self) -> None:
        """The engine went away. Containers may well run on (live-restore): nothing is said about them."""
        self._watch = None
        self._watch_at = time.monotonic() + _WATCH_AGAIN

    def _event(self, line: bytes) -> None:
        found = containers.event(line)
        if found is None or found.service in self._jobs:
            return
        service, action = found
        if action == "die":
            self._look((service,), lambda: self._notify({"event": "exit", **self._exit(service)}))
        elif action in ("start", "destroy", "pause", "unpause", "oom"):
            self._look((service,), lambda: self._notify({"event": "changed", "service": service}))

    def _exit(self, service: str) -> dict[str, Any]:
        row = self._row(service)
        return {key: row[key] for key in ("service", "run_id", "exit_code", "signal")} | {"usage": {}}

    def _running(self, service: str) -> bool:
        seen = self._seen.get(service)
        return seen is not None and seen.running

    def _row(self, service: str) -> Row:
        row: Row = {
            "service": service,
            "state": "absent",
            "since": None,
            "pid": None,
            "exit_code": None,
            "signal": None,
            "started_by": self._started_by.get(service),
            "run_id": None,
            "memory_bytes": None,
            "memory_limit": None,
            "cpu_usec": None,
            "outdated": service == "proxy"
            and self._running(service)
            and caddyfile.outdated(self._settings, self.runtime),
        }
        if (seen := self._seen.get(service)) is not None:
            row |= seen.row()
        elif service in self._images:
            row |= {"state": "stopped"}
        job = _STATES.get(self._jobs.get(service, ""))
        return row | ({"state": job} if job else {})


def _files(settings: Settings) -> Path:
    """The installed files, or the checkout's."""
    checkout = Path(__file__).resolve().parents[2] / "compose"
    installed = settings.paths.programs / "compose"
    return installed if installed.is_dir() or not checkout.is_dir() else checkout


def _replace(path: Path, text: str, gid: int) -> None:
    """Swap the file in its folder, which is what the container has mounted."""
    fresh = path.with_suffix(".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        os.fchown(fd, os.geteuid(), gid)
        os.fchmod(fd, 0o640)  # whatever the umask: the proxy's group reads it
        file.write(text)
    fresh.replace(path)
