"""What can go wrong at the API's edge: one class per cause, with its code, HTTP status and schema.

The message of an error is one sentence that tells the caller what to do. A class whose message is always the
same carries it as `default_message`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class FieldProblem:
    """One field of a request that was refused.

    `path` is the field's place in the body (`input.referenceImages[1].mimeType`), `allowed` what it may hold,
    `nearest` the closest value (or the closest field name) that would have been accepted.
    """

    path: str
    message: str
    allowed: Any = None
    nearest: Any = None

    def as_json(self) -> dict[str, Any]:
        """The problem as it stands in `details.fields`; absent parts are left out."""
        parts = {"path": self.path, "message": self.message, "allowed": self.allowed, "nearest": self.nearest}
        return {key: value for key, value in parts.items() if value is not None}


class OperatorError(Exception):
    """A command cannot do what its user asked; the message says what to set right. The command line prints just that."""


class ApiError(Exception):
    """An answer that is not the one asked for."""

    code: ClassVar[str]
    status: ClassVar[int]
    default_message: ClassVar[str] = ""
    retry_after_seconds: ClassVar[int | None] = None

    def __init__(
        self,
        message: str = "",
        *,
        fields: Sequence[FieldProblem] = (),
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.fields = tuple(fields)
        self.details = dict(details or {})
        self.headers = dict(headers or {})
        if self.retry_after_seconds is not None:
            self.headers.setdefault("Retry-After", str(self.retry_after_seconds))
        super().__init__(self.message)

    def as_json(self) -> dict[str, Any]:
        """The response body: `{"error": code, "details": {"message": …, "fields": […]?}}`."""
        details: dict[str, Any] = {"message": self.message, **self.details}
        if self.fields:
            details["fields"] = [problem.as_json() for problem in self.fields]
        return {"error": self.code, "details": details}


class MalformedJson(ApiError):
    """The body is no JSON document."""

    code = "malformed_json"
    status = 400


class Unauthorized(ApiError):
    """No credential, an unknown one, or a revoked one."""

    code = "unauthorized"
    status = 401
    default_message = "Send a valid API key as 'Authorization: Bearer <key>' or as 'x-api-key: <key>'."

    def __init__(self, message: str = "") -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})


class InsufficientBalance(ApiError):
    """The available balance is below the price."""

    code = "insufficient_balance"
    status = 402


class Forbidden(ApiError):
    """Known, but not yours to do."""

    code = "forbidden"
    status = 403


class NotFound(ApiError):
    """Not there, or not yours: the same answer."""

    code = "not_found"
    status = 404


class MethodNotAllowed(ApiError):
    """The path exists, the method does not."""

    code = "method_not_allowed"
    status = 405


class BodyTooSlow(ApiError):
    """The body did not arrive in time."""

    code = "request_timeout"
    status = 408
    default_message = "The body did not arrive in time; send it again over a better connection, or send media by URL."


class IdempotencyConflict(ApiError):
    """The idempotency key was used for another body."""

    code = "idempotency_conflict"
    status = 409
    default_message = "This idempotency key was used with another body; send the same body again or use a new key."


class IdempotencyInProgress(ApiError):
    """A request with this idempotency key is still under way."""

    code = "idempotency_in_progress"
    status = 409
    retry_after_seconds = 2
    default_message = "A request with this idempotency key is still under way; retry with the same key in a moment."


class AmbiguousPrefix(ApiError):
    """Several keys begin with this prefix."""

    code = "ambiguous_prefix"
    status = 409


class WrongState(ApiError):
    """What is asked does not fit the state that the thing is in."""

    code = "wrong_state"
    status = 409


class QuoteMismatch(ApiError):
    """The quote token belongs to another account, task or input."""

    code = "quote_mismatch"
    status = 409
    default_message = (
        "This quoteToken was made for another account, task or input; ask POST /media/quotes for a new one."
    )


class QuoteExpired(ApiError):
    """The quote token is too old."""

    code = "quote_expired"
    status = 409
    default_message = "This quoteToken has expired; ask POST /media/quotes for a new one."


class UploadConflict(ApiError):
    """The upload URL has taken another file before."""

    code = "upload_conflict"
    status = 409
    default_message = "This URL has taken another file before; ask POST /media/uploads for a new one."


class OutputExpired(ApiError):
    """The output was deleted when its window ended."""

    code = "output_expired"
    status = 410


class UploadExpired(ApiError):
    """The upload URL is too old."""

    code = "upload_expired"
    status = 410
    default_message = "This upload URL has expired; ask POST /media/uploads for a new one."


class BodyTooLarge(ApiError):
    """The body exceeds the route's cap."""

    code = "body_too_large"
    status = 413


class UnsupportedMediaType(ApiError):
    """The body's Content-Type is not the one to send here."""

    code = "unsupported_media_type"
    status = 415
    default_message = "Send the body as 'Content-Type: application/json'."


class RangeNotSatisfiable(ApiError):
    """The range begins behind the file's end."""

    code = "range_not_satisfiable"
    status = 416


class InvalidInput(ApiError):
    """A field is unknown, of the wrong type, out of bounds, or at odds with another."""

    code = "invalid_input"
    status = 422


class OverMaxCost(ApiError):
    """The price is above the caller's own limit."""

    code = "over_max_cost"
    status = 422


class QueueFull(ApiError):
    """The account has as many jobs queued as it may."""

    code = "queue_full"
    status = 429
    retry_after_seconds = 30


class RateLimited(ApiError):
    """More requests than this caller may send in a while."""

    code = "rate_limited"
    status = 429
    retry_after_seconds = 60


class Internal(ApiError):
    """A fault of ours."""

    code = "internal_error"
    status = 500
    default_message = (
        "Something broke on our side; retry with the same idempotency key, and name the X-Request-Id if it stays."
    )


class TaskUnavailable(ApiError):
    """The fleet has no pool for this task."""

    code = "task_unavailable"
    status = 503
    retry_after_seconds = 60


class Overloaded(ApiError):
    """This process has its hands full of large bodies."""

    code = "overloaded"
    status = 503
    retry_after_seconds = 5
    default_message = "Too many large requests are under way; send it again in a moment, or large media by upload."


class PoolOverloaded(ApiError):
    """More work waits for what this job needs than the operator lets wait; nothing was accepted."""

    code = "pool_overloaded"
    status = 503
    retry_after_seconds = 60


class DatabaseUnavailable(ApiError):
    """PostgreSQL did not answer; the outcome of a write may be unknown."""

    code = "database_unavailable"
    status = 503
    retry_after_seconds = 2
    default_message = (
        "The database is not reachable; retry with the same idempotency key, so that nothing runs or is paid twice."
    )


class StorageUnavailable(ApiError):
    """The store of files did not answer; the outcome of a write may be unknown."""

    code = "storage_unavailable"
    status = 503
    retry_after_seconds = 5
    default_message = "The store of files is not reachable; send the same request again in a moment."
