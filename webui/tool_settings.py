"""What to put into other programs so that they use this appliance's model, filled in.

Rule: each text is what that program's own documentation describes, and nothing in it needs to be changed by hand. Sources: Continue,
config.yaml reference; Cline, provider "OpenAI Compatible"; aider, "OpenAI compatible APIs"; OpenAI's Python library; curl.
"""

from __future__ import annotations

from dataclasses import dataclass

MODEL = "croft"


@dataclass(frozen=True)
class ToolSettings:
    """``name`` is the program's own; ``key`` names the words on where the text goes (``tokens.tool.KEY``)."""

    key: str
    name: str
    text: str


_CONTINUE = """\
name: Croft
version: 0.0.1
schema: v1
models:
  - name: Croft
    provider: openai
    model: {model}
    apiBase: {base}
    apiKey: {token}
    roles:
      - chat
      - edit
      - apply"""

_CLINE = """\
API Provider: OpenAI Compatible
Base URL: {base}
API Key: {token}
Model ID: {model}"""

_AIDER = """\
export OPENAI_API_BASE={base}
export OPENAI_API_KEY={token}
aider --model openai/{model}"""

_PYTHON = """\
from openai import OpenAI

client = OpenAI(base_url="{base}", api_key="{token}")
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)"""

_CURL = """\
curl {base}/chat/completions \\
  -H "Authorization: Bearer {token}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""

_TOOLS = (
    ("continue", "Continue", _CONTINUE),
    ("cline", "Cline", _CLINE),
    ("aider", "aider", _AIDER),
    ("python", "openai (Python)", _PYTHON),
    ("curl", "curl", _CURL),
)


def filled_in(origin: str, token: str) -> list[ToolSettings]:
    """The settings of every program for this appliance and token."""
    return [
        ToolSettings(key, name, text.format(base=f"{origin}/v1", token=token, model=MODEL))
        for key, name, text in _TOOLS
    ]
