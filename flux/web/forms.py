"""Reads what a form has sent: small, and with the proof that it is one of ours."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

from flux.web.sessions import Sessions

MOST_BYTES = 65_536
MOST_FIELDS = 50
PROOF = "proof"


async def form(request: Request, sessions: Sessions) -> dict[str, str]:
    """The last value of each field. Raises HTTPException."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPException(413, "the form is too large")
    try:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError:
        raise HTTPException(400, "the form cannot be read") from None
    if not sessions.proves(request.state.visitor, fields.get(PROOF, "")):
        raise HTTPException(403, "the form is too old: go back, load the page again, and repeat it")
    return fields
