"""Reading what a plain HTML form sent. Rule: whatever arrives, the answer is fields or a refusal, never a fault of ours."""

from __future__ import annotations

from urllib.parse import parse_qsl

from aiohttp import web

from appliance.errors import Invalid

FORM = "application/x-www-form-urlencoded"
FIELDS_MAX = 32


async def read_form(request: web.Request) -> dict[str, str]:
    """The fields of a form in UTF-8, the last of equal names; empty without a form. Raises Invalid."""
    if request.content_type != FORM:
        return {}
    try:
        text = (await request.read()).decode("utf-8")
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError as error:
        raise Invalid("cannot read the form", hint="Reload the page and send it again.") from error
    return dict(fields)
