"""Any operation after any other, in one long line: hypothesis chooses, the model says what must come of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.jobs.model import (
    CHAINS,
    POOLS,
    PRICE,
    Beat,
    Cancel,
    CancelDue,
    Chargeback,
    Claim,
    Close,
    HandBack,
    Model,
    Opened,
    Operation,
    Permitted,
    ProgressMade,
    SegmentEnd,
    Settle,
    Silence,
    Slots,
    StageBegin,
    StartTimeout,
    Submit,
    Token,
    Topup,
)
from tests.jobs.scene import Bench, Scene

EXAMPLES = int(os.environ.get("KILLATAMATA_MODEL_EXAMPLES", "0"))
"""How many lines of operations a long run tries, any; 0: the short run, always the same ones."""
STEPS = 40
MOST_SESSIONS = 4

numbers = st.integers(0, 63)
"""Which of the jobs, leases or sessions, counted round: a choice that does not depend on what there is can be repeated."""
accounts = st.integers(0, 2)


class Machine(RuleBasedStateMachine):
    """One scene, one operation at a time."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench
        bench.tried += 1
        self._scene = Scene(bench.database)
        self._model: Model = bench.run(self._scene.begin())
        self._tokens: list[Token] = []

    def _agree(self, operation: Operation) -> None:
        self._bench.run(self._scene.agree(self._model, operation))

    def _token(self, number: int, live: bool) -> Token | None:
        jobs = self._model.jobs
        leased = [Token(at, job.fence) for at, job in enumerate(jobs) if job.state == "running"]
        among = leased if live else self._tokens
        return among[number % len(among)] if among else None

    def _with_token(self, number: int, live: bool, make: Callable[[Token], Operation]) -> None:
        token = self._token(number, live)
        if token is not None:
            self._agree(make(token))

    @rule(
        account=accounts,
        chain=st.sampled_from(CHAINS),
        key=st.sampled_from((None, None, "a", "b")),
        body=st.integers(0, 1),
        price=st.sampled_from((PRICE, PRICE, 250)),
        late=st.integers(0, 3),
        due=st.integers(0, 3),
        webhook=st.booleans(),
    )
    def submit(
        self, account: int, chain: tuple[str, ...], key: str | None, body: int, price: int, late: int, due: int,
        webhook: bool,
    ) -> None:  # fmt: skip
        self._agree(Submit(account, chain, key, body, price, late == 0, due == 0, webhook))

    @rule(pool=st.sampled_from(POOLS), most=st.integers(1, 3), number=numbers)
    def claim(self, pool: str, most: int, number: int) -> None:
        self._agree(Claim(pool, most, number % len(self._model.sessions)))
        self._tokens += [
            Token(at, job.fence)
            for at, job in enumerate(self._model.jobs)
            if job.state == "running" and Token(at, job.fence) not in self._tokens
        ]

    @rule(pool=st.sampled_from(POOLS), number=numbers)
    def claim_many(self, pool: str, number: int) -> None:
        self.claim(pool, 3, number)

    @rule(number=numbers, live=st.booleans(), state=st.sampled_from(("succeeded", "succeeded", "failed", "cancelled")))
    def settle(self, number: int, live: bool, state: str) -> None:
        self._with_token(number, live, lambda token: Settle(token, state))

    @rule(number=numbers, live=st.integers(0, 3))
    def segment_end(self, number: int, live: int) -> None:
        token = self._token(number, live > 0)
        if token is not None:
            job = self._model.jobs[token.job]
            if job.segment + 1 < len(job.chain):
                self._agree(SegmentEnd(token))

    @rule(number=numbers, live=st.integers(0, 3), counts=st.booleans(), begun=st.integers(0, 2))
    def hand_back(self, number: int, live: int, counts: bool, begun: int) -> None:
        self._with_token(number, live > 0, lambda token: HandBack(token, counts, counts or begun > 0))

    @rule(number=numbers, live=st.booleans(), what=st.sampled_from((StageBegin, ProgressMade, Permitted)))
    def note(self, number: int, live: bool, what: Callable[[Token], Operation]) -> None:
        self._with_token(number, live, what)

    @rule(number=numbers)
    def cancel(self, number: int) -> None:
        if self._model.jobs:
            self._agree(Cancel(number % len(self._model.jobs)))

    @rule(which=st.sampled_from((CancelDue, StartTimeout)))
    def sweep(self, which: Callable[[], Operation]) -> None:
        self._agree(which())

    @rule(number=numbers, what=st.sampled_from((Beat, Beat, Silence, Silence, Close)))
    def session(self, number: int, what: Any) -> None:
        self._agree(what(number % len(self._model.sessions)))
        if all(state == "ended" for state in self._model.sessions):
            self._agree(Opened())

    @rule()
    def open_session(self) -> None:
        if sum(state != "ended" for state in self._model.sessions) < MOST_SESSIONS:
            self._agree(Opened())

    @rule(pool=st.sampled_from(POOLS), slots=st.integers(0, 3), paused=st.integers(0, 2))
    def scale(self, pool: str, slots: int, paused: int) -> None:
        self._agree(Slots(pool, slots, paused == 0))

    @rule(account=accounts, amount=st.sampled_from((50, 1000)), number=numbers, back=st.booleans())
    def money(self, account: int, amount: int, number: int, back: bool) -> None:
        # One number, one movement: another under the same business id is refused, and not the model's business.
        number = ((number % 4) * 3 + account) * 4 + (amount == 50) * 2 + back
        self._agree((Chargeback if back else Topup)(account, amount, number))

    @invariant()
    def nobody_holds_more_than_there_is(self) -> None:
        for pool in POOLS:
            leased = sum(job.place == "leased" and job.pool == pool for job in self._model.jobs)
            assert leased <= 4

    def teardown(self) -> None:
        """Nothing that came before may keep a job from its end."""
        self._bench.run(self._scene.drain(self._model))


def explore(bench: Bench, examples: int, *, chosen: bool = True) -> None:
    """Try that many lines of operations: `chosen` ones, the same in each run, or any.

    Raises:
        Wrong: the database does not do what the model says.
    """
    profile = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        derandomize=chosen,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        # To make a line that fails short takes minutes, as each try is a database's work.
        phases=(Phase.generate,) if chosen else (Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(lambda: Machine(bench), settings=profile)  # type: ignore[arg-type]
