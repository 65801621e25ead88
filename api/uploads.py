"""`/media/uploads`: a way in for files that are too large for a request, or wanted by several."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal

from pydantic import Field
from starlette.responses import Response

from api import idempotency
from api.call import Call
from api.models import Answer, Instant, WriteBody
from api.routing import BASE, NoQuery, operation
from core.database import Connection
from core.errors import FieldProblem, IdempotencyConflict, IdempotencyInProgress, RateLimited
from media import kinds
from tasks.fields import WHOLE, Text
from tasks.media_fields import ESSENCE
from tasks.validation import refusal


class UploadBody(WriteBody):
    """What will be sent."""

    mime_type: Annotated[Literal[kinds.supported()], ESSENCE] = Field(  # type: ignore[valid-type]
        description="What the file is.", examples=["image/png"]
    )
    bytes: Annotated[int, Field(ge=1), WHOLE] = Field(
        description="Its exact size: of an image at most 30000000, of audio 50000000, of video 500000000.",
        examples=[1048576],
    )
    sha256: Annotated[Text, Field(pattern="^[0-9a-fA-F]{64}$")] | None = Field(
        None, description="Its SHA-256 in hex; then nothing else is taken."
    )


class UploadAnswer(Answer):
    """Where to send a file, and how to name it in an input."""

    upload_url: str = Field(description="PUT the file here, with its Content-Type and without an API key.")
    url: str = Field(description="Goes into every media URL field of this account's inputs.")
    expires_at: Instant = Field(description="The end of both URLs, and of the file.")


@operation(
    "POST",
    f"{BASE}/media/uploads",
    tag="media",
    answer=UploadAnswer,
    status=HTTPStatus.CREATED,
    body=UploadBody,
    errors=(IdempotencyConflict, IdempotencyInProgress, RateLimited),
)
async def create_upload(call: Call[UploadBody, NoQuery]) -> Response:
    """Open an upload: PUT the file to `uploadUrl`, then name it by `url` in an input."""
    body, account = call.body, call.account_id
    kind = kinds.kind_of(body.mime_type)
    assert kind is not None
    most = kinds.MAX_BYTES[kind]
    if body.bytes > most:
        message = f"must be at most {most} for {body.mime_type}, not {body.bytes}"
        raise refusal([FieldProblem("bytes", message, allowed={"maximum": most}, nearest=most)])

    async def write(connection: Connection) -> UploadAnswer:
        made = await call.services.uploads.open(
            connection,
            account,
            mime_type=body.mime_type,
            size=body.bytes,
            sha256=None if body.sha256 is None else body.sha256.lower(),
        )
        return UploadAnswer(upload_url=made.upload_url, url=made.url, expires_at=made.expires_at)

    return await idempotency.once(call, HTTPStatus.CREATED, write)
