"""How a command runs: its settings, its interrupts, and the database or the API it works on."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from core.errors import OperatorError
from core.log import configure
from core.settings import PREFIX, Settings

if TYPE_CHECKING:
    from core.database import Database
    from jobs.interventions import Operator

INTERRUPTED = 130
REASON_MOST = 500


class CommandFailed(OperatorError):
    """A command could not do what was asked; the message says what to do."""


def endpoint(settings: Settings) -> tuple[str, str]:
    """The API's address and a key: KILLATAMATA_API_BASE and _KEY, or those of the running stack.

    Raises:
        CommandFailed: there is neither.
    """
    from killatamata import stack

    base, secret = os.environ.get(f"{PREFIX}API_BASE"), os.environ.get(f"{PREFIX}API_KEY")
    if base and not base.startswith(("http://", "https://")):
        raise CommandFailed(f"{PREFIX}API_BASE must begin with http:// or https://, not {base!r}")
    if base and secret:
        return base.rstrip("/"), secret.strip()
    found = stack.running(settings)
    if found is None:
        raise CommandFailed(
            f"no stack runs on {settings.root}; start one with killatamata up, or set {PREFIX}API_BASE and _KEY"
        )
    return found.base_url, secret or found.api_key


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[Database]:
    """The stack's database: the given one, the running stack's, or the embedded one started for this command alone."""
    from core.database import Database
    from killatamata.migrate import migrate
    from killatamata.stack import embedded

    async with embedded(settings) as url:
        await migrate(url)
        opened = Database(url, size=2)
        await opened.open()
        try:
            yield opened
        finally:
            await opened.close()


def operator(reason: str | None) -> Operator:
    """Whoever runs this command, for the audit: the system's user (not what the environment says) and this machine.

    Raises:
        CommandFailed: the reason is longer than 500 characters.
    """
    from jobs.interventions import Operator

    if reason is not None and len(reason) > REASON_MOST:
        raise CommandFailed(f"a reason has at most {REASON_MOST} characters, not {len(reason)}")
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"uid {os.getuid()}"
    return Operator(f"{user}@{socket.gethostname()}", reason or None)


def interruptible(work: Callable[[Settings], Awaitable[int]]) -> int:
    """Run `work`; Ctrl-C and SIGTERM cancel it once, so that everything it opened is closed."""

    async def run() -> int:
        settings = Settings()
        configure(settings.log_level, json=settings.log_json)
        task = asyncio.ensure_future(work(settings))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            return INTERRUPTED

    return asyncio.run(run())
