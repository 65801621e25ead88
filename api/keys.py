"""`/keys`: make, list and revoke API keys."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from accounts.keys import ApiKey
from api.call import Call
from api.idempotency import once
from api.models import Answer, Instant, WriteBody
from api.routing import BASE, NoQuery, operation
from core.database import Connection
from core.errors import AmbiguousPrefix, IdempotencyConflict, IdempotencyInProgress, NotFound, WrongState
from tasks.fields import Text

KEY_PREFIX = "The characters after kt_, which tell a key from the others."


class CreateKeyBody(WriteBody):
    """A new key for the caller's account."""

    label: Annotated[Text, Field(min_length=1, max_length=100)] = Field(
        description="What the key is for.", examples=["Agent Worker A"]
    )


class RevokeKeyBody(WriteBody):
    """The key to revoke."""

    key_prefix: Text = Field(description=f"{KEY_PREFIX} With or without kt_; at least 5.", examples=["abcde"])


class CreatedKeyAnswer(Answer):
    """A key, shown this once."""

    api_key: str | None = Field(description="The whole key; null in a replay, since it is shown once.")
    key_prefix: str = Field(description=KEY_PREFIX)
    label: str
    created_at: Instant


class KeyAnswer(Answer):
    """What is known of a key after it was shown."""

    key_prefix: str = Field(description=KEY_PREFIX)
    label: str
    created_at: Instant
    last_used_at: Instant | None = Field(description="To the minute.")
    revoked_at: Instant | None

    @classmethod
    def of(cls, key: ApiKey) -> KeyAnswer:
        """The answer for one key."""
        return cls(
            key_prefix=key.prefix,
            label=key.label,
            created_at=key.created_at,
            last_used_at=key.last_used_at,
            revoked_at=key.revoked_at,
        )


class KeysAnswer(Answer):
    """All keys of the account, oldest first."""

    keys: list[KeyAnswer]


@operation("GET", f"{BASE}/keys", tag="account", answer=KeysAnswer)
async def list_keys(call: Call[None, NoQuery]) -> Response:
    """List the account's API keys, revoked ones too."""
    keys = await call.services.keys.list(call.account_id)
    return KeysAnswer(keys=[KeyAnswer.of(key) for key in keys]).response()


@operation(
    "POST",
    f"{BASE}/keys",
    tag="account",
    answer=CreatedKeyAnswer,
    status=HTTPStatus.CREATED,
    body=CreateKeyBody,
    errors=(WrongState, IdempotencyConflict, IdempotencyInProgress),
)
async def create_key(call: Call[CreateKeyBody, NoQuery]) -> Response:
    """Make an API key. It is shown once; only its hash is kept. An account has at most 100 that work."""

    async def write(connection: Connection) -> CreatedKeyAnswer:
        secret, key = await call.services.keys.create(connection, call.account_id, call.body.label)
        return CreatedKeyAnswer(api_key=secret, key_prefix=key.prefix, label=key.label, created_at=key.created_at)

    return await once(call, HTTPStatus.CREATED, write, secrets=["apiKey"])


@operation(
    "POST",
    f"{BASE}/keys/revoke",
    tag="account",
    answer=KeyAnswer,
    body=RevokeKeyBody,
    errors=(NotFound, AmbiguousPrefix, IdempotencyConflict, IdempotencyInProgress),
)
async def revoke_key(call: Call[RevokeKeyBody, NoQuery]) -> Response:
    """Revoke an API key, at once and everywhere. Again is no error."""

    async def write(connection: Connection) -> KeyAnswer:
        return KeyAnswer.of(await call.services.keys.revoke(connection, call.account_id, call.body.key_prefix))

    return await once(call, HTTPStatus.OK, write)
