"""The report as a table."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.storm import recovery
from tests.chaos.storm.ground import Json

_ZEROS = {
    "lost": "jobs lost",
    "notEnded": "jobs that never ended",
    "chargedTwice": "charged twice",
    "chargedWrongly": "charged wrongly",
    "drift": "ledger drift",
    "brokenChains": "hash chains broken",
    "orphanedHolds": "holds that outlived their job",
    "walletsOff": "wallets that differ from their jobs",
    "artifacts": "artifacts missing or with a wrong checksum",
    "events": "jobs with events out of order",
    "webhooks": "webhooks lost",
    "busyReplicas": "replicas busy with an abandoned job",
    "abandonedRuns": "runs that outlived their permit",
    "lateSettles": "jobs ended by a late worker",
    "segmentsRepeated": "segments run again after their checkpoint",
    "answers": "idempotency keys with different answers",
    "leftInQueue": "rows left in the queue",
    "poisonSucceeded": "poison jobs charged",
    "poisonNotQuarantined": "poison jobs not quarantined",
    "cancelsIgnored": "cancels ignored",
    "deadlinesMissed": "deadlines missed",
    "forged": "webhooks forged or led elsewhere",
    "internalErrors": "answers with 500",
}
_RECOVERED = {recovery.SINGLE: "dispatcher, 1 replica"}


def printed(report: Json) -> str:
    """Every line of it."""
    return "\n".join(_lines(report))


def _lines(report: Json) -> Iterator[str]:
    jobs = report["jobs"]
    guards = ", ".join(f"{name} {'on' if report[name] else 'DELETED'}" for name in ("fence", "permit"))
    yield f"seed {report['seed']}, {report['seconds']:.0f} s, {guards}"
    yield ""
    yield "faults"
    for fault, count in report["faults"].items():
        yield f"  {fault:<44}{count:>8}"
    for fault, count in report["faultsNotPossible"].items():
        yield f"  {fault + ' (not possible at that moment)':<44}{count:>8}"
    for fault, count in report["engineFaults"].items():
        yield f"  {'engine ' + fault:<44}{count:>8}"
    yield f"  {'callers vanished':<44}{report['callers']['vanished']:>8}"
    yield "jobs"
    for name, words in (
        ("accepted", "accepted"),
        ("succeeded", "succeeded"),
        ("failedWithRefund", "failed, with refund"),
        ("cancelled", "cancelled"),
    ):
        yield f"  {words:<44}{jobs[name]:>8}"
    yield "must be zero"
    for name, count in report["zeros"].items():
        yield f"  {_ZEROS.get(name, name):<44}{count:>8}{'   <-- WRONG' if count else ''}"
    yield "seconds until jobs ran again                     count     p50     p95    most   limit"
    for what, found in report["recovery"].items():
        who = _RECOVERED.get(what, what)
        for suffix, words in (("", "alone"), ("All", "with others")):
            numbers = "".join(_number(found[name + suffix]) for name in ("p50", "p95", "most"))
            yield f"  {who + ' killed, ' + words:<44}{found['count' + suffix]:>8}{numbers}{found['limit']:>8g}"
    stops = report["stops"]
    yield f"  {'cancel to free engine':<44}{stops['count']:>8}" + "".join(
        _number(stops[x]) for x in ("p50", "p95", "most")
    )
    fair = report["fairness"]
    yield "fairness, seconds"
    for name, words in (
        ("alone", "p50 wait alone"),
        ("flooded", "p50 wait beside a flood"),
        ("limit", "limit: alone + 1.5 x service / slots"),
    ):
        yield f"  {words:<44}{_number(fair[name])}"
    yield f"  {'jobs beside the flood':<44}{fair['overlapped']:>8} of {fair['count']}"
    yield ""
    yield from (f"SHORT: {each}" for each in report["short"])
    yield "WRONG: " + ", ".join(report["wrong"]) if report["wrong"] else "well" if report["well"] else "NOT WELL"


def _number(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:>8.2f}"
