"""`/media/webhooks`: the secret that signs notices, the log of deliveries, and a notice sent again."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Literal
from uuid import UUID

from pydantic import Field
from starlette.responses import Response

from api.call import Call
from api.idempotency import once
from api.models import Answer, Instant, Query, WriteBody
from api.routing import BASE, NoQuery, operation
from core.database import Connection
from core.errors import IdempotencyConflict, IdempotencyInProgress, NotFound, WrongState
from core.ids import decode, encode
from tasks.fields import Text
from webhooks.secrets import Secret
from webhooks.store import Delivery

_PATH = f"{BASE}/media/webhooks"
_WRITES = (IdempotencyConflict, IdempotencyInProgress)
_JOB_ID = Field(description="The jobId of a submit.", examples=["job_01jd3x8v5kf4k9s2t6w7y8z9ab"])


class RotateSecretBody(WriteBody):
    """Nothing but, perhaps, an idempotency key."""


class RedeliverBody(WriteBody):
    """The job whose end is to be told again."""

    job_id: Text = _JOB_ID


class DeliveriesQuery(Query):
    """Which job."""

    job_id: Text = _JOB_ID


class SecretAnswer(Answer):
    """What signs the account's webhooks; verify them with any Standard Webhooks library."""

    secret: str | None = Field(
        description="Key of the signature; null in the replay of a rotation: GET reads it.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )
    rotated_at: Instant
    previous_until: Instant | None = Field(
        description="Until then the secret before this one signs too; null when it does not."
    )

    @classmethod
    def of(cls, secret: Secret) -> SecretAnswer:
        """The answer for one secret."""
        return cls(secret=secret.value, rotated_at=secret.rotated_at, previous_until=secret.previous_until)


class DeliveryAttemptAnswer(Answer):
    """One try of a delivery."""

    number: int
    started_at: Instant
    seconds: float = Field(description="From the look-up of the receiver's name to its status.")
    status: int | None = Field(description="The receiver's HTTP status; 2xx is a success.")
    error: str | None = Field(description="Why there is no status.")


class DeliveryAnswer(Answer):
    """A notice on its way to a webhookUrl."""

    delivery_id: str = Field(description="The webhook-id header of every try.")
    job_id: str
    type: str = Field(examples=["job.succeeded"])
    url: str = Field(description="Without its query string.")
    state: Literal["pending", "delivered", "failed"]
    created_at: Instant
    next_attempt_at: Instant | None
    ended_at: Instant | None
    attempts: list[DeliveryAttemptAnswer] = Field(description="Every try, the first one first.")

    @classmethod
    def of(cls, delivery: Delivery) -> DeliveryAnswer:
        """The answer for one delivery."""
        return cls(
            delivery_id=encode("msg", delivery.id),
            job_id=encode("job", delivery.job_id),
            type=delivery.type,
            url=re.split(r"[?#]", delivery.url, maxsplit=1)[0],
            state=delivery.state,
            created_at=delivery.created_at,
            next_attempt_at=delivery.next_attempt_at,
            ended_at=delivery.ended_at,
            attempts=[
                DeliveryAttemptAnswer(
                    number=each.number,
                    started_at=each.started_at,
                    seconds=each.seconds,
                    status=each.status,
                    error=each.error,
                )
                for each in delivery.attempts
            ],
        )


class DeliveriesAnswer(Answer):
    """A job's deliveries, newest first, at most a hundred; they are kept for 30 days."""

    deliveries: list[DeliveryAnswer]


@operation("GET", f"{_PATH}/secret", tag="webhooks", answer=SecretAnswer)
async def get_webhook_secret(call: Call[None, NoQuery]) -> Response:
    """Read the secret that signs the account's webhooks."""
    return SecretAnswer.of(await call.services.webhooks.secret(call.account_id)).response()


@operation("POST", f"{_PATH}/secret", tag="webhooks", answer=SecretAnswer, body=RotateSecretBody, errors=_WRITES)
async def rotate_webhook_secret(call: Call[RotateSecretBody, NoQuery]) -> Response:
    """Take a new secret. For 24 hours the one before signs too; a second rotation within them ends it at once."""

    async def write(connection: Connection) -> SecretAnswer:
        return SecretAnswer.of(await call.services.webhooks.rotate(connection, call.account_id))

    return await once(call, HTTPStatus.OK, write, secrets=["secret"])


@operation(
    "GET", f"{_PATH}/deliveries", tag="webhooks", answer=DeliveriesAnswer, query=DeliveriesQuery, errors=(NotFound,)
)
async def list_deliveries(call: Call[None, DeliveriesQuery]) -> Response:
    """List the deliveries of a job's webhook, with every try."""
    found = await call.services.webhooks.deliveries(call.account_id, _job(call.query.job_id))
    return DeliveriesAnswer(deliveries=[DeliveryAnswer.of(each) for each in found]).response()


@operation(
    "POST",
    f"{_PATH}/redeliver",
    tag="webhooks",
    answer=DeliveryAnswer,
    body=RedeliverBody,
    errors=(NotFound, WrongState, *_WRITES),
)
async def redeliver(call: Call[RedeliverBody, NoQuery]) -> Response:
    """Tell a job's end again: a new delivery, with an id of its own, to the same webhookUrl. One is pending at a time."""
    job_id = _job(call.body.job_id)

    async def write(connection: Connection) -> DeliveryAnswer:
        return DeliveryAnswer.of(await call.services.webhooks.redeliver(connection, call.account_id, job_id))

    return await once(call, HTTPStatus.OK, write)


def _job(text: str) -> UUID:
    found = decode("job", text)
    if found is None:
        raise NotFound("There is no such job; send the jobId of a submit.")
    return found
