"""The states of a job, of its place in the queue and of its attempts: one table of every way between them.

`sql/states.sql` and `docs/states.md` are written from this table (`scripts/state_table.py`), and the database refuses every
other way with the code KT902, whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
"""A job's states. Between two segments a job is `queued` again, which callers read as `running`."""

FINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
NOTHING = "nothing"
"""Where a row comes from, and what a deleted one becomes."""

REFUSED = "KT902"
"""The SQLSTATE of a way that is not in the table."""


@dataclass(frozen=True)
class Machine:
    """The states of one table's rows, and the ways between them, each with what takes it.

    `tests` are SQL for "the row `{row}` is in this state"; a change of `column` is a step.
    """

    table: str
    column: str
    tests: Mapping[str, str]
    ways: Mapping[tuple[str, str], str]

    def following(self, state: str) -> frozenset[str]:
        """The states that come after `state`."""
        return frozenset(after for before, after in self.ways if before == state)


def _named(*states: str) -> dict[str, str]:
    return {state: f"{{row}}.state = '{state}'" for state in states}


JOB = Machine(
    "job",
    "state",
    _named("queued", "running", "succeeded", "failed", "cancelled"),
    {
        (NOTHING, "queued"): "`submit`",
        ("queued", "running"): "`claim`",
        ("queued", "failed"): "`start_timeout`, `retired_timeout`",
        ("queued", "cancelled"): "`cancel`",
        ("running", "queued"): "`segment_end`, `hand_back`",
        ("running", "succeeded"): "`settle`",
        ("running", "failed"): "`settle`, `hand_back` of the last attempt",
        ("running", "cancelled"): "`settle`, `segment_end` and `hand_back` after a cancel request",
        ("succeeded", NOTHING): "`history.remove_jobs`, when its time on record is over",
        ("failed", NOTHING): "`history.remove_jobs`",
        ("cancelled", NOTHING): "`history.remove_jobs`",
    },
)
QUEUE = Machine(
    "queue",
    "state",
    _named("parked", "ready", "leased", "quarantined"),
    {
        (NOTHING, "parked"): "`flow_join`, the account's concurrency is used up",
        (NOTHING, "ready"): "`flow_join`",
        ("parked", "ready"): "`flow_promote`",
        ("ready", "leased"): "`claim`",
        ("leased", "ready"): "`flow_move` to the next segment's pool, `hand_back`",
        ("parked", NOTHING): "`flow_leave`",
        ("ready", NOTHING): "`flow_leave`",
        ("leased", NOTHING): "`flow_leave`",
        ("ready", "quarantined"): "`job_quarantine`",
        ("parked", "quarantined"): "`job_quarantine`",
        ("quarantined", "ready"): "`job_release`, `job_requeue`",
        ("quarantined", "parked"): "`job_release`, `job_requeue`",
        ("quarantined", NOTHING): "`flow_leave`",
    },
)
ATTEMPT = Machine(
    "attempt",
    "ended_at",
    {"open": "{row}.ended_at IS NULL", "ended": "{row}.ended_at IS NOT NULL"},
    {
        (NOTHING, "open"): "`claim`",
        ("open", "ended"): "`job_end`, `segment_end`, `hand_back`",
        ("open", NOTHING): "`hand_back` before any engine took the job",
        ("ended", NOTHING): "`history.remove_jobs`, together with its job",
    },
)
MACHINES = (JOB, QUEUE, ATTEMPT)

_HEAD = """\
-- Written by scripts/state_table.py from jobs/states.py; change it there. A way that is not in it ends its transaction.
-- The triggers' conditions are short, because PostgreSQL parses them in every statement: a long one costs more than a call.

CREATE OR REPLACE FUNCTION transition_refused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE '% has no way from % to %', TG_TABLE_NAME, coalesce(to_jsonb(OLD) ->> TG_ARGV[0], 'nothing'),
    coalesce(to_jsonb(NEW) ->> TG_ARGV[0], 'nothing') USING ERRCODE = '{refused}';
END $$;
"""
_TRIGGER = """
CREATE OR REPLACE TRIGGER {table}_{name} BEFORE {event} ON {table}
  FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION {function};
"""
_FUNCTION = """
CREATE OR REPLACE FUNCTION {table}_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.state || ' > ' || NEW.state <> ALL ('{{{ways}}}') THEN
    RAISE '{table} has no way from % to %', OLD.state, NEW.state USING ERRCODE = '{refused}';
  END IF;
  RETURN NEW;
END $$;
"""


def as_sql() -> str:
    """`sql/states.sql`: the triggers that keep every row on the ways of the table."""
    return _HEAD.format(refused=REFUSED) + "".join(part for machine in MACHINES for part in _parts(machine))


def _parts(machine: Machine) -> Iterator[str]:
    refused, changed = (
        f"transition_refused('{machine.column}')",
        f"OLD.{machine.column} IS DISTINCT FROM NEW.{machine.column}",
    )

    def trigger(name: str, event: str, condition: str, function: str = refused) -> str:
        return _TRIGGER.format(table=machine.table, name=name, event=event, condition=condition, function=function)

    yield trigger("first_state", "INSERT", _none_of(machine, "NEW", machine.following(NOTHING)))
    between = [way for way in machine.ways if NOTHING not in way]
    if len(between) == 1:
        ((before, after),) = between
        way = f"{machine.tests[before].format(row='OLD')} AND {machine.tests[after].format(row='NEW')}"
        yield trigger("transition", f"UPDATE OF {machine.column}", f"{changed} AND NOT ({way})")
    else:
        ways = ", ".join(f"{before} > {after}" for before, after in between)
        yield _FUNCTION.format(table=machine.table, ways=ways, refused=REFUSED)
        yield trigger("transition", f"UPDATE OF {machine.column}", changed, f"{machine.table}_transition()")
    leaving = {before for before, after in machine.ways if after == NOTHING}
    if leaving < machine.tests.keys():
        yield trigger("last_state", "DELETE", _none_of(machine, "OLD", leaving))


def _none_of(machine: Machine, row: str, states: Collection[str]) -> str:
    return " AND ".join(f"NOT {machine.tests[state].format(row=row)}" for state in sorted(states)) or "true"
