"""Structured logs: one line per event, readable on a terminal, JSON everywhere else."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str = "info", *, json: bool | None = None) -> None:
    """Send structlog and the standard library's loggers to stderr; `json=None` means: unless stderr is a terminal."""
    as_json = not sys.stderr.isatty() if json is None else json
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, rendered] if as_json else [*shared, rendered],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Both pools of connections log every reconnect while the database is away.
    for pool in ("asyncpg.pool", "psycopg.pool"):
        logging.getLogger(pool).setLevel(logging.ERROR)
    logging.basicConfig(
        level=max(number, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger that names its module in every event."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger(module=name)
    return bound
