"""What the service promises of jobs and money, without a database: a few dictionaries, and every operation on them.

`Model.apply` says what an operation must answer, and changes the model as the operation must change the database. What the
promise leaves open is observed instead: which ready jobs a claim takes (`Claim.taken`) and which parked ones follow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PRICE = 100
CAP = 3
STARTS = 20
POOLS = ("gpu", "cpu")
CHAINS = (("gpu",), ("cpu",), ("gpu", "cpu"), ("cpu", "gpu", "cpu"))


class Wrong(AssertionError):
    """The database did what the model does not allow."""


@dataclass(frozen=True)
class Token:
    """A lease as its worker remembers it, long after it may have ended."""

    job: int
    fence: int


@dataclass(frozen=True)
class Submit:
    account: int
    chain: tuple[str, ...] = ("gpu",)
    key: str | None = None
    body: int = 0
    price: int = PRICE
    late: bool = False
    due: bool = False
    webhook: bool = False


@dataclass(frozen=True)
class Claim:
    pool: str
    most: int
    session: int


@dataclass(frozen=True)
class Settle:
    token: Token
    state: str


@dataclass(frozen=True)
class SegmentEnd:
    token: Token


@dataclass(frozen=True)
class HandBack:
    token: Token
    counts: bool
    begun: bool = True
    last: bool = False


@dataclass(frozen=True)
class StageBegin:
    token: Token


@dataclass(frozen=True)
class ProgressMade:
    token: Token


@dataclass(frozen=True)
class Permitted:
    token: Token


@dataclass(frozen=True)
class Cancel:
    job: int


@dataclass(frozen=True)
class CancelDue:
    """A sweep looks for jobs whose own deadline is over."""


@dataclass(frozen=True)
class StartTimeout:
    """A sweep looks for jobs that nobody started in time."""


@dataclass(frozen=True)
class Opened:
    """A dispatcher comes."""


@dataclass(frozen=True)
class Beat:
    session: int


@dataclass(frozen=True)
class Silence:
    """A dispatcher has died: its last beat is long ago."""

    session: int


@dataclass(frozen=True)
class Close:
    session: int


@dataclass(frozen=True)
class Slots:
    pool: str
    slots: int
    paused: bool = False


@dataclass(frozen=True)
class Topup:
    account: int
    amount: int
    number: int


@dataclass(frozen=True)
class Chargeback:
    account: int
    amount: int
    number: int


Operation = (
    Submit | Claim | Settle | SegmentEnd | HandBack | StageBegin | ProgressMade | Permitted | Cancel | CancelDue
    | StartTimeout | Opened | Beat | Silence | Close | Slots | Topup | Chargeback
)  # fmt: skip


@dataclass
class Wallet:
    available: int = 0
    held: int = 0
    debt: int = 0
    paid_in: int = 0
    captured: int = 0

    def credit(self, amount: int) -> None:
        repaid = min(amount, self.debt)
        self.debt -= repaid
        self.available += amount - repaid


@dataclass
class Job:
    account: int
    chain: tuple[str, ...]
    price: int
    late: bool
    due: bool
    webhook: bool
    place: str | None = "ready"
    state: str = "queued"
    segment: int = 0
    fence: int = 0
    session: int | None = None
    starts: int = 0
    attempts: int = 0
    asked: bool = False
    stage: bool = False
    at_work: bool = False
    hold: str = "held"
    failure: str | None = None
    outputs: bool = False
    events: list[str] = field(default_factory=lambda: ["queued"])
    tries: list[tuple[int, int, str | None]] = field(default_factory=list)

    @property
    def pool(self) -> str:
        return self.chain[self.segment]

    @property
    def ended(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")

    @property
    def begun(self) -> bool:
        return self.starts > 0

    def end_try(self, outcome: str) -> None:
        self.at_work = False
        job_try = self.tries[-1] if self.tries else None
        if job_try is not None and job_try[2] is None:
            self.tries[-1] = (*job_try[:2], outcome)

    def seen(self) -> dict[str, Any]:
        """As `Scene.jobs` reads it from the database."""
        return {
            "place": self.place,
            "pool": None if self.ended else self.pool,
            "begun": self.begun if self.place == "ready" else None,
            "state": self.state,
            "segment": self.segment,
            "fence": self.fence,
            "session": self.session,
            "starts": self.starts,
            "attempts": self.attempts,
            "asked": self.asked,
            "stage": self.stage,
            "at_work": self.at_work,
            "hold": self.hold,
            "amount": self.price,
            "failure": self.failure,
            "outputs": self.outputs,
            "events": self.events,
            "tries": self.tries,
            "notices": int(self.webhook and self.ended),
        }


@dataclass
class Pool:
    slots: int = 2
    paused: bool = False


class Model:
    """The whole service. Jobs, accounts and sessions are numbers, in the order in which they came."""

    def __init__(self, concurrency: dict[int, int], queue_limit: dict[int, int]) -> None:
        self.concurrency = concurrency
        self.queue_limit = queue_limit
        self.wallets = {account: Wallet() for account in concurrency}
        self.jobs: list[Job] = []
        self.sessions: list[str] = []
        self.pools = {pool: Pool() for pool in POOLS}
        self.keys: dict[tuple[int, str], tuple[int, int]] = {}
        self.paid: set[int] = set()

    def apply(self, operation: Operation, observed: Any = None) -> Any:
        """The answer that the database must give; `observed` is what it gave, where the promise leaves a choice."""
        match operation:
            case Submit():
                return self._submit(operation)
            case Claim(pool, most, session):
                return self._claim(pool, most, session, observed)
            case Settle(token, state):
                return self._settle(token, state)
            case SegmentEnd(token):
                return self._segment_end(token)
            case HandBack(token, counts, begun, last):
                job = self._owned(token)
                return "stale" if job is None else self._hand_back(job, "test", counts, begun, last)
            case StageBegin(token):
                return self._noted(token, "stage")
            case ProgressMade(token):
                return self._noted(token, "progress")
            case Permitted(token):
                job = self._owned(token)
                return job is not None and not job.asked and self.sessions[job.session or 0] == "live"
            case Cancel(number):
                return self._cancel(self.jobs[number])
            case CancelDue():
                return sum(self._cancel(job) != "" for job in self.jobs if job.due and not job.ended and not job.asked)
            case StartTimeout():
                return self._start_timeout()
            case Opened():
                self.sessions.append("live")
                return len(self.sessions) - 1
            case Beat(session):
                return self._beat(session)
            case Silence(session):
                if self.sessions[session] == "live":
                    self.sessions[session] = "silent"
                return None
            case Close(session):
                self.sessions[session] = "ended"
                return self._hand_back_of_ended("handed_back", session)
            case Slots(pool, slots, paused):
                self.pools[pool] = Pool(slots, paused)
                return None
            case Topup(account, amount, number):
                return self._move(account, amount, number)
            case Chargeback(account, amount, number):
                return self._move(account, -amount, number)

    def settle_places(self, ready: set[int]) -> None:
        """Take over which parked jobs the database let follow, if they are as many as must."""
        for number in ready:
            job = self.jobs[number]
            if job.place != "parked":
                raise Wrong(f"job {number} became ready from {job.place}")
            job.place = "ready"
        for account, concurrency in self.concurrency.items():
            for pool in POOLS:
                parked, active = (len(self._in(account, pool, places)) for places in (("parked",), ("ready", "leased")))
                if parked and active < concurrency:
                    raise Wrong(f"{parked} parked jobs of account {account} have room in {pool} and did not follow")
                followed = ready & set(self._in(account, pool, ("ready",)))
                if followed and active > concurrency:
                    raise Wrong(f"more than {concurrency} jobs of account {account} are ready in {pool}")

    def _in(self, account: int, pool: str, places: tuple[str, ...]) -> list[int]:
        return [
            number
            for number, job in enumerate(self.jobs)
            if not job.ended and job.account == account and job.pool == pool and job.place in places
        ]

    def _submit(self, asked: Submit) -> Any:
        if asked.key is not None and (asked.account, asked.key) in self.keys:
            body, number = self.keys[asked.account, asked.key]
            return ("replayed", number) if body == asked.body else "IdempotencyConflict"
        waiting = sum(not job.ended and job.account == asked.account for job in self.jobs)
        if waiting >= self.queue_limit[asked.account]:
            return "QueueFull"
        wallet = self.wallets[asked.account]
        if wallet.available < asked.price or wallet.debt:
            return "InsufficientBalance"
        wallet.available -= asked.price
        wallet.held += asked.price
        job = Job(asked.account, asked.chain, asked.price, asked.late, asked.due, asked.webhook)
        active = len(self._in(asked.account, job.pool, ("ready", "leased")))
        job.place = "ready" if active < self.concurrency[asked.account] else "parked"
        self.jobs.append(job)
        if asked.key is not None:
            self.keys[asked.account, asked.key] = (asked.body, len(self.jobs) - 1)
        return ("accepted", len(self.jobs) - 1)

    def _claim(self, pool: str, most: int, session: int, taken: Any) -> Any:
        if self.sessions[session] == "ended":
            return "SessionEnded"
        there = [number for number, job in enumerate(self.jobs) if not job.ended and job.pool == pool]
        leased = sum(self.jobs[number].place == "leased" for number in there)
        ready = [number for number in there if self.jobs[number].place == "ready"]
        room = 0 if self.pools[pool].paused else max(0, min(most, self.pools[pool].slots + 1 - leased, len(ready)))
        if not isinstance(taken, list):
            return f"{room} leases"
        if len(taken) != room or not set(taken) <= set(ready):
            raise Wrong(f"a claim took {taken} of {ready}; {room} were to be taken")
        fresh = any(not self.jobs[number].begun for number in taken)
        if fresh and any(self.jobs[number].begun for number in set(ready) - set(taken)):
            raise Wrong("a claim passed over work that has begun")
        for number in taken:
            job = self.jobs[number]
            job.place, job.state, job.session = "leased", "running", session
            job.fence += 1
            job.starts += 1
            job.events.append("running")
            job.tries.append((job.fence, session, None))
        return taken

    def _owned(self, token: Token) -> Job | None:
        job = self.jobs[token.job]
        return job if job.state == "running" and job.fence == token.fence else None

    def _end(self, job: Job, state: str, outcome: str, failure: str | None = None) -> str:
        job.state, job.place, job.session, job.stage, job.failure = state, None, None, False, failure
        job.fence += 1
        job.end_try(outcome)
        job.events.append(state)
        job.outputs = state == "succeeded"
        wallet = self.wallets[job.account]
        wallet.held -= job.price
        if state == "succeeded":
            job.hold = "captured"
            wallet.captured += job.price
        else:
            job.hold = "released"
            wallet.credit(job.price)
        return state

    def _settle(self, token: Token, state: str) -> str:
        job = self._owned(token)
        if job is None:
            return "stale"
        if job.asked:
            return self._end(job, "cancelled", "cancelled")
        if state == "cancelled":
            return self._hand_back(job, "stopped", counts=False)
        return self._end(job, state, state, "fetch_failed" if state == "failed" else None)

    def _segment_end(self, token: Token) -> str:
        job = self._owned(token)
        if job is None:
            return "stale"
        if job.asked:
            return self._end(job, "cancelled", "cancelled")
        job.end_try("segment_ended")
        job.state, job.place, job.session, job.attempts = "queued", "ready", None, 0
        job.fence += 1
        job.segment += 1
        return "queued"

    def _hand_back(self, job: Job, reason: str, counts: bool, begun: bool = True, last: bool = False) -> str:
        if job.asked:
            return self._end(job, "cancelled", reason)
        job.attempts += counts
        starts = job.starts - (not begun)
        if last or job.attempts >= CAP or starts >= STARTS:
            return self._end(job, "failed", reason, "attempts_exhausted")
        if begun:
            job.end_try(reason)
        else:
            job.at_work = False
            job.tries.pop()
        job.state, job.place, job.session, job.stage, job.starts = "queued", "ready", None, False, starts
        job.fence += 1
        job.events.append("running" if job.segment else "queued")
        return "queued"

    def _noted(self, token: Token, event: str) -> bool:
        job = self._owned(token)
        if job is None:
            return False
        job.stage = job.stage or event == "stage"
        job.at_work = job.at_work or event == "stage"
        job.events.append(event)
        return True

    def _cancel(self, job: Job) -> str:
        if job.ended or job.asked:
            return job.state
        job.asked = True
        job.events.append("cancel_requested")
        return self._end(job, "cancelled", "cancelled") if job.session is None else job.state

    def _start_timeout(self) -> int:
        late = [job for job in self.jobs if job.state == "queued" and job.late and not job.begun and not job.segment]
        for job in late:
            self._end(job, "failed", "start_timeout", "start_timeout")
        return len(late)

    def _beat(self, session: int) -> str:
        if self.sessions[session] == "ended":
            return "SessionEnded"
        self.sessions[session] = "live"
        self.sessions = ["ended" if state == "silent" else state for state in self.sessions]
        self._hand_back_of_ended("session_expired")
        return "beaten"

    def _hand_back_of_ended(self, reason: str, session: int | None = None) -> int:
        held = [
            job
            for job in self.jobs
            if job.session is not None and self.sessions[job.session] == "ended" and session in (None, job.session)
        ]
        for job in held:
            self._hand_back(job, reason, counts=False)
        return len(held)

    def _move(self, account: int, amount: int, number: int) -> bool:
        if number in self.paid:
            return False
        self.paid.add(number)
        wallet = self.wallets[account]
        wallet.paid_in += amount
        if amount > 0:
            wallet.credit(amount)
        else:
            taken = min(-amount, wallet.available)
            wallet.available -= taken
            wallet.debt += -amount - taken
        return True
