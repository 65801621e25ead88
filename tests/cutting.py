"""Cuts connections to the database in the middle of submits."""

from __future__ import annotations

import asyncio
import random

import asyncpg

CUTS = 40


class Cutter:
    """Ends backends that are in the middle of a submit."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._random = random.Random(seed)
        self.cut = 0

    async def run(self) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            while self.cut < CUTS:
                rows = await connection.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    " AND query LIKE '%submit(%' AND (state = 'active' OR xact_start IS NOT NULL)"
                )
                if rows:
                    self.cut += await connection.fetchval(
                        "SELECT pg_terminate_backend($1)::int", self._random.choice(rows)["pid"]
                    )
                await asyncio.sleep(self._random.uniform(0, 0.01))
        finally:
            await connection.close()
