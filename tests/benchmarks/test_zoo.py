"""The zoo's own harness on its smallest architectures, and that it sees what it is there to see."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from aslconvert.converter.errors import InternalError
from aslconvert.converter.fit.rows import Block

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def zoo() -> Iterator[dict[str, ModuleType]]:
    """The package's modules, as `python -m zoo` finds them."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: importlib.import_module(f"zoo.{name}") for name in ("check", "nets", "own", "sane", "table")}
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in [name for name in sys.modules if name.partition(".")[0] == "zoo"]:
            del sys.modules[name]


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.norm(self.first(x))))


def _tiny(zoo: dict[str, ModuleType]) -> object:
    return zoo["nets"].Net("tiny", "here", TwoLayers, (2, 3, 12, 12))


def test_a_whole_run_ends_ok_and_makes_the_page(zoo: dict[str, ModuleType], tmp_path: Path) -> None:
    outcome = zoo["check"].check_net(_tiny(zoo), tmp_path / "tiny", kinds=("portable",))
    assert (outcome.status, outcome.reason) == ("ok", "")
    assert (outcome.sites, outcome.converted, set(outcome.artifacts)) == (2, 2, {"portable"})
    assert outcome.exactness <= zoo["check"].EXACT
    assert outcome.exactness_float64 <= zoo["check"].EXACT_DOUBLE
    # Two convolutions round at 2^-24 a few times.
    assert 0 < outcome.rounding < 1e-6
    assert outcome.dynamic["x"].keys() == {"0", "2", "3"}
    assert not list(tmp_path.iterdir())
    record = {"models": [zoo["check"].as_record(outcome)], "torch": "x", "seconds": 1.0}
    page = zoo["table"].page(record, defined=["tiny", "other"], **zoo["check"].LIMITS)
    assert "**Not yet run**: other." in page
    assert "1 architectures: 1 ok, 0 refused, 0 failed" in page
    assert "| tiny | here | ok | 2 | 2 |" in page


def test_nothing_to_convert_is_refused_with_its_codes(zoo: dict[str, ModuleType], tmp_path: Path) -> None:
    outcome = zoo["check"].check_net(zoo["nets"].NETS["pointwise"], tmp_path / "x")
    assert (outcome.status, outcome.converted) == ("refused", 0)
    assert outcome.reason == "nothing_to_convert: 2 pointwise"


def test_a_missing_package_is_said(zoo: dict[str, ModuleType], tmp_path: Path) -> None:
    def build() -> nn.Module:
        raise zoo["nets"].Missing("frobnicate is not installed")

    outcome = zoo["check"].check_net(zoo["nets"].Net("x", "frobnicate", build, (2, 3, 8, 8)), tmp_path / "x")
    assert (outcome.status, outcome.reason) == ("refused", "not_installed: frobnicate is not installed")


def test_a_wrong_rewrite_is_seen(zoo: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = zoo["check"]
    right = check.exact_block

    def wrong(*args: object) -> Block:
        block: Block = right(*args)
        return replace(block, weight=block.weight * (1 + 1e-4))

    monkeypatch.setattr(check, "exact_block", wrong)
    outcome = check.check_net(_tiny(zoo), tmp_path / "x")
    assert outcome.status == "failed"
    assert outcome.reason.startswith("inexact: ")


def test_a_lost_site_and_a_failing_engine_are_seen(
    zoo: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = zoo["check"]
    found = check.find_sites
    monkeypatch.setattr(check, "find_sites", lambda gm: (found(gm)[0][:1], []))
    outcome = check.check_net(_tiny(zoo), tmp_path / "x")
    assert (outcome.status, outcome.reason) == ("failed", "site_lost: no line on second (1 of 2)")

    def breaks(_: object) -> None:
        raise InternalError("bad_graph", "broken")

    monkeypatch.setattr(check, "prepare", breaks)
    assert check.check_net(_tiny(zoo), tmp_path / "x").reason == "bad_graph: broken"


def test_a_network_that_takes_too_long_is_ended(zoo: dict[str, ModuleType], tmp_path: Path) -> None:
    def build() -> nn.Module:
        while True:
            torch.ones(1000).sum()

    net = replace(_tiny(zoo), build=build)
    outcome = zoo["check"].check_net(net, tmp_path / "x", limit_s=0.05)
    assert (outcome.status, outcome.reason) == ("failed", "time_limit: took more than 0.05 s of the processor")


def test_images_are_smooth_and_statistics_are_not_trivial(zoo: dict[str, ModuleType]) -> None:
    images = zoo["sane"].smooth_images((4, 3, 32, 32), seed=0)
    neighbours = (images[..., 1:] - images[..., :-1]).std() / images.std()
    assert neighbours < 0.5  # white noise has 1.41
    model = zoo["sane"].make_sane(TwoLayers(), images)
    assert not model.training
    assert float(model.norm.running_mean.abs().min()) > 0
    with torch.no_grad():
        own = model.first(images)
    assert not torch.allclose(model.norm.running_mean, own.mean((0, 2, 3)), atol=1e-3)
    ratio = model.norm.running_var / own.var((0, 2, 3))
    assert float(ratio.min()) > 0.6
    assert float(ratio.max()) < 1.5


def test_a_sibling_does_not_vouch_for_a_lost_site(zoo: dict[str, ModuleType]) -> None:
    named, not_met = zoo["check"]._all_named, zoo["check"].NotMet
    named({"conv", "conv_2"}, ["conv@conv2d_1", "conv_2"])
    with pytest.raises(not_met, match="no line on conv "):
        named({"conv", "conv_2"}, ["conv_2"])


def test_numbers_that_are_none_are_no_match(zoo: dict[str, ModuleType]) -> None:
    for pair in ((torch.full((2,), float("nan")), torch.ones(2)), (torch.ones(2), torch.full((2,), float("nan")))):
        with pytest.raises(zoo["check"].NotMet):
            zoo["check"].difference(*pair)
