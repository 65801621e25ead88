"""From a request for media to an input that is complete and priced: what a quote and a submit share."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, create_model
from pydantic_core import PydanticCustomError

from api.call import Call
from api.models import Query, WriteBody
from core.addresses import parse_allowed
from core.clock import now
from core.egress import FetchFailed, check_url
from core.errors import FieldProblem, OverMaxCost
from core.money import parse_usd, usd
from core.settings import Settings
from jobs.inputs import InlineFile, take_out
from pricing.quotes import Quote
from pricing.registry import quote
from pricing.tokens import MAX_TOKEN_CHARACTERS, QuoteClaim
from tasks.base import Prepared, Task
from tasks.fields import WHOLE, Text
from tasks.media_fields import MediaUrl
from tasks.registry import TASKS
from tasks.registry import task as task_named
from tasks.validation import refusal

_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")


def _micros(value: object) -> object:
    text = value if isinstance(value, str) else ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = format(Decimal(repr(value)), "f")
    if not _AMOUNT.fullmatch(text):
        raise PydanticCustomError("dollars", 'must be dollars, at most six decimal places, such as "0.05"')
    return parse_usd(text)


MaxCost = Annotated[
    int,
    BeforeValidator(_micros),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": f"^{_AMOUNT.pattern}$"}, {"type": "number", "minimum": 0}]},
        mode="validation",
    ),
]
"""Micro-dollars, written in dollars on the wire."""


class QuoteBody(WriteBody):
    """What to make, without making it."""

    task: Text = Field(description="The task's name.")
    input: dict[str, Any] = Field(description="The task's input.")
    max_cost_usd: MaxCost | None = Field(
        None, description="Refuse, with 422 over_max_cost, to spend more than this.", examples=["0.05"]
    )
    priority: Literal["interactive", "standard", "batch"] = Field(
        "standard", description="Orders the account's own jobs; never changes the price."
    )
    start_timeout_seconds: Annotated[int, Field(ge=1, le=604_800), WHOLE] | None = Field(
        None, description="A job that was not started by then fails, at no cost."
    )
    cancel_after_seconds: Annotated[int, Field(ge=1, le=604_800), WHOLE] | None = Field(
        None, description="A job that has not ended by then is cancelled, at no cost."
    )
    webhook_url: MediaUrl | None = Field(
        None,
        description="Told, with a signed POST, when the job has ended.",
        examples=["https://example.com/hooks/media"],
    )


class JobBody(QuoteBody):
    """What to make."""

    quote_token: Annotated[Text, Field(max_length=MAX_TOKEN_CHARACTERS)] | None = Field(
        None, description="From POST /media/quotes: keeps its price, and the seed drawn for it."
    )


class OfferQuery(Query):
    """How to treat an input that cannot be had exactly."""

    strict: bool = Field(False, description="Refuse whatever would be reported in inputAdjustments.")


@dataclass(frozen=True)
class Offer:
    """A task with a complete input and its price. `files` came inside the request and are not yet stored."""

    task: Task[Any]
    prepared: Prepared
    files: tuple[InlineFile, ...]
    quote: Quote

    @property
    def adjustments(self) -> list[dict[str, Any]]:
        """What was changed, as JSON."""
        return [change.as_json() for change in self.prepared.adjustments]


@cache
def forms(base: type[QuoteBody], noun: str) -> tuple[type[QuoteBody], ...]:
    """`base` once per task, with that task's own input, for OpenAPI; `noun` ends each form's name."""
    return tuple(_form(base, noun, each) for each in TASKS.values())


async def offer(call: Call[QuoteBody, OfferQuery], quote_token: str | None = None) -> Offer:
    """Validate and price a request, by a quote's promise if it has one.

    Raises:
        InvalidInput: the task or a field of its input is at fault.
        QuoteMismatch: the quote is for another account, task or input.
        QuoteExpired: its time is over.
        OverMaxCost: the price is above the caller's own limit.
    """
    services, body, account = call.services, call.body, str(call.account_id)
    chosen = task_named(body.task)
    if body.webhook_url is not None:
        _check_webhook(body.webhook_url, services.settings)
    claim = None if quote_token is None else services.quote_tokens.read(quote_token, now())
    prepared, files = await services.offload(
        call.body_bytes, _prepare, chosen, body.input, call.query.strict, account, claim
    )
    books = services.price_books
    book = await (books.current() if claim is None else books.version(claim.book_version))
    price = quote(chosen.name, prepared.effective_input, book)
    if body.max_cost_usd is not None and price.amount_micros > body.max_cost_usd:
        cost, limit = usd(price.amount_micros), usd(body.max_cost_usd)
        raise OverMaxCost(
            f"This costs ${cost}, more than your maxCostUsd of ${limit}; raise the limit or ask for less.",
            fields=[FieldProblem("maxCostUsd", f"is below the price of {cost}", nearest=cost)],
            details={"amountUsd": cost, "maxCostUsd": limit},
        )
    return Offer(chosen, prepared, files, price)


def _check_webhook(url: str, settings: Settings) -> None:
    try:
        check_url(url, parse_allowed(settings.egress_allow))
    except FetchFailed as error:
        raise refusal([FieldProblem("webhookUrl", error.reason)]) from None


def _prepare(
    chosen: Task[Any], raw: object, strict: bool, account: str, claim: QuoteClaim | None
) -> tuple[Prepared, tuple[InlineFile, ...]]:
    prepared, files = take_out(chosen.prepare(raw, strict=strict), raw, strict=strict)
    # Again: a file of another format than it was said to be is now called what it is.
    prepared = replace(prepared, warnings=chosen.warnings(prepared.effective_input))
    return prepared if claim is None else claim.apply(account, chosen, prepared), files


def _form(base: type[QuoteBody], noun: str, task: Task[Any]) -> type[QuoteBody]:
    task.Input.model_rebuild()
    name = "".join(part.capitalize() for part in task.name.split(".")) + noun
    fields: dict[str, Any] = {
        "task": (Literal[task.name], Field(description="The task's name.")),
        "input": (task.Input, Field(description="The task's input.")),
    }
    return create_model(name, __base__=base, __doc__=f"{task.title}, with {task.model}.", **fields)
