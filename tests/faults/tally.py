"""What a run of the soak is, and what happened in all of them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from aslconvert.workers.jobs import Job

JOBS = 3
STEPS = 60
PAUSE = 0.03
PATIENCE = 90.0


@dataclass(frozen=True)
class Hit:
    """The jobs of a run, and how those stood that were there ``begun`` (by `time.monotonic`), just before the fault."""

    jobs: Sequence[Job]
    before: Sequence[Job]
    states: Mapping[str, str | None]
    begun: float


@dataclass
class Tally:
    """What happened in all runs; ``recovery_s`` is the time from a fault to the next sign of a job that it hit."""

    runs: int = 0
    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    unusable_checkpoints: int = 0
    cancelled_late: int = 0
    faults: dict[str, int] = field(default_factory=Counter)
    recovery_s: list[float] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.duplicated or self.wrong or self.unusable_checkpoints or self.cancelled_late)

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        added = Tally(
            faults=Counter(self.faults) + Counter(other.faults), recovery_s=self.recovery_s + other.recovery_s
        )
        for name in ("runs", "lost", "duplicated", "wrong", "unusable_checkpoints", "cancelled_late"):
            setattr(added, name, getattr(self, name) + getattr(other, name))
        return added

    def to_json(self) -> dict[str, object]:
        """As soak.json has it."""
        times = sorted(self.recovery_s)
        spread = {}
        if times:
            spread = {
                "median": statistics.median(times),
                "p95": times[min(int(len(times) * 0.95), len(times) - 1)],
                "max": times[-1],
            }
        return {**asdict(self), "faults": dict(self.faults), "recovery_s": spread}
