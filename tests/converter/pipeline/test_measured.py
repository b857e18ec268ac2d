"""The report's intervals, doubts and notes follow from the samples it was measured with."""

from collections.abc import Sequence

import pytest

from aslconvert.converter.cost.device import DeviceProfile
from aslconvert.converter.cost.latency import Latency, summarise
from aslconvert.converter.cost.spread import drift_of
from aslconvert.converter.pipeline.measured import drift_notes, with_spread
from aslconvert.converter.pipeline.timing import latency_values
from aslconvert.converter.report.schema import Agreement, ModelInfo, Original, Report, Variant

WAVE = [1.0, 1.04, 0.97, 1.02, 0.98, 1.01, 0.99, 1.03, 0.96, 1.0, 1.02, 0.97, 1.01, 0.99, 1.0]


def timed(ms: float, factors: Sequence[float] = WAVE) -> dict[str, Latency]:
    return {"torch": summarise([ms * factor for factor in factors])}


def report(latency: dict[str, dict[str, Latency]], losses: dict[str, float], worse: set[str]) -> Report:
    base = latency["original"]["torch"].p50_ms
    variants = [
        Variant(
            id=name,
            plan={},
            metric=None,
            agreement=Agreement(relative_l2=loss, ci=(loss, loss)),
            latency=latency_values(latency[name]),
            speedup={runtime: base / value.p50_ms for runtime, value in latency[name].items()},
            params=1,
            macs=1,
            bytes=4,
            dominated=name in worse,
        )
        for name, loss in losses.items()
    ]
    return Report(
        created="2025-01-02T03:04:05Z",
        model=ModelInfo(name="net", source="net.pt2"),
        device=DeviceProfile("cpu", (), "", 1, 1, 1.0, "", {}, kernels_native=True),
        seeds={},
        versions={},
        original=Original(metric=None, latency=latency_values(latency["original"]), params=1, macs=1, bytes=4),
        sites=(),
        variants=tuple(variants),
        chosen=None,
        artifacts=(),
        timings={},
    )


def test_speed_ups_have_paired_intervals_and_what_they_do_not_support_is_said() -> None:
    latency = {"original": timed(10.0), "fast": timed(5.0), "alike": timed(9.9, WAVE[::-1]), "slow": timed(20.0)}
    made = with_spread(
        report(latency, {"fast": 0.1, "alike": 0.05, "slow": 0.01}, set()), latency, pinned=True, cached=3, notes=("n",)
    )
    fast, alike, slow = made.variants
    # Both rise and fall together, so that the ratio is known better than either figure.
    assert fast.speedup_ci["torch"] == pytest.approx((2.0, 2.0))
    assert (fast.verdict, alike.verdict, slow.verdict) == ("faster", "same", "slower")
    assert fast.doubts == slow.doubts == ()
    assert alike.doubts == ("against the original no difference that the spread supports",)
    assert (made.pinned, made.costs_cached, made.measurement_notes) == (True, 3, ("n",))
    assert Report.model_validate_json(made.to_json()) == made


def test_dominance_without_a_difference_in_speed_is_marked() -> None:
    latency = {"original": timed(10.0), "best": timed(5.0), "near": timed(5.02, WAVE[::-1]), "far": timed(8.0)}
    losses = {"best": 0.1, "near": 0.2, "far": 0.3}
    made = with_spread(report(latency, losses, {"near", "far"}), latency, pinned=False, cached=0, notes=())
    best, near, far = made.variants
    assert (best.dominated_in_speed, near.dominated_in_speed, far.dominated_in_speed) == (None, False, True)
    assert near.doubts == ("dominated, in speed with no difference that the spread supports",)
    assert far.doubts == ("dominated",)


def test_drift_is_told_for_people() -> None:
    slower = [factor * (1.0 if i < 8 else 1.4) for i, factor in enumerate(WAVE)]
    assert drift_notes({"original": timed(10.0), "x2": timed(5.0)}) == ()
    (common,) = drift_notes({"original": timed(10.0, slower), "x2": timed(5.0, slower)})
    assert "slower" in common
    drift = drift_of(slower)
    late = summarise([5.0 * factor for factor in slower])
    alone = Latency(late.p50_ms, late.p95_ms, late.ci_low, late.ci_high, late.samples, drift=drift)
    told = drift_notes({"original": timed(10.0), "a": timed(1.0), "b": timed(2.0), "x2": {"torch": alone}})
    assert any("x2 in torch (+4" in note for note in told)
