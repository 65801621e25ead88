"""A thousand submits at once on an account that can pay for half of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

from benchmarks.load import request
from benchmarks.measuring import scaled
from benchmarks.results import Result
from benchmarks.services import CREDIT, created, opened, running_ingress
from benchmarks.submit_http import BODY, PATH, submitted
from billing import wallets
from core.database import Database
from killatamata.embedded_postgres import EmbeddedPostgres

SUBMITS = scaled(1_000, 20)
_PATIENCE_SECONDS = 60
_EXPECTED = {202, 402, 503}


async def hold_race(postgres: EmbeddedPostgres) -> AsyncIterator[Result]:
    """Every submit on a connection of its own; exactly so many are held as the money pays for, and no wallet drifts."""
    payable = SUBMITS // 2
    async with (
        created(postgres, "race"),
        opened(postgres, "race") as database,
        running_ingress(database, 2) as ingress,
    ):
        rich, racer = ingress.customers
        await submitted(ingress.port, rich.key)
        price = await database.fetch_value("SELECT amount FROM hold")
        async with database.transaction() as connection:
            await wallets.chargeback(connection, racer.account_id, CREDIT - payable * price, "benchmark:race")
        statuses, seconds = await _all_at_once(ingress.port, racer.key)
        alone, quietly = await _all_at_once(ingress.port, rich.key)
        await _check(database, racer.account_id, payable, statuses)
        if unexpected := {*statuses, *alone} - _EXPECTED:
            raise RuntimeError(f"some submits were answered {unexpected}: {statuses}, {alone}")
    yield Result("hold_race.held", statuses[202], "holds", "what the money pays for", payable, "higher", 1)
    yield Result(
        "hold_race.answered", SUBMITS / seconds, "answers/s", "with money for all", SUBMITS / quietly, "higher"
    )


async def _check(database: Database, account: object, payable: int, statuses: Counter[int]) -> None:
    held = await database.fetch_value("SELECT count(*) FROM hold WHERE account_id = $1 AND state = 'held'", account)
    if held > payable or held != statuses[202]:
        raise RuntimeError(f"{held} holds for {payable} that can be paid, {dict(statuses)} answered")
    if drift := await wallets.drift(database):
        raise RuntimeError(f"wallets drifted: {drift}")


async def _all_at_once(port: int, key: str) -> tuple[Counter[int], float]:
    """How often each status was answered, and the seconds it took."""
    text = request("POST", PATH, key, BODY).replace("Host:", "Connection: close\r\nHost:").encode()
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(SUBMITS)]
    began = time.perf_counter()
    async with asyncio.timeout(_PATIENCE_SECONDS):
        answers = await asyncio.gather(*(_answer(reader, writer, text) for reader, writer in streams))
    return Counter(answers), time.perf_counter() - began


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> int:
    writer.write(text)
    head = await reader.readuntil(b"\r\n")
    await reader.read()
    writer.close()
    return int(head[9:12])
