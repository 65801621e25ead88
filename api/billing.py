"""`/billing/entries` and a job's receipt: what the ledger says, with the hashes that seal it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from starlette.responses import Response, StreamingResponse

from api.call import Call
from api.cursors import MAX_CHARACTERS
from api.job_ids import job_id
from api.models import Answer, Instant, Micros, Query, Usd
from api.routing import BASE, operation
from billing import statements
from billing.chain import Movement
from billing.statements import Line
from core.errors import FieldProblem, NotFound
from core.ids import encode
from core.money import usd
from tasks.fields import Text
from tasks.validation import refusal

CSV_ROWS = 1000
"""Entries read at a time while a CSV is written."""

_LIST = "entries"
_FIRST, _LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9:]{5})?"
)
_HEX = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="SHA-256 in hex.")]


class ReceiptQuery(Query):
    """Which job."""

    job_id: Text = Field(description="The jobId of a submit.")


def _written_out(given: str) -> str:
    if not _INSTANT.fullmatch(given):
        raise PydanticCustomError("instant", "must be an RFC 3339 instant, as in 2026-11-23T10:00:00Z")
    return given


_WrittenOut = Annotated[datetime, BeforeValidator(_written_out)]


class EntriesQuery(Query):
    """Which entries."""

    cursor: Annotated[Text, Field(max_length=MAX_CHARACTERS)] | None = Field(
        None, description="nextCursor of the page before."
    )
    limit: Annotated[int, Field(ge=1, le=1000)] = Field(100, description="Entries a page; a CSV has them all.")
    since: _WrittenOut | None = Field(None, description="Entries made at this instant or later (RFC 3339).")
    until: _WrittenOut | None = Field(None, description="Entries made before this instant (RFC 3339).")
    format: Literal["json", "csv"] = Field(
        "json", description="csv: the whole range as one file; cursor and limit play no part."
    )


class LedgerEntry(Answer):
    """One line of a movement. What comes in is positive, what goes out negative."""

    entry_id: str
    book: Literal["available", "held", "debt", "revenue", "clearing"] = Field(
        description="available, held and debt are the account's; revenue and clearing are the platform's."
    )
    amount_usd: Usd
    amount_micros: Micros
    balance_after_micros: Micros | None = Field(description="Of this book right after; null for the platform's.")


class LedgerMovement(Answer):
    """Money that moved once; its entries sum to zero.

    `hash` is SHA-256 over the bytes of `previousHash` and the UTF-8 text `kind|createdAtMicros|entries|businessId`, where
    entries are `book:amountMicros:balanceAfterMicros` joined by `;`, without a balance where that is null.
    """

    movement_id: str
    kind: str
    business_id: str = Field(description="Names the movement once and for all: it can never happen twice.")
    request_id: str | None = Field(description="The X-Request-Id of the request behind it.")
    created_at: Instant
    created_at_micros: int = Field(description="Microseconds since 1970, as they are hashed.")
    entries: list[LedgerEntry]
    previous_hash: _HEX
    hash: _HEX


class ReceiptAnswer(Answer):
    """What a job moved: its hold, and what became of it."""

    job_id: str
    currency: Literal["USD"]
    amount_usd: Usd
    amount_micros: Micros
    state: Literal["held", "captured", "released"]
    movements: list[LedgerMovement] = Field(description="Oldest first.")


class StatementEntry(LedgerEntry):
    """One line of the account's own books, with the movement it belongs to."""

    movement_id: str
    kind: str
    business_id: str
    job_id: str | None
    request_id: str | None
    created_at: Instant
    hash: _HEX


_ALIASES = [field.alias or name for name, field in StatementEntry.model_fields.items()]


class EntriesAnswer(Answer):
    """A page of entries, newest first."""

    also_as = ("text/csv",)

    entries: list[StatementEntry]
    next_cursor: str | None = Field(description="Where the next page begins; null on the last one.")


@operation(
    "GET", f"{BASE}/media/jobs/receipt", tag="media", answer=ReceiptAnswer, query=ReceiptQuery, errors=(NotFound,)
)
async def get_receipt(call: Call[None, ReceiptQuery]) -> Response:
    """Read what a job moved in the ledger, sealed by hashes that anybody can check."""
    services, wanted = call.services, job_id(call.query.job_id)
    job = await services.jobs.get(call.account_id, wanted)
    movements = await statements.movements_of(services.database, call.account_id, wanted)
    return ReceiptAnswer(
        job_id=encode("job", job.id),
        currency="USD",
        amount_usd=usd(job.amount_micros),
        amount_micros=job.amount_micros,
        state=job.hold_state,
        movements=[_movement(each) for each in movements],
    ).response()


@operation(
    "GET",
    f"{BASE}/billing/entries",
    tag="account",
    answer=EntriesAnswer,
    query=EntriesQuery,
    answer_headers={HTTPStatus.OK: ["Content-Disposition"]},
)
async def list_entries(call: Call[None, EntriesQuery]) -> Response:
    """List the account's ledger entries, newest first, as JSON pages or as one CSV file."""
    query, account, services = call.query, call.account_id, call.services
    since, until = (_instant(name, getattr(query, name)) for name in ("since", "until"))
    span = {"since": since or _FIRST, "until": until or _LAST}
    if query.format == "csv":
        headers = {"Content-Disposition": 'attachment; filename="entries.csv"'}
        content = iter(()) if call.request.method == "HEAD" else _csv(call, **span)
        return StreamingResponse(content, headers=headers, media_type="text/csv; charset=utf-8")
    before = None
    if query.cursor is not None:
        movement, seq = services.cursors.read(_LIST, account, query.cursor)
        before = int(movement), int(seq)
    lines = await statements.page(services.database, account, limit=query.limit + 1, before=before, **span)
    shown, more = lines[: query.limit], len(lines) > query.limit
    cursor = services.cursors.seal(_LIST, account, [shown[-1].movement_id, shown[-1].seq]) if more else None
    return EntriesAnswer(entries=[_line(each) for each in shown], next_cursor=cursor).response()


async def _csv(call: Call[None, EntriesQuery], *, since: datetime, until: datetime) -> AsyncIterator[str]:
    before: tuple[int, int] | None = None
    yield _rows([_ALIASES])
    while True:
        lines = await statements.page(
            call.services.database, call.account_id, limit=CSV_ROWS, before=before, since=since, until=until
        )
        if lines:
            entries = [_line(each).as_json() for each in lines]
            yield _rows([entry[alias] for alias in _ALIASES] for entry in entries)
        if len(lines) < CSV_ROWS:
            return
        before = lines[-1].movement_id, lines[-1].seq


def _rows(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _instant(name: str, given: datetime | None) -> datetime | None:
    if given is not None and given.tzinfo is None:
        raise refusal([FieldProblem(name, "needs a time zone, as in 2026-11-23T10:00:00Z")])
    return given


def _movement(movement: Movement) -> LedgerMovement:
    return LedgerMovement(
        movement_id=_movement_id(movement.hash),
        kind=movement.kind,
        business_id=movement.business_id,
        request_id=movement.request_id,
        created_at=movement.created_at,
        created_at_micros=movement.created_at_micros,
        entries=[
            LedgerEntry(
                entry_id=_entry_id(movement.hash, seq),
                book=entry.book,
                amount_usd=usd(entry.amount),
                amount_micros=entry.amount,
                balance_after_micros=entry.balance_after,
            )
            for seq, entry in enumerate(movement.entries, 1)
        ],
        previous_hash=movement.previous_hash.hex(),
        hash=movement.hash.hex(),
    )


def _line(line: Line) -> StatementEntry:
    return StatementEntry(
        entry_id=_entry_id(line.hash, line.seq),
        book=line.book,
        amount_usd=usd(line.amount),
        amount_micros=line.amount,
        balance_after_micros=line.balance_after,
        movement_id=_movement_id(line.hash),
        kind=line.kind,
        business_id=line.business_id,
        job_id=None if line.hold_id is None else encode("job", line.hold_id),
        request_id=line.request_id,
        created_at=line.created_at,
        hash=line.hash.hex(),
    )


def _movement_id(sealed: bytes) -> str:
    """Ids come from hashes: those of the table are counted through all accounts, and would tell how many there are."""
    return f"mov_{sealed.hex()[:24]}"


def _entry_id(sealed: bytes, seq: int) -> str:
    return f"ent_{sealed.hex()[:24]}_{seq}"
