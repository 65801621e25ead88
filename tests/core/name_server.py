"""A real name server on loopback whose answers a test decides, and a stub resolver that asks it over UDP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Zone = Callable[[str, str, int], Sequence[str] | None]
"""From a name, a record type (A, AAAA) and how often both were asked before, to addresses; None: there is no such name.

An answer that begins with `CNAME ` leads to another name.
"""


class NameServer(asyncio.DatagramProtocol):
    """Answers with a time to live of 0 and counts what it was asked; `resolve` has the shape of `egress.Resolver`."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.asked: Counter[tuple[str, str]] = Counter()
        self._stub = dns.asyncresolver.Resolver(configure=False)
        self._stub.nameservers = ["127.0.0.1"]
        self._stub.lifetime = 5

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        self._stub.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA | dns.flags.AA
        (question,) = query.question
        name, kind = question.name, dns.rdatatype.to_text(question.rdtype)
        for _ in range(5):
            key = (name.to_text(omit_final_dot=True), kind)
            found = self.zone(*key, self.asked[key])
            self.asked[key] += 1
            if found is None:
                reply.set_rcode(dns.rcode.NXDOMAIN)
                break
            aliases = [text.removeprefix("CNAME ") for text in found if text.startswith("CNAME ")]
            if not aliases:
                if found:
                    reply.answer.append(dns.rrset.from_text(name, 0, "IN", kind, *found))
                break
            reply.answer.append(dns.rrset.from_text(name, 0, "IN", "CNAME", aliases[0] + "."))
            name = dns.name.from_text(aliases[0])
        self._transport.sendto(reply.to_wire(), addr)

    async def resolve(self, host: str, port: int) -> list[str]:
        try:
            return list((await self._stub.resolve_name(host)).addresses())
        except dns.exception.DNSException as error:
            raise OSError(f"{host}: {error}") from None


@asynccontextmanager
async def naming(zone: Zone) -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: NameServer(zone), ("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
