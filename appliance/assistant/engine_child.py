"""The engine of the process runtime: llama.cpp's server, serving the chosen model on a unix socket.

`python -I -m appliance.assistant.engine_child MODELS SOCKET [LOCAL-AI]`, started by the broker under an account of its own, without
a network. With a third word, LocalAI serves in its place.

Rule: the words come from the broker's catalogue, and all else from the choice that the daemon wrote into MODELS; nothing that a
client sends is read here, and what is served is always a plain file of that folder.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from appliance.assistant import choice
from appliance.assistant.choice import Choice

# Tokens of a question that are worked on at a time. More costs memory for every word the model knows (128,000 and more), since
# embeddings are served too, and is no faster on a processor without an accelerator.
BATCH = 128
_PLAIN = 3  # words of the command line without LocalAI's
NICE = 5  # where no control group does it, the editor goes first


def main(argv: list[str]) -> int:
    """Serve until killed. Returns 1 when the model cannot be served; why is on standard error, which is the service's log."""
    models, socket = Path(argv[1]), Path(argv[2])
    chosen = choice.read(models)
    if chosen is None:
        print("cannot serve a model: none is chosen", file=sys.stderr)
        return 1
    socket.unlink(missing_ok=True)  # of a run that was killed
    os.nice(NICE)
    if len(argv) > _PLAIN:
        from appliance.assistant import localai_child

        return localai_child.serve(argv[_PLAIN], models, chosen, socket)
    try:
        serving = _serve(models / chosen.file, chosen, socket)
    except RuntimeError as error:  # all that llama.cpp says; its own lines stand above it in the log
        print(f"cannot serve the model {chosen.model}: {error}", file=sys.stderr)
        return 1
    print(
        f"serving {chosen.model} with a context of {chosen.context} tokens at {serving.listening_address}",
        file=sys.stderr,
    )
    while True:
        signal.pause()


def _serve(file: Path, chosen: Choice, socket: Path) -> Any:
    """The server; it answers 503 until the model is loaded. Raises RuntimeError."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.model_alias = {chosen.model}
    params.hostnames = [str(socket)]
    params.n_ctx = chosen.context
    params.n_parallel = 1  # one answer at a time: two would share the memory bandwidth, and hold two caches
    params.n_batch = params.n_ubatch = BATCH
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    params.fit_params = False  # the context is what was promised, or the model does not start
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.ui = False
    params.endpoint_slots = True  # whether it works on anything (AI-13)
    params.offline = True
    params.cors_origins = ""
    params.sse_ping_interval = 15
    params.verbosity = 2
    return xllamacpp.Server(params)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
