"""What a person sees on the terminal: start-up lines, progress bars, results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

console = Console(stderr=True, highlight=False, soft_wrap=True)


def part(name: str, detail: str, seconds: float) -> None:
    """One part of the stack is up."""
    console.print(f"[green]✓[/green] {name:<12} {detail:<34} [dim]{seconds:5.1f} s[/dim]")


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress bars, one a job."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[stage]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield bars


def follow(bars: Progress, description: str) -> Callable[[dict[str, Any]], None]:
    """A bar that follows the states of one job."""
    bar = bars.add_task(description, total=1.0, stage="queued")

    def on_change(job: dict[str, Any]) -> None:
        bars.update(bar, completed=job["progress"], stage=job.get("stage") or job["status"])

    return on_change


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of equal keys as a table on standard output."""
    shown = Table(title=escape(title), title_justify="left")
    for column in rows[0] if rows else ():
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(escape(_cell(value)) for value in row.values()))
    Console().print(shown)


def record(title: str, values: Mapping[str, Any]) -> None:
    """Names and values as a table on standard output; what is None or empty is left out."""
    table(title, [{"": name, " ": value} for name, value in values.items() if value not in (None, "", [], {})])


def _cell(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
