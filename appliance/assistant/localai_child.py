"""LocalAI as the engine of the process runtime, where somebody has installed it: the same socket as llama.cpp's, in front of it.

LocalAI listens on TCP alone and starts further servers of its own without a key; all of that happens in a network that nobody else is
in (the broker made it), and this passes on what comes in by the socket.

Rule: nothing of a request is read but the one address of the probe, which LocalAI calls otherwise. When either ends, so does the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from appliance.assistant.choice import Choice

_PROBE, _THEIRS = b"GET /health ", b"GET /readyz "
_CHUNK = 64 * 1024


def serve(program: str, models: Path, chosen: Choice, path: Path) -> int:
    """Run LocalAI until it ends or we are told to; its exit code. Its models' settings lie in a folder of its own meanwhile."""
    os.umask(0o077)  # what LocalAI writes is its own; only the socket is for the daemon's group
    with tempfile.TemporaryDirectory(prefix="croft-localai-") as folder:
        return asyncio.run(_serve(program, models, chosen, path, Path(folder)))


async def _serve(program: str, models: Path, chosen: Choice, path: Path, folder: Path) -> int:
    config, port = folder / "models.yaml", _free_port()
    config.write_text(json.dumps([settings_of(chosen)]))  # JSON is YAML
    process = await asyncio.create_subprocess_exec(program, "run", env=environment(models, chosen.model, config, port))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, process.terminate)
    server = await asyncio.start_unix_server(lambda reader, writer: _pass_on(reader, writer, port), path)
    await asyncio.to_thread(path.chmod, 0o660)
    print(f"LocalAI serves {chosen.model} with a context of {chosen.context} tokens", file=sys.stderr)
    async with server:
        return await process.wait()


def settings_of(chosen: Choice) -> Mapping[str, object]:
    """What LocalAI has to be told of a model's file: it takes none that nothing names."""
    return {
        "name": chosen.model,
        "backend": "cpu-llama-cpp",
        "context_size": chosen.context,
        "embeddings": True,
        "parameters": {"model": chosen.file},
    }


def environment(models: Path, model: str, config: Path, port: int) -> Mapping[str, str]:
    """As in compose/compose.yaml, without a key: whoever reaches the port is LocalAI itself. It writes beside ``config`` alone."""
    folder = config.parent
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LOCALAI_ADDRESS": f"127.0.0.1:{port}",
        "LOCALAI_MODELS_PATH": str(models),
        "LOCALAI_MODELS_CONFIG_FILE": str(config),
        "LOCALAI_LOAD_TO_MEMORY": model,
        "LOCALAI_BACKENDS_PATH": str(models / "backends"),  # and /var/lib/local-ai/backends, by itself
        "LOCALAI_CONFIG_DIR": str(folder),
        "LOCALAI_DATA_PATH": str(folder),  # else where it was started, which is the socket's folder
        "LOCALAI_GENERATED_CONTENT_PATH": str(folder),
        "LOCALAI_UPLOAD_PATH": str(folder),
        "LOCALAI_MAX_ACTIVE_BACKENDS": "1",
        "LOCALAI_DISABLE_WEBUI": "true",
        "LOCALAI_DISABLE_AGENTS": "true",
        "LOCALAI_DISABLE_ASSISTANT": "true",
        "LOCALAI_DISABLE_MCP": "true",
        "LOCALAI_DISABLE_GALLERY_ENDPOINT": "true",
        "LOCALAI_AUTOLOAD_GALLERIES": "false",  # else it looks there for any model that a request names
        "LOCALAI_AUTOLOAD_BACKEND_GALLERIES": "false",
        "LOCALAI_VRAM_WARM_LIMIT": "0",
    }


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """One connection, both ways, until either side ends it: LocalAI learns that nobody waits any more."""
    try:
        theirs, to_them = await asyncio.open_connection("127.0.0.1", port)
    except OSError:  # it has not begun to listen
        writer.close()
        return
    try:
        first = await reader.read(_CHUNK)
        to_them.write(_THEIRS + first[len(_PROBE) :] if first.startswith(_PROBE) else first)
        ways = {asyncio.create_task(_copy(reader, to_them)), asyncio.create_task(_copy(theirs, writer))}
        _, left = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in left:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    finally:
        for end in (writer, to_them):
            end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
