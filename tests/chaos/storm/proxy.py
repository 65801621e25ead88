"""`python -m tests.chaos.storm.proxy SOCKET`: the network from the dispatchers to the database, which can hold things up.

Once `told("stall")` names a process, the next settlement that it sends, and all that it sends from then on, is kept until
`told("release")` or so many seconds later, and then sent on, though the sender may have given up by then: a statement that
comes late, when others have the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import sys
import time

from tests.chaos.storm.ground import folder, note, told

NAME = ".s.PGSQL.5432"
_CHUNK = 1 << 16
_LOOK_SECONDS = 0.02
_SETTLING = re.compile(rb"(__asyncpg_stmt_\w+__)\x00SELECT settle")


class Stalls:
    """From when and until when each process is held up, in Unix time."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[float, float]] = {}
        self._begun: float | None = None

    def look(self, pid: int, *, settles: bool) -> bool:
        """Whether the process is held up now; `settles`: what it sends now is a settlement."""
        wish, now = told("stall"), time.time()
        if settles and wish.get("pid") == pid and now < wish["until"] and wish["until"] != self._begun:
            self._begun = wish["until"]
            self._held[pid] = (now, now + wish["seconds"])
            note("stalled", sender=pid, seconds=wish["seconds"])
        since, until = self._held.get(pid, (0.0, 0.0))
        return now < until and told("release").get("until", 0.0) < since


class Settlements:
    """Finds settlements in what one connection sends: by the names of the statements that it prepared for them."""

    def __init__(self) -> None:
        self._names: set[bytes] = set()

    def among(self, chunk: bytes) -> bool:
        """Whether one begins in the chunk."""
        self._names.update(_SETTLING.findall(chunk))
        return any(name in chunk for name in self._names)


async def _passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stalls: Stalls | None, pid: int) -> None:
    settlements = Settlements()
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(_CHUNK):
            while stalls is not None and stalls.look(pid, settles=settlements.among(chunk)):
                await asyncio.sleep(_LOOK_SECONDS)
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def main() -> None:
    """Carry until killed."""
    stalls = Stalls()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, _, _ = struct.unpack("3i", peer)
        try:
            upstream, onward = await asyncio.open_unix_connection(sys.argv[1])
        except OSError:
            writer.close()
            return
        sending = asyncio.create_task(_passed(reader, onward, stalls, pid))
        await _passed(upstream, writer, None, pid)
        await sending
        onward.close()
        writer.close()

    place = folder() / "proxy" / NAME
    place.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(carry, place)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
