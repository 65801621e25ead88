"""The command `killatamata`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
from cyclopts import App
from pydantic import ValidationError
from rich.markup import escape

from core.errors import ApiError, OperatorError
from core.settings import PREFIX, Settings
from killatamata import cli_extend, cli_jobs, cli_operator, cli_pools, cli_stuck, show
from killatamata.command import interruptible

app = App(name="killatamata", help="An open media-generation service on Ray.")
for command in (cli_jobs.submit, cli_jobs.quote, cli_jobs.receipt, cli_extend.extend, cli_pools.audit):
    app.command(command)
for operators in cli_stuck.COMMANDS:
    cli_jobs.jobs.command(operators, group=cli_stuck.GROUP)
for group in (cli_jobs.jobs, cli_pools.pool, cli_operator.account, cli_operator.key, cli_operator.ledger):
    app.command(group)
app.command(cli_operator.prices)


@app.command
def up(*, ready_file: Path | None = None) -> int:
    """Start the whole stack and keep it running until Ctrl-C.

    Parameters
    ----------
    ready_file:
        Written once jobs are accepted: {"baseUrl", "apiKey", "pid"}.
    """

    async def serve(settings: Settings) -> int:
        from killatamata import stack
        from killatamata.private_file import write_private

        async with stack.started(settings, show.part) as (running, ready):
            if ready_file is not None:
                ready_file.parent.mkdir(parents=True, exist_ok=True)
                write_private(ready_file, json.dumps(ready.as_json()))
            show.console.print(
                f"\nReady at [bold]{ready.base_url}[/bold]\n"
                f"  API key of the local account: {ready.api_key}\n"
                f"  Try: {sys.argv[0]} submit image.generate --input prompt='cinematic fox astronaut' --wait\n"
                "  Ctrl-C stops everything; running jobs are handed back and go on at the next start.\n"
            )
            try:
                await running.watch()
            finally:
                show.console.print("Stopping; running jobs are handed back.")
        return 0

    return interruptible(serve)


@app.command
def demo(*, tasks: str = "all", out: Path = Path("out/demo")) -> int:
    """Start a stack (or use the running one), run real jobs through the public API, show the results, stop.

    Parameters
    ----------
    tasks:
        Families of tasks, separated by commas.
    out:
        Where the results and summary.json go.
    """
    from killatamata import demo as demonstration

    async def show_off(settings: Settings) -> int:
        from killatamata import stack

        asked = demonstration.families(tasks)
        out.mkdir(parents=True, exist_ok=True)
        found = stack.running(settings)
        if found is not None:
            show.console.print(f"Using the stack that runs at {found.base_url}")
            summary = await demonstration.run(found, asked, out)
        else:
            async with stack.started(settings, show.part) as (_, ready):
                summary = await demonstration.run(ready, asked, out)
        for job in summary["jobs"]:
            for file in job["files"]:
                note = " (stand-in weights: random, so the picture is noise)" if job["standIn"] else ""
                show.console.print(f"[bold]{file['path']}[/bold]  {_measures(file)}{job['seconds']} s{note}")
        show.console.print(f"{out / 'summary.json'} has it all for programs.")
        return 0

    return interruptible(show_off)


def _measures(file: Mapping[str, Any]) -> str:
    if "frames" in file:
        size = f"{file['width']}x{file['height']}"
        return (
            f"{file['frames']} frames of {size} at {file['fps']:g} a second = {file['durationSeconds']:g} s; made in "
        )
    return f"{file['bytes']} bytes, "


@app.command
def config() -> int:
    """Print every setting, its value and where it came from."""
    for name, (value, source) in Settings().sources().items():
        print(f"{PREFIX}{name.upper()}={'' if value == 'None' else value}  # {source}")
    return 0


def main() -> None:
    """The command's entry."""
    try:
        code = app(sys.argv[1:], result_action="return_value")
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"]).upper()
            name = name if name.startswith((PREFIX, "DATABASE")) else PREFIX + name
            show.console.print("[red]✗[/red]", escape(f"{name}: {problem['msg']}, not {problem['input']!r}"))
        code = 1
    except (OperatorError, ApiError, ValueError, OSError, asyncpg.PostgresError) as error:
        show.console.print("[red]✗[/red]", escape(str(error)))
        code = 1
    sys.exit(code)
