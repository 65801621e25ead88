"""`/media/quotes`: what a job would cost, as a promise."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from typing import Any

from pydantic import Field
from starlette.responses import Response

from api.call import Call
from api.idempotency import kept
from api.models import Answer, Instant
from api.offers import OfferQuery, QuoteBody, forms, offer
from api.routing import BASE, operation
from api.views import Adjustment, DurationEstimate, Price, public_input
from core.clock import now
from core.errors import IdempotencyConflict, IdempotencyInProgress, OverMaxCost


class QuoteAnswer(Answer):
    """A price that a submit with the same input gets until `expiresAt`."""

    billing: Price
    duration_estimate: DurationEstimate
    effective_input: dict[str, Any]
    input_adjustments: list[Adjustment]
    warnings: list[str]
    quote_token: str = Field(description="Send it with the submit: it keeps the price and the drawn seed.")
    expires_at: Instant


@operation(
    "POST",
    f"{BASE}/media/quotes",
    tag="media",
    answer=QuoteAnswer,
    body=QuoteBody,
    forms=forms(QuoteBody, "Quote"),
    query=OfferQuery,
    errors=(OverMaxCost, IdempotencyConflict, IdempotencyInProgress),
)
async def create_quote(call: Call[QuoteBody, OfferQuery]) -> Response:
    """Price a request without running it. Nothing is held; a replay gives the same token, with the same seed and end."""
    return await kept(call, HTTPStatus.OK, lambda: _quote(call))


async def _quote(call: Call[QuoteBody, OfferQuery]) -> QuoteAnswer:
    services, made = call.services, await offer(call)
    effective, drawn = made.prepared.effective_input, made.prepared.seed_drawn
    duration = await services.estimates.estimate(made.task, effective)
    # Tokens count whole seconds, and the answer must not promise more than the token holds.
    expires_at = (now() + timedelta(minutes=services.settings.quote_minutes)).replace(microsecond=0)
    token = services.quote_tokens.sign(
        account_id=str(call.account_id),
        task=made.task.name,
        input_hash=made.task.hash_input(effective, drawn),
        seed=effective["seed"] if drawn else None,
        amount_micros=made.quote.amount_micros,
        book_version=made.quote.price_book_version,
        expires_at=expires_at,
    )
    return QuoteAnswer(
        billing=Price(**made.quote.billing_json()),
        duration_estimate=DurationEstimate(**duration),
        effective_input=public_input(effective),
        input_adjustments=[Adjustment(**change) for change in made.adjustments],
        warnings=list(made.prepared.warnings),
        quote_token=token,
        expires_at=expires_at,
    )
