"""Any operation after any other, in one long line: hypothesis chooses, the model says what must come of it."""

from __future__ import annotations

import os
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
    """One scene with some work under way, one operation at a time.

    Few rules with many operations each: hypothesis leaves out some rules in each line, and without callers or workers there
    is little to see.
    """

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench
        bench.tried += 1
        self._scene = Scene(bench.database)
        self._model: Model = bench.run(self._scene.begin())
        self._tokens: list[Token] = []
        bench.run(self._scene.prepare(self._model, Opened(), *(Submit(0, chain) for chain in CHAINS[1:])))
        for _ in range(2):
            self._agree(Submit(2))
            self._agree(Submit(1))
            self._claim("gpu", 1, 0)
            self._claim("cpu", 1, 1)

    def _agree(self, operation: Operation) -> None:
        self._bench.run(self._scene.agree(self._model, operation))

    def _claim(self, pool: str, most: int, number: int) -> None:
        self._agree(Claim(pool, most, number % len(self._model.sessions)))
        self._tokens += [token for token in self._leased() if token not in self._tokens]

    def _leased(self) -> list[Token]:
        return [Token(number, job.fence) for number, job in enumerate(self._model.jobs) if job.state == "running"]

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

    @rule(
        what=st.sampled_from((Claim, Claim, Claim, Settle, Settle, SegmentEnd, HandBack, HandBack, Cancel, StageBegin)),
        number=numbers,
        live=st.booleans(),
        pool=st.sampled_from(POOLS),
        state=st.sampled_from(("succeeded", "succeeded", "failed", "cancelled")),
        counts=st.booleans(),
        begun=st.booleans(),
        last=st.sampled_from((False, False, False, True)),
        note=st.sampled_from((StageBegin, ProgressMade, Permitted)),
    )
    def work(
        self,
        what: Any,
        number: int,
        live: bool,
        pool: str,
        state: str,
        counts: bool,
        begun: bool,
        last: bool,
        note: Any,
    ) -> None:
        among = self._leased() if live else self._tokens
        if what is Claim:
            self._claim(pool, 1 + number % 3, number)
            return
        if not among:
            return
        token = among[number % len(among)]
        job = self._model.jobs[token.job]
        if what is Settle:
            self._agree(Settle(token, state))
        elif what is HandBack:
            self._agree(HandBack(token, counts, counts or begun, last))
        elif what is Cancel:
            self._agree(Cancel(token.job if live else number % len(self._model.jobs)))
        elif what is StageBegin:
            self._agree(note(token))
        elif job.segment + 1 < len(job.chain):
            self._agree(SegmentEnd(token))

    @rule(
        number=numbers,
        state=st.sampled_from(("succeeded", "failed", "cancelled")),
        again=st.booleans(),
        back=st.booleans(),
    )
    def come_too_late(self, number: int, state: str, again: bool, back: bool) -> None:
        """A worker goes on after its job was given to another, or cancelled."""
        leased = self._leased()
        if not leased:
            return
        token = leased[number % len(leased)]
        if again:
            self._agree(HandBack(token, False))
            self._claim(self._model.jobs[token.job].pool, 3, number)
        else:
            self._agree(Cancel(token.job))
        self._agree(ProgressMade(token))
        self._agree(HandBack(token, True) if back else Settle(token, state))

    @rule(what=st.sampled_from((Beat, Silence, Close, Opened, CancelDue, StartTimeout)), number=numbers)
    def watch(self, what: Any, number: int) -> None:
        live = sum(state != "ended" for state in self._model.sessions)
        if what in (CancelDue, StartTimeout):
            self._agree(what())
        elif what is Opened or not live:
            if live < MOST_SESSIONS:
                self._agree(Opened())
        else:
            self._agree(what(number % len(self._model.sessions)))

    @rule(number=numbers)
    def die_and_be_found(self, number: int) -> None:
        dead = number % len(self._model.sessions)
        self._agree(Silence(dead))
        for token in self._leased():
            self._agree(Permitted(token))
        self._agree(Opened())
        self._agree(Beat(len(self._model.sessions) - 1))

    @rule(
        what=st.sampled_from((Slots, Slots, Topup, Chargeback)),
        account=accounts,
        number=numbers,
        pool=st.sampled_from(POOLS),
        slots=st.integers(0, 3),
        paused=st.booleans(),
    )
    def manage(self, what: Any, account: int, number: int, pool: str, slots: int, paused: bool) -> None:
        if what is Slots:
            self._agree(Slots(pool, slots, paused))
            self._claim(pool, 3, number)
            return
        # One number, one movement: another under the same business id is refused, and not the model's business.
        self._agree(what(account, 50 + 950 * (number % 2), (number % 8) * 6 + account * 2 + (what is Topup)))

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
