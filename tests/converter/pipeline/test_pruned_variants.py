"""`--allow prune`: pruned variants are made, told, chosen, written and repeated like the others."""

import dataclasses
import importlib
import json
import sys
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx, nn

from aslconvert.converter.errors import InfrastructureError, UsageError
from aslconvert.converter.heal.pool import build_pool
from aslconvert.converter.ir.graph import copy_graph, graph_module
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline import convert, pruned
from aslconvert.converter.pipeline.plan_file import identity_of, plan_bytes
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.pruned import SHARES, cut, pruned_plans
from aslconvert.converter.pipeline.state import State
from aslconvert.converter.pipeline.subject import Subject, open_subject
from aslconvert.converter.pipeline.survey import Survey
from aslconvert.converter.pipeline.variants import Made, Workshop
from aslconvert.converter.progress import SilentProgress
from aslconvert.converter.prune.channels import REASONS
from aslconvert.converter.report.schema import Report

pytestmark = pytest.mark.long

OPTIONS = ConvertOptions(
    threads=1, max_drop=9.0, artifacts=("portable", "fast", "onnx", "weights", "code"), allow=("prune",)
)
AGAIN = ("portable", "onnx")
ROWS = {"0": 16, "2": 48}


@pytest.fixture(scope="module")
def subject(workshop: Path) -> Subject:
    return open_subject(str(workshop / "net.pt2"), data=str(workshop / "data.npz"), options=OPTIONS)


@pytest.fixture(scope="module")
def plans(subject: Subject) -> list[Planned]:
    kept: dict[str, int | None] = dict.fromkeys((site.name for site in subject.sites), None)
    return [
        Planned("x2.00", {**kept, **ROWS}, 2.0, 2.0),
        Planned("x3.00-pruned", {**kept, **ROWS}, 3.0, 3.0, prune=0.25),
        Planned("x2.00-pruned-only", kept, 2.0, 2.0, prune=0.5),
    ]


def plan_text(subject: Subject, plans: list[Planned], chosen: str) -> bytes:
    costs = {site.name: {None: 1.0, **({ROWS[site.name]: 0.4} if site.name in ROWS else {})} for site in subject.sites}
    found = Survey(costs=costs, kept={}, damage={name: {count: 0.1} for name, count in ROWS.items()}, importance={})
    made = [Made(planned, subject.gm, {}, 0.0, 3, 0.0, 0.0) for planned in plans]
    return plan_bytes(made, found, chosen=chosen, packed=False, identity=identity_of(subject, OPTIONS))


@pytest.fixture(scope="module")
def runs(
    quick: None, workshop: Path, subject: Subject, plans: list[Planned], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Report, Path, Report]:
    """Two conversions: by a plan of three variants, and by the plan that the first one wrote."""
    first, second, given = (tmp_path_factory.mktemp(name) for name in ("first", "second", "plan"))
    (given / "plan.json").write_bytes(plan_text(subject, plans, "x3.00-pruned"))

    def run(out: Path, plan: Path, artifacts: tuple[str, ...]) -> Report:
        options = dataclasses.replace(OPTIONS, plan=plan, artifacts=artifacts)
        return convert(str(workshop / "net.pt2"), data=str(workshop / "data.npz"), out=out, options=options)

    report = run(first, given / "plan.json", OPTIONS.artifacts)
    return first, report, second, run(second, first / "plan.json", AGAIN)


def test_the_report_says_what_was_pruned(runs: tuple[Path, Report, Path, Report]) -> None:
    _, report, _, _ = runs
    assert report.chosen == "x3.00-pruned"
    by_id = {variant.id: variant for variant in report.variants}
    assert set(by_id) == {"x2.00", "x3.00-pruned", "x2.00-pruned-only"}
    assert by_id["x2.00"].pruning is None
    both, only = by_id["x3.00-pruned"], by_id["x2.00-pruned-only"]
    assert both.pruning is not None
    assert only.pruning is not None
    # The first layer lost no input, the rows of the second none either: only what lost something is fitted again.
    for cut_, share, refitted in ((both.pruning, 0.25, 1), (only.pruning, 0.5, 2)):
        assert (cut_.share, cut_.importance) == (share, "output")
        assert {(group.layer, group.channels_before, group.channels_after, group.reason) for group in cut_.groups} == {
            ("0", 32, 32 - int(32 * share), ""),
            ("2", 48, 48 - int(48 * share), ""),
            ("4", 3, 3, "too_few_channels" if share < 1 / 3 else "feeds_output"),
        }
        assert all(group.message.startswith(REASONS[group.reason]) for group in cut_.groups if group.reason)
        assert cut_.params_after < cut_.params_before
        assert cut_.macs_after < cut_.macs_before
        # The refit is kept only where it helps; here it does.
        assert (cut_.refitted > 0) == (cut_.loss_refitted < cut_.loss)
        assert cut_.refitted == refitted
    assert both.params == both.pruning.params_after < by_id["x2.00"].params == both.pruning.params_before
    assert only.params == only.pruning.params_after < report.original.params == only.pruning.params_before
    # Rows are those that are left: a row goes with the channel that it reads, and channels that no row reads go first.
    assert both.plan["2"].rows is not None
    assert 24 <= both.plan["2"].rows <= ROWS["2"]
    assert {site.name: site.rows for site in report.sites if site.rows} == {
        name: choice.rows for name, choice in both.plan.items() if choice.rows
    }
    assert all(site.latency_after_ms is None for site in report.sites if site.rows)
    assert all(choice.action == "keep" for choice in only.plan.values())
    assert all(0 < variant.agreement.relative_l2 < 1 for variant in report.variants)
    assert report.variants_left_out == {}


def test_the_artifacts_of_a_pruned_variant_reload_and_are_smaller(runs: tuple[Path, Report, Path, Report]) -> None:
    first, report, _, _ = runs
    assert not report.artifacts_left_out
    assert {artifact.kind for artifact in report.artifacts} == set(OPTIONS.artifacts)
    assert all(artifact.reloaded for artifact in report.artifacts)
    chosen = report.chosen_variant
    assert chosen is not None
    program = torch.export.load(first / "portable.pt2")
    assert program.state_dict["2.bias"].shape == (36,)
    assert program.module()(torch.randn(5, 3, 48, 48)).shape == (5, 3, 48, 48)
    page = (first / "report.html").read_text()
    assert "20 of 80 channels pruned in 2 of 3 groups" in page
    assert "x2.00-pruned-only" in page


def test_a_plan_with_pruned_variants_gives_the_same_bytes_again(runs: tuple[Path, Report, Path, Report]) -> None:
    first, report, second, again = runs
    hashes = {artifact.path: artifact.sha256 for artifact in report.artifacts if artifact.kind in AGAIN}
    assert {artifact.path: artifact.sha256 for artifact in again.artifacts} == hashes
    assert len(hashes) == len(AGAIN)
    for name in ("plan.json", "check.safetensors", *hashes):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert {plan["id"]: plan["prune"] for plan in json.loads((first / "plan.json").read_text())["plans"]} == {
        "x2.00": 0.0,
        "x3.00-pruned": 0.25,
        "x2.00-pruned-only": 0.5,
    }


def test_a_plan_of_other_kinds_of_variants_is_refused(
    workshop: Path, subject: Subject, plans: list[Planned], tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(plan_text(subject, plans, "x2.00"))
    with pytest.raises(UsageError) as caught:
        convert(
            str(workshop / "net.pt2"),
            data=str(workshop / "data.npz"),
            out=tmp_path / "out",
            options=dataclasses.replace(OPTIONS, plan=path, allow=()),
        )
    assert caught.value.code == "plan_mismatch"


def make_shop(subject: Subject, folder: Path, *, resume: bool) -> Workshop:
    batches = subject.calibration(OPTIONS)[:1]
    pool = build_pool(subject.gm, batches[0])
    state = State(folder, fingerprint="", resume=resume)
    options = dataclasses.replace(OPTIONS, heal_steps=2)
    return Workshop(subject, batches, pool, state, options, deadline=0.0, progress=SilentProgress())


def test_a_continued_run_takes_the_cut_from_where_it_was(
    subject: Subject, plans: list[Planned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_shop(subject, tmp_path, resume=False).make_all(plans, {})
    monkeypatch.setattr(pruned, "refit", lambda *_: pytest.fail("the refit was stored"))
    for path in (tmp_path / ".state").glob("*.heal.pt"):
        path.unlink()
    again = make_shop(subject, tmp_path, resume=True).make_all(plans, {})
    assert [made.planned.id for made in again] == [made.planned.id for made in first]
    for one, other in zip(first, again, strict=True):
        assert (one.cut is None) == (other.cut is None) == (not one.planned.prune)
        assert one.cut is None or (one.cut.refitted, one.cut.loss) == (other.cut.refitted, other.cut.loss)
        values = other.gm.state_dict()
        assert all(torch.equal(value, values[key]) for key, value in one.gm.state_dict().items())


def test_a_run_is_continued_only_with_the_same_kinds_of_variants(workshop: Path, tmp_path: Path) -> None:
    module = importlib.import_module("aslconvert.converter.pipeline.convert")

    def fingerprint(**changes: Any) -> str:
        options = dataclasses.replace(OPTIONS, **changes)
        where = {"data": str(workshop / "data.npz"), "out": tmp_path / "out", "progress": SilentProgress()}
        found: str = module._Conversion(str(workshop / "net.pt2"), options=options, **where)._fingerprint()
        return found

    assert fingerprint() == fingerprint(resume=True, budget_seconds=5.0)
    assert fingerprint() != fingerprint(allow=())


class Stopwatch:
    """Takes a network for as fast as its multiply-adds are few: plans then follow from sizes alone."""

    def __init__(self, subject: Subject) -> None:
        self.whole = self.params(subject.gm)
        self.lowered: list[tuple[str, ...]] = []

    @staticmethod
    def params(gm: fx.GraphModule) -> float:
        return float(sum(parameter.numel() for parameter in gm.parameters()))

    def speedup_of(self, gm: fx.GraphModule, runtime: str, *, rounds: int, lowered: Collection[str]) -> float:
        self.lowered.append(tuple(lowered))
        return self.whole / self.params(gm)


def test_pruned_rivals_aim_at_the_speed_of_the_plans(
    subject: Subject, plans: list[Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The quick runs of this module try one only.
    monkeypatch.setattr(pruned, "TRIALS", 3)
    watch: Any = Stopwatch(subject)
    base = dataclasses.replace(plans[0], id="x1.50", target=1.5, expected=6.0)
    fast = dataclasses.replace(plans[0], id="x7.00", target=7.0, expected=7.0)
    options = dataclasses.replace(OPTIONS, max_drop=None, min_speedup=1.5)
    found, left_out = pruned_plans(subject, [base, fast], watch, options, runtime="torch", progress=SilentProgress())
    assert [planned.id for planned in found] == ["x1.50-pruned-only", "x7.00-pruned"]
    assert left_out == {}
    only, both = found
    assert only.prune in SHARES
    assert both.prune in SHARES
    assert set(only.plan.values()) == {None}
    assert both.plan == base.plan
    assert (only.target, both.target) == (1.5, 7.0)
    assert only.expected >= 1.5
    # What has no shifts may be at its best where the original is.
    assert set(watch.lowered) == {("torch",), ()}


def test_a_wish_beyond_all_plans_is_pruned_for(
    subject: Subject, plans: list[Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruned, "TRIALS", 3)
    watch: Any = Stopwatch(subject)
    base = dataclasses.replace(plans[0], target=2.0, expected=2.0)
    asked = dataclasses.replace(OPTIONS, max_drop=None, min_speedup=3.0)
    found, left_out = pruned_plans(subject, [base], watch, asked, runtime="torch", progress=SilentProgress())
    assert [planned.id for planned in found] == ["x2.00-pruned-only", "x3.00-pruned", "x3.00-pruned-only"]
    assert [planned.plan == base.plan for planned in found] == [False, True, False]
    assert left_out == {}
    # Where the loss is what is asked for, no speed-up is: the next one and the last one are tried.
    found, left_out = pruned_plans(subject, [base], watch, OPTIONS, runtime="torch", progress=SilentProgress())
    assert {planned.target for planned in found} | {float(name[1:5]) for name in left_out} == {2.0, 2.5, 4.0}
    found, _ = pruned_plans(subject, [base], watch, OPTIONS, runtime="torch", progress=SilentProgress(), aims=[3.0])
    assert [planned.target for planned in found] == [2.0, 3.0, 3.0]


def test_what_comes_out_as_the_same_network_is_made_once(
    subject: Subject, plans: list[Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The quick runs of this module try one only.
    monkeypatch.setattr(pruned, "TRIALS", 3)

    class Coarse(Stopwatch):
        """No faster before half of everything is gone, and then at once."""

        def speedup_of(self, gm: fx.GraphModule, runtime: str, *, rounds: int, lowered: Collection[str]) -> float:
            return 3.5 if super().speedup_of(gm, runtime, rounds=rounds, lowered=lowered) > 2.5 else 1.0

    watch: Any = Coarse(subject)
    base = dataclasses.replace(plans[0], target=2.0, expected=2.0)
    options = dataclasses.replace(OPTIONS, max_drop=None, min_speedup=3.0)
    found, left_out = pruned_plans(subject, [base], watch, options, runtime="torch", progress=SilentProgress())
    assert not [name for name in left_out if name.endswith("-only")]
    merely = [planned for planned in found if planned.id.endswith("-only")]
    assert [planned.target for planned in merely] == [3.0]


def test_what_does_not_get_faster_or_cannot_be_cut_is_told(
    subject: Subject, plans: list[Planned], tmp_path: Path
) -> None:
    watch: Any = Stopwatch(subject)
    watch.whole *= 0.1
    found, left_out = pruned_plans(subject, plans[:1], watch, OPTIONS, runtime="torch", progress=SilentProgress())
    assert found == []
    assert "x2.00-pruned-only" in left_out
    assert all("times as fast" in reason for reason in left_out.values())

    class Mixed(nn.Module):
        """Its only channels are shuffled: none of them can go."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.last(self.first(x).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2))
            return y

    x = torch.zeros(2, 3, 48, 48)
    program = torch.export.export(Mixed().eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    gm = graph_module(program)
    mixed: Any = SimpleNamespace(gm=gm, example=(x[:1],), sites=subject.sites[:2], fixed_batch=None)
    found, left_out = pruned_plans(mixed, [], watch, OPTIONS, runtime="torch", progress=SilentProgress())
    assert found == []
    assert all("No channel of the model can be pruned" in reason for reason in left_out.values())
    assert len(left_out) == 3

    shop = make_shop(subject, tmp_path, resume=False)
    # A share of a group too small to be a channel: the stand-in could lose one, this one cannot.
    tiny = dataclasses.replace(plans[2], prune=0.001)
    made = shop.make_all([plans[0], tiny], {})
    assert [variant.planned.id for variant in made] == ["x2.00"]
    assert "less than one channel" in shop.left_out[tiny.id]


def test_a_refit_that_does_not_help_is_not_kept(
    subject: Subject, plans: list[Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = subject.calibration(OPTIONS)[:1]
    pool = build_pool(subject.gm, batches[0])

    def worse(gm: fx.GraphModule, *_: Any) -> tuple[fx.GraphModule, int]:
        bad = copy_graph(gm)
        with torch.no_grad():
            for parameter in bad.parameters():
                parameter.mul_(3.0)
        return bad, 3

    good = cut(subject.gm, subject, batches, pool, share=0.25, seed=0)
    monkeypatch.setattr(pruned, "refit", worse)
    kept = cut(subject.gm, subject, batches, pool, share=0.25, seed=0)
    assert good.refitted == 2
    assert kept.refitted == 0
    assert kept.loss == good.loss < kept.loss_refitted


def test_without_torch_pruning_it_is_told_at_once(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(InfrastructureError) as caught:
        convert(str(workshop / "net.pt2"), data=str(workshop / "data.npz"), out=tmp_path / "out", options=OPTIONS)
    assert caught.value.code == "torch_pruning_missing"
    assert not (tmp_path / "out").exists()
