"""`/limits`: what the caller may do, and what of it is left."""

from __future__ import annotations

from pydantic import Field
from starlette.responses import Response

from api.call import Call
from api.models import Answer, Instant
from api.rate_limits import RateLimits
from api.routing import BASE, NoQuery, operation
from jobs.usage import usage


class UsageAnswer(Answer):
    """What is used at this moment."""

    writes_remaining: int | None = Field(description="Of this key, in the running minute; null: no limit.")
    reads_remaining: int | None = Field(description="Of this key, this request counted; null: no limit.")
    running_jobs: int
    unfinished_jobs: int = Field(description="Queued and running: queueLimit is their limit.")
    running_cancels: int = Field(description="Cancels of running jobs in the last 24 hours.")
    submits_paused_until: Instant | None = Field(description="After too many of those; null: not paused.")


class LimitsAnswer(Answer):
    """The caller's limits. Beyond one the answer is 429 with Retry-After, beyond maxBodyBytes 413."""

    writes_per_minute: int | None = Field(description="POST, PUT and DELETE of one key; null: no limit.")
    reads_per_minute: int | None = Field(description="GET and HEAD of one key; null: no limit.")
    requests_per_minute_without_key: int | None = Field(
        description="Of one address (IPv6: of one /64), requests with a wrong key included; null: no limit."
    )
    concurrency: int = Field(description="Jobs of the account that run at a time in each pool; more of them wait.")
    queue_limit: int = Field(description="Unfinished jobs of the account.")
    event_streams_per_key: int = Field(
        description="Open at a time in each process of the API, which counts its own: where several answer, a key may have "
        "as many in each."
    )
    running_cancels_per_day: int = Field(description="More of them pause the account's submits for ten minutes.")
    max_body_bytes: int = Field(description="Of a JSON body, inline media included.")
    now: UsageAnswer


@operation("GET", f"{BASE}/limits", tag="account", answer=LimitsAnswer)
async def get_limits(call: Call[None, NoQuery]) -> Response:
    """Read the limits of this key and its account, and what is left of them."""
    settings, limits = call.services.settings, call.services.rate_limits
    used = await usage(call.services.database, call.account_id)
    return LimitsAnswer(
        writes_per_minute=limits.writes.quota or None,
        reads_per_minute=limits.reads.quota or None,
        requests_per_minute_without_key=limits.without_key.quota or None,
        concurrency=used.concurrency,
        queue_limit=used.queue_limit,
        event_streams_per_key=settings.event_streams_per_key,
        running_cancels_per_day=settings.running_cancels_a_day,
        max_body_bytes=settings.max_body_bytes,
        now=UsageAnswer(
            writes_remaining=await _remaining(limits, call, writes=True),
            reads_remaining=await _remaining(limits, call, writes=False),
            running_jobs=used.running_jobs,
            unfinished_jobs=used.unfinished_jobs,
            running_cancels=used.running_cancels,
            submits_paused_until=used.paused_until,
        ),
    ).response()


async def _remaining(limits: RateLimits, call: Call[None, NoQuery], *, writes: bool) -> int | None:
    assert call.caller is not None
    standing = await limits.standing(limits.writes if writes else limits.reads, call.caller.key_prefix)
    return None if standing is None else standing.remaining
