"""`POST /v1/feedback`: what users made of an answer.

    {"id": "chatcmpl-…", "rating": "down", "correction": "…", "reason": "…"}

200 with the feedback's id once it is committed (a repeated delivery says `duplicate: true`),
404 for an id that no answer has, 422 with the field's name for a malformed body, 503 with
Retry-After while the log cannot be written: at once where that is known. After a 503 it may
be stored nevertheless; sending it again is safe, for it is then kept once.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ledger.errors import RecordError
from ledger.records import parse_feedback
from ledger.writing.channel import Channel, WriterUnavailable
from serve.counts import Counts

ANSWER_SECONDS = 15.0
MAX_BODY = 1 << 20


async def take_feedback(request: Request, channel: Channel, counts: Counts) -> Response:
    """Answer one feedback request, and count it where it is new."""
    raw = await request.body()
    if len(raw) > MAX_BODY:
        return problem(413, f"feedback is limited to {MAX_BODY} bytes, got {len(raw)}")
    try:
        body = json.loads(raw)
    except ValueError as error:
        return problem(422, f"the body is not JSON: {error}", field="body")
    try:
        given = parse_feedback(body)
    except RecordError as error:
        return problem(422, str(error), field=error.field)
    try:
        status, answer = await channel.request(
            "feedback", given.model_dump(exclude_none=True), seconds=ANSWER_SECONDS
        )
    except WriterUnavailable as error:
        status, answer = 503, {"reason": str(error)}
    if status == 200:
        alias, version = answer.pop("of")
        if not answer["duplicate"]:
            counts.reacted(alias, version, given)
        return JSONResponse({"object": "feedback", **answer})
    if status == 404:
        where = f" with a choice {given.choice}" if given.choice else ""
        return problem(404, f"no answer has the id {given.id!r}{where}", field="id")
    if status == 503:
        message = f"the feedback could not be stored: {answer['reason']}; send it again"
        return problem(503, message, headers={"Retry-After": "2"})
    return problem(status, "the feedback could not be stored")


def problem(
    status: int, message: str, *, field: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """An error in the form that OpenAI's clients read."""
    kind = {404: "NotFoundError", 503: "ServiceUnavailableError"}.get(status, "BadRequestError")
    error: dict[str, Any] = {"message": message, "type": kind, "param": field, "code": status}
    return JSONResponse({"error": error}, status_code=status, headers=headers)
