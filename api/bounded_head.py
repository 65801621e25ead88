"""uvicorn's HTTP/1.1 protocol with what it lacks: a bound on heads and trailers, and a clock for heads."""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 1 << 16
"""Of a request's URL and header lines, or of a chunked body's trailer lines; each line counts `LINE_BYTES` on top."""
LINE_BYTES = 32
HEAD_SECONDS = 10.0
"""From a head's first byte, or from the connection's start, to the head's end."""


class HeadTooLarge(ValueError):
    """The head, or the trailer, has more than `MAX_HEAD_BYTES`."""


class _Section:
    """A head or a trailer on its way: `told` are the bytes of its whole parts, `raw` those of what held nothing else."""

    def __init__(self, trailer: bool) -> None:
        self.trailer = trailer
        self.told = self.raw = 0

    def tell(self, size: int) -> None:
        """Count a part.

        Raises:
            HeadTooLarge: that is too much.
        """
        self.told += size
        if self.told > MAX_HEAD_BYTES:
            raise HeadTooLarge


class BoundedHead(HttpToolsProtocol):
    """A connection. Too large a head or trailer is answered 400, too slow a head is cut off; trailers are dropped."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._section: _Section | None = None
        self._clock: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection begins."""
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and see that nothing waits without a clock."""
        before = self._section
        super().data_received(data)
        section = self._section
        if section is not None and section is before and not self.transport.is_closing():
            section.raw += len(data)
            if section.raw > MAX_HEAD_BYTES:
                self.send_400_response("Invalid HTTP request received.")
        if self.transport.is_closing():
            self._stop()
        elif section is not None and not section.trailer:
            if self._clock is None:
                self._start()
        elif not self._busy and self.timeout_keep_alive_task is None:
            # The rest of a body that was answered before it was whole, or empty lines.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        """Refuse what came, unless that would end up inside another answer."""
        if self.pipeline or (self._busy and self.cycle.response_started):
            self.transport.close()
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._section = _Section(trailer=False)

    def on_url(self, url: bytes) -> None:
        """A part of the URL."""
        if self._section is not None:
            self._section.tell(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole line of the head or of the trailer."""
        if self._section is not None:
            self._section.tell(len(name) + len(value) + LINE_BYTES)
            if not self._section.trailer:
                super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._section = None
        self._stop()
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """A chunk, or the trailer, begins."""
        self._section = _Section(trailer=True)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._section = None
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._section = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is sent; a head that waited behind it has all its time yet."""
        super().on_response_complete()
        if self._clock is not None:
            self._start()

    @property
    def _busy(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and not cycle.response_complete

    def _start(self) -> None:
        self._stop()
        self._clock = self.loop.call_later(HEAD_SECONDS, self._late)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        self._clock = None
        if self._busy:
            self._start()
        elif not self.transport.is_closing():
            self.transport.close()
