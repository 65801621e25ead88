"""The caller's commands: quote, submit, jobs and receipt, through the public API."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import App, Parameter

from core.settings import Settings
from killatamata import demo, inputs, receipts, show
from killatamata.client import Client
from killatamata.command import CommandFailed, endpoint, interruptible
from killatamata.transport import Refused, Unreachable

jobs = App(name="jobs", help="Jobs: of the account, through the API; of all accounts, for the operator.")

Flag: TypeAlias = Annotated[bool, Parameter(negative="", show_default=False)]
AsJson: TypeAlias = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]
Words: TypeAlias = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]
Status: TypeAlias = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Ask:
    """What to make, and on which terms."""

    input: Words = ()
    """A field of the input as name=value; a value that is JSON is taken as JSON, anything else as text. A name given
    twice makes a list."""
    file: Words = ()
    """A field that holds a file, as name=@path. Files above 45 MB in all are uploaded, the others go inline."""
    strict: Flag = False
    """Refuse whatever would be adjusted."""
    max_cost: str | None = None
    """Refuse to spend more dollars than this, for example 0.05."""
    priority: Literal["interactive", "standard", "batch"] | None = None
    """Orders this account's own jobs; never changes the price."""
    start_timeout: int | None = None
    """Seconds; a job that was not started by then fails, at no cost."""
    cancel_after: int | None = None
    """Seconds; a job that has not ended by then is cancelled, at no cost."""
    webhook_url: str | None = None
    """Gets the job when it has ended."""

    def options(self) -> dict[str, Any]:
        """The fields of the body besides task and input."""
        given = {
            "maxCostUsd": self.max_cost,
            "priority": self.priority,
            "startTimeoutSeconds": self.start_timeout,
            "cancelAfterSeconds": self.cancel_after,
            "webhookUrl": self.webhook_url,
        }
        return {name: value for name, value in given.items() if value is not None}


def submit(
    task: str,
    *,
    ask: Ask | None = None,
    quote_token: str | None = None,
    idempotency_key: str | None = None,
    wait: Flag = False,
    out: Path = Path("out"),
    as_json: AsJson = False,
) -> int:
    """Submit a job to the running stack (or to KILLATAMATA_API_BASE with KILLATAMATA_API_KEY).

    Parameters
    ----------
    task:
        For example image.generate.
    quote_token:
        From killatamata quote: keeps its price, and the seed drawn for it.
    idempotency_key:
        The same key with the same words never makes, or costs, a second job; absent: drawn, and shown on failure.
    wait:
        Show progress, and download the outputs when the job has succeeded.
    out:
        Where outputs go.
    as_json:
        Print JSON: the accepted job, or with --wait the finished one and its files.
    """
    ask = ask or Ask()
    given = inputs.read(task, ask.input, ask.file)
    options = ask.options() if quote_token is None else {**ask.options(), "quoteToken": quote_token}
    key = idempotency_key or secrets.token_hex(16)

    async def send(settings: Settings) -> int:
        async with api_of(settings, as_json) as api:
            try:
                body = await inputs.complete(given, api, key)
                accepted = await api.submit(task, body, idempotency_key=key, strict=ask.strict, **options)
            except (Refused, Unreachable, asyncio.CancelledError):
                show.console.print(f"The idempotency key was {key}: with --idempotency-key and the same words it is")
                show.console.print("safe to try again; nothing is made or paid twice.")
                raise
            job_id, price = accepted["jobId"], accepted["billing"]["amountUsd"]
            if wait:
                job = await watched(api, job_id, f"{task} ${price}")
                return await ended(api, job, out, as_json)
            if as_json:
                print(json.dumps(accepted, indent=2))
            else:
                print(job_id)
                show.console.print(f"${price} held. Watch it: killatamata jobs watch {job_id}")
        return 0

    return interruptible(send)


def quote(
    task: str | None = None,
    *,
    ask: Ask | None = None,
    all_examples: Flag = False,
    as_json: AsJson = False,
) -> int:
    """Show what a job would cost, without the job.

    Parameters
    ----------
    task:
        For example image.generate.
    all_examples:
        Price every example of the public documentation instead, by the built-in price book and without a service.
    as_json:
        Print JSON.
    """
    ask = ask or Ask()
    if all_examples:
        if task is not None or ask != Ask():
            raise CommandFailed("--all-examples takes no task and no input")
        return _examples(as_json)
    if task is None:
        raise CommandFailed("name a task, for example image.generate, or give --all-examples")
    given = inputs.read(task, ask.input, ask.file)

    async def price(settings: Settings) -> int:
        async with api_of(settings, as_json) as api:
            body = await inputs.complete(given, api, secrets.token_hex(16))
            made = await api.quote(task, body, strict=ask.strict, **ask.options())
        if as_json:
            print(json.dumps(made, indent=2))
            return 0
        billing = made["billing"]
        show.table(f"{task}: ${billing['amountUsd']}", billing["lineItems"])
        if made["inputAdjustments"]:
            show.table("Adjusted", made["inputAdjustments"])
        show.console.print(f"The price holds until {made['expiresAt']} with --quote-token:")
        print(made["quoteToken"])
        return 0

    return interruptible(price)


def receipt(job_id: str, *, as_json: AsJson = False) -> int:
    """Show what a job moved in the ledger, and check it against the hashes that seal it.

    Parameters
    ----------
    job_id:
        job_…
    as_json:
        Print what the API said, after the same check.
    """

    async def read(settings: Settings) -> int:
        async with api_of(settings, as_json) as api:
            found = await api.receipt(job_id)
        if as_json:
            print(json.dumps(found, indent=2))
        rows = receipts.checked(found)
        if not as_json:
            show.table(f"{job_id}: ${found['amountUsd']} {found['state']}", rows)
            show.console.print("Every movement is what its hash seals.")
        return 0

    return interruptible(read)


@jobs.command(name="list")
def jobs_list(
    *,
    status: Status | None = None,
    task: str | None = None,
    limit: int | None = None,
    all_pages: Annotated[bool, Parameter(name="--all", negative="", show_default=False)] = False,
    as_json: AsJson = False,
) -> int:
    """List jobs, newest first.

    Parameters
    ----------
    status:
        Only jobs in this state.
    task:
        Only jobs of this task.
    limit:
        How many, 1 to 100; with --all, how many a request.
    all_pages:
        Every job there is.
    as_json:
        Print JSON: {"jobs": […], "nextCursor"}.
    """

    async def read(settings: Settings) -> int:
        async with api_of(settings, as_json) as api:
            page = await api.jobs(every=all_pages, status=status, task=task, limit=limit)
        if as_json:
            print(json.dumps(page, indent=2))
            return 0
        show.table("Jobs", [_line(job) for job in page["jobs"]])
        if page["nextCursor"] is not None:
            show.console.print("There are older ones: --all lists them too.")
        return 0

    return interruptible(read)


@jobs.command(name="show")
def jobs_show(
    job_id: str,
    *,
    details: Flag = False,
    as_json: AsJson = False,
) -> int:
    """Show a job as it is now.

    Parameters
    ----------
    job_id:
        job_…
    details:
        Its input, adjustments, attempts and stages too.
    as_json:
        Print JSON.
    """

    async def read(settings: Settings) -> int:
        async with api_of(settings, as_json) as api:
            job = await api.job(job_id, details=details)
        if as_json:
            print(json.dumps(job, indent=2))
            return 0
        _show(job)
        if details:
            found = job["details"]
            show.record("Effective input", found["effectiveInput"])
            for title, name in (("Adjusted", "inputAdjustments"), ("Attempts", "attempts"), ("Stages", "stages")):
                if found[name]:
                    show.table(title, found[name])
            show.record("Upstream", found["upstream"] or {})
        return 0

    return interruptible(read)


@jobs.command(name="cancel")
def jobs_cancel(job_id: str, *, as_json: AsJson = False) -> int:
    """Cancel a job: a queued one at once, a running one within a model step. It costs nothing then.

    Parameters
    ----------
    job_id:
        job_…
    as_json:
        Print JSON.
    """

    async def ask(settings: Settings) -> int:
        async with api_of(settings, as_json) as api:
            job = await api.cancel(job_id)
        if as_json:
            print(json.dumps(job, indent=2))
        elif job["status"] == "running":
            print(f"{job_id} is asked to stop; watch it end: killatamata jobs watch {job_id}")
        else:
            print(f"{job_id} is {job['status']}, ${job['billing']['amountUsd']} {job['billing']['state']}")
        return 0

    return interruptible(ask)


@jobs.command(name="watch")
def jobs_watch(
    job_id: str,
    *,
    out: Path | None = None,
    as_json: AsJson = False,
) -> int:
    """Follow a job to its end; fails if the job does.

    Parameters
    ----------
    job_id:
        job_…
    out:
        Download the outputs to this folder.
    as_json:
        Print the finished job as JSON.
    """

    async def follow(settings: Settings) -> int:
        async with api_of(settings, as_json) as api:
            return await ended(api, await watched(api, job_id, job_id), out, as_json)

    return interruptible(follow)


@asynccontextmanager
async def api_of(settings: Settings, as_json: bool) -> AsyncIterator[Client]:
    """The API; with `as_json`, what it refuses is printed as it said it."""
    base, key = endpoint(settings)
    async with Client(base, key) as api:
        try:
            yield api
        except Refused as refused:
            if as_json:
                print(json.dumps(refused.body, indent=2))
            raise


async def watched(api: Client, job_id: str, description: str) -> dict[str, Any]:
    """The job once it has ended; a bar shows how it goes."""
    try:
        with show.progress() as bars:
            return await api.finished(job_id, show.follow(bars, description))
    except (Unreachable, asyncio.CancelledError):
        show.console.print(f"The job goes on. Watch it again: killatamata jobs watch {job_id}")
        raise


async def ended(api: Client, job: dict[str, Any], out: Path | None, as_json: bool) -> int:
    """Show a finished job, and download its outputs into `out`; the exit code.

    Raises:
        CommandFailed: the job did not succeed.
    """
    files = [] if out is None else await demo.downloaded(api, job, out)
    if as_json:
        print(json.dumps({**job, "files": [str(path) for path in files]}, indent=2))
    elif out is None:
        _show(job)
    for path in () if as_json else files:
        print(path)
    if job["status"] == "succeeded":
        return 0
    failure = job.get("failure") or {"message": f"the job is {job['status']}"}
    raise CommandFailed(f"{failure['message']} ({job['jobId']})")


def _line(job: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "job": job["jobId"],
        "task": job["task"],
        "status": job["status"],
        "progress": f"{job['progress']:.0%}",
        "USD": f"{job['billing']['amountUsd']} {job['billing']['state']}",
        "created": job["createdAt"],
    }


def _show(job: Mapping[str, Any]) -> None:
    names = ("stage", "queuePosition", "startedAt", "finishedAt", "cancelRequestedAt", "engine", "standIn")
    failure = job.get("failure") or {}
    show.record(
        job["jobId"],
        {**_line(job), **{name: job.get(name) for name in names}, "failure": failure.get("message")},
    )
    for output in job["outputs"]:
        print(f"{output['role']} {output['mimeType']} {output['bytes']} bytes: {output['url'] or 'deleted'}")


def _examples(as_json: bool) -> int:
    # Not above: every command would pay for the tasks and their prices.
    from killatamata import examples

    rows = examples.all_examples()
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        show.table("Public examples", rows)
    return 0
