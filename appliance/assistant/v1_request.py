"""What a program may ask of the engine over ``/v1``, read no further than limits need.

Rule: of the outermost object only known fields pass, each once; what they hold goes on as it came. Nothing in a request makes the
engine fetch anything: pictures and sounds come along as ``data:`` or not at all (AI-9).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from appliance.errors import Invalid, NotFound

# Our name for whatever model is in use, so that settings of programs outlive a change of the model.
OWN_NAME = "croft"
CHAT = "/chat/completions"
BYTES_PER_TOKEN = 4
ANSWER_TOKENS = 256  # what an answer counts for until its length is known

# The parameters of the chat interface that an engine on one's own machine can act on, and the usual ones of local engines. Left out
# are those for the provider's account (user, metadata, store, service_tier ...), for its web search, and for one server's insides.
_CHAT = (
    "model messages stream stream_options temperature top_p n stop max_tokens max_completion_tokens presence_penalty "
    "frequency_penalty logit_bias logprobs top_logprobs seed tools tool_choice parallel_tool_calls functions function_call "
    "response_format reasoning_effort modalities prediction verbosity "
    "top_k min_p typical_p repeat_penalty repeat_last_n grammar chat_template_kwargs"
)
_EMBEDDINGS = "model input encoding_format dimensions"


Head = TypeVar("Head", bound=msgspec.Struct)


class NoSuchModel(NotFound):
    """The request names a model that is not in use."""

    code = "model_not_found"


class _Options(msgspec.Struct):
    include_usage: bool | None = None


_Object = dict[str, msgspec.Raw]
_LINKS = ("image_url", "audio_url", "video_url")


class _Chat(msgspec.Struct):
    model: str
    messages: list[_Object]
    stream: bool | None = None
    stream_options: _Options | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None


class _Embeddings(msgspec.Struct):
    model: str
    input: msgspec.Raw


@dataclass(frozen=True)
class Ask:
    """One request. ``path`` follows ``/v1``; ``stream``, ``wants_usage``: the client asked for a stream, and for a last chunk with the
    usage in it; ``estimate``: tokens it may take; ``prompt``: those of them that are read."""

    path: str
    model: str
    fields: dict[str, msgspec.Raw]
    prompt: int
    estimate: int
    stream: bool = False
    wants_usage: bool = False

    def body(self, model: str) -> bytes:
        """The request for the engine, which calls its model ``model``. It always answers a chat as a stream that ends with its usage:
        of one that it answers whole it does not notice that nobody waits any more (AI-13)."""
        fields = self.fields | {"model": msgspec.Raw(msgspec.json.encode(model))}
        if self.path == CHAT:
            fields["stream"] = msgspec.Raw(b"true")
            fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
        return msgspec.json.encode(fields)


def chat(body: bytes) -> Ask:
    """Read the body of a chat request. Raises Invalid."""
    head, fields = _read(body, _Chat, _CHAT)
    for message in head.messages:
        for content in _named(message, ("content",), str | list[_Object] | None):
            for part in content if isinstance(content, list) else ():
                _check_part(part)
    prompt = len(body) // BYTES_PER_TOKEN
    answer = max(0, head.max_completion_tokens or head.max_tokens or 0) or ANSWER_TOKENS  # -1 has no end
    wants = head.stream_options is not None and head.stream_options.include_usage is True
    return Ask(
        CHAT,
        head.model,
        fields,
        prompt,
        prompt + answer * max(1, head.n or 1),
        head.stream is True,
        wants,
    )


def embeddings(body: bytes) -> Ask:
    """Read the body of a request for embeddings. Raises Invalid."""
    head, fields = _read(body, _Embeddings, _EMBEDDINGS)
    prompt = len(head.input) // BYTES_PER_TOKEN
    return Ask("/embeddings", head.model, fields, prompt, prompt)


def check_model(asked: str, known: str) -> None:
    """Whether ``asked`` is the model in use, by our name or by the engine's (``known``, empty while unknown). Raises NoSuchModel."""
    if asked == OWN_NAME or (known and asked == known):
        return
    raise NoSuchModel(
        f"there is no model {asked[:100]!r} here",
        hint=f"Use {OWN_NAME!r}, which is whatever model is in use."
        if not known
        else f"Use {OWN_NAME!r} or {known!r}.",
    )


def _read(body: bytes, kind: type[Head], known: str) -> tuple[Head, dict[str, msgspec.Raw]]:
    head = _decoded(body, kind)
    fields: _Object = _decoded(body, _Object)
    names = known.split()
    return head, {name: value for name, value in fields.items() if name in names}


def _decoded(data: bytes | msgspec.Raw, kind: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Invalid(f"cannot read the request: {error}", hint="It takes what OpenAI's interface takes.") from error


def _named(found: _Object, names: Collection[str], kind: Any) -> Iterator[Any]:
    """What stands under ``names``, in whatever case: LocalAI is written in Go, which takes ``Content`` for ``content``."""
    return (_decoded(value, kind) for name, value in found.items() if name.lower() in names)


def _check_part(part: _Object) -> None:
    for link in _named(part, _LINKS, _Object | str | None):
        for url in _named(link, ("url",), str) if isinstance(link, dict) else (link,):
            if url is not None and not url.startswith("data:"):
                raise Invalid(
                    "cannot use an address in a message: nothing is fetched from elsewhere",
                    hint="Send the file itself, as a data: address.",
                    code="remote_content",
                )
