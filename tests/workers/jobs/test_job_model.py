"""Any order of calls against a model that is a dictionary: states, tokens, outbox, events and errors agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clocks import SetClock
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from aslconvert.workers.database import Database
from aslconvert.workers.errors import IllegalTransition, JobActive, LeaseLost, problem
from aslconvert.workers.jobs import FINISHED, HELD, Claim, JobStore, Kind, NewJob, Queue, State

BROKEN = problem("disk_full", "No space.", kind="infrastructure")
LEASE = 30.0


@dataclass
class Model:
    """What the store should know of a job."""

    number: int
    priority: int
    max_attempts: int
    state: State = State.QUEUED
    attempts: int = 0
    token: int = 0
    expiry: float = 0.0
    ready_at: float = 0.0
    events: list[str] = field(default_factory=lambda: ["queued"])
    outcomes: list[str | None] = field(default_factory=list)

    def end(self, state: State, outcome: str, event: str | None = None) -> None:
        self.state = state
        self.events.append(event or state)
        self.outcomes[-1] = outcome


class Machine(RuleBasedStateMachine):
    """One store, one clock, and claims that may be out of force."""

    url: str
    claims: Bundle[Any] = Bundle("claims")
    names: Bundle[Any] = Bundle("names")

    @initialize(target=names)
    def begin(self) -> Any:
        self.clock = SetClock()
        self.database = Database(self.url, clock=self.clock)
        self.store = JobStore(self.database)
        self.database.write(lambda at: at.connection.exec_driver_sql("DELETE FROM jobs"))
        self.model: dict[str, Model] = {}
        self.submitted = 0
        # Not left to chance: without several jobs at the start most runs say little.
        return multiple(*(self.submit_one(priority, attempts) for priority, attempts in ((1, 3), (0, 1), (0, 2))))

    def teardown(self) -> None:
        self.database.close()

    @rule(target=names, priority=st.integers(-1, 1), attempts=st.integers(1, 3))
    def submit(self, priority: int, attempts: int) -> str:
        return self.submit_one(priority, attempts)

    def submit_one(self, priority: int, attempts: int) -> str:
        job = self.store.submit(
            NewJob(
                tenant="t",
                kind=Kind.CONVERT,
                queue=Queue.CPU,
                payload={},
                priority=priority,
                max_attempts=attempts,
            )
        )
        self.submitted += 1
        self.model[job.id] = Model(self.submitted, priority, attempts)
        return job.id

    @rule(target=claims)
    def claim(self) -> Any:
        claim = self.store.claim([Queue.CPU], worker="w", lease_seconds=LEASE)
        ready = [(job.priority, job.number, name) for name, job in self.model.items() if self.ready(job)]
        assert (claim and claim.job_id) == (min(ready)[2] if ready else None)
        return self.took(claim)

    @rule(target=claims, name=names)
    def claim_id(self, name: str) -> Any:
        claim = self.store.claim_id(name, worker="w", lease_seconds=LEASE)
        known = self.model.get(name)
        assert (claim is not None) == (known is not None and self.ready(known))
        return self.took(claim)

    def ready(self, job: Model) -> bool:
        return job.state is State.QUEUED and job.ready_at <= self.clock.shared

    def took(self, claim: Claim | None) -> Any:
        if claim is None:
            return multiple()
        job = self.model[claim.job_id]
        job.state, job.expiry = State.RUNNING, self.clock.shared + LEASE
        job.attempts += 1
        job.token += 1
        job.events.append("running")
        job.outcomes.append(None)
        assert (claim.token, claim.job.attempts_made) == (job.token, job.attempts)
        return claim

    def held(self, claim: Claim) -> Model | None:
        job = self.model.get(claim.job_id)
        return job if job is not None and job.state in HELD and job.token == claim.token else None

    def write(self, claim: Claim, call: Callable[[], object]) -> Model | None:
        """Make a worker's call, which must fail exactly if the claim is not in force."""
        job = self.held(claim)
        try:
            call()
        except LeaseLost:
            assert job is None
        else:
            assert job is not None
        return job

    @rule(claim=claims)
    def heartbeat(self, claim: Claim) -> None:
        told: list[bool] = []
        if job := self.write(claim, lambda: told.append(self.store.heartbeat(claim))):
            assert told == [job.state is State.CANCELLING]
            job.expiry = self.clock.shared + LEASE

    @rule(claim=claims)
    def report(self, claim: Claim) -> None:
        if job := self.write(claim, lambda: self.store.report(claim, stage="fit", events=[("loss", {})])):
            job.events += ["stage", "loss"]

    @rule(claim=claims, well=st.booleans())
    def finish(self, claim: Claim, well: bool) -> None:
        after = State.SUCCEEDED if well else State.FAILED
        known = self.model.get(claim.job_id)
        if known is not None and known.outcomes[claim.token - 1] == after and known.token == claim.token:
            self.end(claim, after)  # again: without effect and without error
        elif job := self.write(claim, lambda: self.end(claim, after)):
            job.end(after, after)

    def end(self, claim: Claim, after: State) -> None:
        if after is State.SUCCEEDED:
            self.store.succeed(claim, {})
        else:
            self.store.fail(claim, BROKEN)

    @rule(claim=consumes(claims))
    def cancelled(self, claim: Claim) -> None:
        job = self.held(claim)
        try:
            self.store.cancelled(claim)
        except IllegalTransition:
            assert job is not None
            assert job.state is State.RUNNING
        except LeaseLost:
            assert job is None
        else:
            assert job is not None
            assert job.state is State.CANCELLING
            job.end(State.CANCELLED, State.CANCELLED)

    @rule(claim=claims)
    def give_back(self, claim: Claim) -> None:
        if job := self.write(claim, lambda: self.store.give_back(claim)):
            job.attempts -= 1
            if job.state is State.CANCELLING:
                job.end(State.CANCELLED, "given_back")
            else:
                job.end(State.QUEUED, "given_back", "requeued")

    @rule(target=claims, claim=claims)
    def hand_over(self, claim: Claim) -> Any:
        """Two claims of one job, of which one is in force; by chance alone they would be rare."""
        if (job := self.held(claim)) is None or job.state is not State.RUNNING:
            return multiple()
        self.give_back(claim)
        return self.took(self.store.claim_id(claim.job_id, worker="w", lease_seconds=LEASE))

    @rule(claim=claims, delay=st.sampled_from([0.0, 20.0]))
    def retry_later(self, claim: Claim, delay: float) -> None:
        if job := self.write(claim, lambda: self.store.retry_later(claim, BROKEN, delay=delay)):
            if job.state is State.CANCELLING:
                job.end(State.CANCELLED, "retried")
            elif job.attempts >= job.max_attempts:
                job.end(State.FAILED, "retried")
            else:
                job.end(State.QUEUED, "retried", "requeued")
                job.ready_at = self.clock.shared + delay

    @rule(name=names)
    def request_cancel(self, name: str) -> None:
        job = self.model.get(name)
        if job is None:
            return
        if job.state is State.QUEUED:
            job.state = State.CANCELLED
            job.events.append(State.CANCELLED)
        elif job.state is State.RUNNING:
            job.state = State.CANCELLING
            job.events.append(State.CANCELLING)
        assert self.store.request_cancel(name).state is job.state

    @rule(name=names)
    def delete(self, name: str) -> None:
        job = self.model.get(name)
        if job is None:
            return
        try:
            self.store.delete(name)
        except JobActive:
            assert job.state not in FINISHED
        else:
            assert job.state in FINISHED
            del self.model[name]

    @rule(seconds=st.sampled_from([1.0, 15.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.clock.wait(seconds)

    @rule()
    def reap(self) -> None:
        reaped = {one.job_id: one.state for one in self.store.reap()}
        expected: dict[str, State] = {}
        for name, job in self.model.items():
            if job.state in HELD and job.expiry <= self.clock.shared:
                if job.state is State.CANCELLING:
                    job.end(State.CANCELLED, "lost")
                elif job.attempts >= job.max_attempts:
                    job.end(State.FAILED, "lost")
                else:
                    job.end(State.QUEUED, "lost", "requeued")
                expected[name] = job.state
        assert reaped == expected
        # Who waits for a later try is announced when its time has come, which is what a reap looks after.
        announced = {name for name, _ in self.store.unsent()}
        assert announced == {name for name, job in self.model.items() if self.ready(job)}

    @invariant()
    def agrees(self) -> None:
        assert {job.id for job in self.store.page(limit=100).jobs} == set(self.model)
        for name, expected in self.model.items():
            job = self.store.job(name)
            assert (job.state, job.attempts_made) == (expected.state, expected.attempts)
            events = self.store.events_after(name)
            assert [event.type for event in events] == expected.events
            assert [event.number for event in events] == list(range(1, job.event_count + 1))
            assert [attempt.outcome for attempt in self.store.attempts(name)] == expected.outcomes


def test_the_store_does_what_the_model_does(url: str) -> None:
    machine = type("OnThisDatabase", (Machine,), {"url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25 if url.startswith("sqlite") else 6,  # a server takes ten times as long for a call
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
