"""A long string of a request, kept as it stands in the body: whole, it would hold up its process at every step."""

from __future__ import annotations

import json
from collections.abc import Iterator

PIECE_BYTES = 1 << 18
_LONGEST_ESCAPE = 6


class LongText:
    """What stands between the quotes of a JSON string, escapes and all."""

    def __init__(self, raw: memoryview) -> None:
        self._raw = raw

    @property
    def head(self) -> str:
        """The first piece; empty when `pieces` would raise."""
        try:
            return next(self.pieces(), "")
        except ValueError:
            return ""

    def pieces(self) -> Iterator[str]:
        """The text, at most `PIECE_BYTES` characters at a time.

        Raises:
            ValueError: it is no JSON, or holds bytes beyond ASCII.
        """
        start = 0
        while start < len(self._raw):
            stop = self._cut(start, start + PIECE_BYTES)
            yield json.loads(f'"{str(self._raw[start:stop], "ascii")}"')
            start = stop

    def _cut(self, start: int, stop: int) -> int:
        """The last place up to `stop` that is not inside an escape."""
        if stop >= len(self._raw):
            return len(self._raw)
        near = bytes(self._raw[start:stop])
        tail = near.rfind(b"\\", -_LONGEST_ESCAPE)
        if tail == -1:
            return stop
        run = len(near[: tail + 1]) - len(near[: tail + 1].rstrip(b"\\"))
        return start + tail if run % 2 else stop
