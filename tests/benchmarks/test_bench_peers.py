"""The comparison of compression methods: its decompositions, a short run of every method, its table and picture."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import math
import pickle
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from quick_measurements import quicken
from torch import Tensor, nn
from torch.nn import functional

from aslconvert.converter.errors import InfrastructureError, UsageError
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = (
    *("chart", "context", "methods", "run", "sites", "predictions", "table", "timing", "verdict", "__main__"),
    *("methods.chains", "methods.cp", "methods.fitted", "methods.ours", "methods.prune", "methods.separable"),
    *("methods.tucker", "tasks.segment", "tasks.sprites", "tasks.task", "tasks.train"),
)
TENSORLY = importlib.util.find_spec("tensorly") is not None
needs_tensorly = pytest.mark.skipif(not TENSORLY, reason="tensorly comes with `make bench-peers`")


@pytest.fixture(scope="module")
def peers() -> Iterator[dict[str, ModuleType]]:
    """The package's modules, as `python -m peers` finds them."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: importlib.import_module(f"peers.{name}") for name in NAMES}
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in [name for name in sys.modules if name.partition(".")[0] == "peers"]:
            del sys.modules[name]


class Small(nn.Module):
    """Two 3x3 convolutions, one of them of enough channels to be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(image)))
        x = torch.relu(self.second(x))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


@pytest.fixture(scope="module")
def small(peers: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A task of sixty random images, labelled by the network itself."""
    torch.manual_seed(0)
    net = Small().eval()
    image = torch.randn(60, 1, 32, 32)
    with torch.no_grad():
        label = net(image).argmax(1)
    data = tmp_path_factory.mktemp("small") / "small.npz"
    np.savez(data, image=image.numpy(), label=label.numpy(), split=np.arange(60) % 4)
    task = peers["tasks.task"].Task
    return task(name="small", metric="top1", net=net, example=(torch.zeros(2, 1, 32, 32),), data=data, fixed=("head",))


def _site(stride: int = 1, channels: tuple[int, int] = (8, 4)) -> tuple[Any, Any, nn.Conv2d]:
    torch.manual_seed(1)
    conv = nn.Conv2d(*channels, 3, stride=stride, padding=1)
    gm = graph_module(export_model(conv.eval(), (torch.zeros(2, channels[0], 10, 12),)))
    (site,), _ = find_sites(gm)
    return gm, site, conv


def _decompositions(peers: dict[str, ModuleType]) -> dict[str, Any]:
    """Each at the rank where nothing is lost."""
    found = {"separable": partial(peers["methods.separable"].separable, multiplier=9)}
    if TENSORLY:
        found["tucker"] = partial(peers["methods.tucker"].tucker, share=1.0)
        # 32 terms: one for each pair of an input and an output, whose filter it then is.
        found["cp"] = partial(peers["methods.cp"].cp, share=4.0, damping=0.0)
    return found


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["separable", *(pytest.param(n, marks=needs_tensorly) for n in ("tucker", "cp"))])
def test_of_full_rank_a_decomposition_is_the_convolution(peers: dict[str, ModuleType], name: str, stride: int) -> None:
    gm, site, conv = _site(stride)
    chains = peers["methods.chains"]
    chain = _decompositions(peers)[name](conv.weight.detach(), conv.bias.detach(), site)
    x = torch.randn(3, 8, 9, 13)
    with torch.no_grad():
        wanted = conv(x)
        assert (chains.run_chain(chain, x) - wanted).abs().max() < 1e-5
        rewritten = chains.with_chains(gm, {site.name: chain}, [site])
        assert (rewritten(x) - wanted).abs().max() < 1e-5
    assert not any(node.target == torch.ops.aten.conv2d.default and node.args[1].target == "weight"
                   for node in rewritten.graph.nodes)  # fmt: skip
    names = {name for name, _ in rewritten.named_parameters()}
    assert all(".stage" in name for name in names)
    assert len(names) == len(chain) + 1


@pytest.mark.parametrize("name", ["separable", *(pytest.param(n, marks=needs_tensorly) for n in ("tucker", "cp"))])
def test_the_fit_lowers_the_error_of_a_decomposition(peers: dict[str, ModuleType], name: str) -> None:
    gm, site, conv = _site(channels=(16, 16))
    how = {
        "separable": partial(peers["methods.separable"].separable, multiplier=2),
        "tucker": partial(peers["methods.tucker"].tucker, share=0.4),
        "cp": partial(peers["methods.cp"].cp, share=1.0),
    }[name]
    # Channels that have to do with each other, as those of a network.
    mix = torch.randn(16, 6)
    batches = [(torch.einsum("oc,nchw->nohw", mix, torch.randn(8, 6, 10, 12)).relu(),) for _ in range(4)]
    chains = peers["methods.chains"]
    plain = chains.run_chain(how(conv.weight.detach(), conv.bias.detach(), site), batches[0][0])
    fitted = peers["methods.fitted"].decomposed(gm, [site], batches[1:], how)
    with torch.no_grad():
        wanted = conv(batches[0][0])
        before, after = (plain - wanted).norm(), (fitted(batches[0][0]) - wanted).norm()
    assert after < 0.9 * before


def test_a_chain_that_saves_nothing_is_not_taken(peers: dict[str, ModuleType]) -> None:
    gm, site, conv = _site()
    how = partial(peers["methods.separable"].separable, multiplier=9)
    kept = peers["methods.fitted"].decomposed(gm, [site], [(torch.randn(4, 8, 10, 12),)], how)
    assert {name for name, _ in kept.named_parameters()} == {"weight", "bias"}
    chain = peers["methods.separable"].separable(conv.weight.detach(), None, site, multiplier=1)
    assert peers["methods.chains"].is_cheaper(chain, site)


def test_work_before_the_stage_that_steps_is_done_at_every_position(peers: dict[str, ModuleType]) -> None:
    chains = peers["methods.chains"]
    _, site, _ = _site(stride=2, channels=(8, 8))
    early = chains.Stage(torch.zeros(8, 8, 1, 1))
    step = chains.Stage(torch.zeros(8, 1, 3, 3), stride=(2, 2), padding=(1, 1), groups=8)
    # 4 * 64 + 72 + 64 against 576; of twice the rows 4 * 128 + 144 + 128.
    assert chains.is_cheaper((early, step, early), site)
    wide = (
        chains.Stage(torch.zeros(16, 8, 1, 1)),
        chains.Stage(torch.zeros(16, 1, 3, 3), stride=(2, 2), padding=(1, 1), groups=16),
        chains.Stage(torch.zeros(8, 16, 1, 1)),
    )
    assert not chains.is_cheaper(wide, site)


def test_random_students_keep_the_scale_and_nothing_of_the_weights(peers: dict[str, ModuleType]) -> None:
    net = Small().eval()
    gm = fold_batch_norm(graph_module(export_model(net, (torch.zeros(2, 1, 32, 32),))))
    before = {name: value.detach().clone() for name, value in gm.named_parameters()}
    batch = torch.randn(8, 1, 32, 32)
    peers["methods.ours"].randomise(gm, (batch,), seed=0)
    with torch.no_grad():
        assert abs(float(gm(batch).std()) - 1) < 1e-3
    for name, value in gm.named_parameters():
        if value.dim() > 1:
            close = functional.cosine_similarity(value.detach().flatten(), before[name].flatten(), dim=0)
            assert abs(float(close)) < 0.35


@pytest.mark.parametrize("by", ["magnitude", "taylor"])
def test_pruning_narrows_what_is_not_fixed(peers: dict[str, ModuleType], small: Any, by: str) -> None:
    settings = peers["context"].Settings(budget=1.0, steps=1)
    context = peers["context"].open_context(small, settings, seed=0, folder=small.data.parent / by)
    net = peers["methods.prune"].cut(
        small.net, small.example, context.calibrate, "top1", fixed=small.fixed, ratio=0.5, by=by
    )
    assert [net.first.out_channels, net.second.out_channels] == [16, 16]
    assert net.head.out_features == 4
    assert net(small.example[0]).shape == (2, 4)
    assert small.net.first.out_channels == 32


@pytest.mark.deep
def test_a_whole_short_run_has_every_method(
    peers: dict[str, ModuleType], small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quicken(monkeypatch.setattr, monkeypatch.setitem)
    methods = [name for name in peers["methods"].RUNNABLE if TENSORLY or name not in ("tucker", "cp")]
    settings = peers["context"].Settings(budget=9.0, steps=2, points=1, rounds=3, quick=True)
    told: list[str] = []
    rows, left_out = peers["run"].run_task(small, methods, settings, seed=0, work=tmp_path / "work", tell=told.append)
    assert {row["method"] for row in rows} == {*methods, "asl-int8"}
    for row in rows:
        assert row["metric"] == "top1"
        assert row["original"] == 1.0
        assert row["loss"] == pytest.approx(1.0 - row["value"])
        assert row["loss_ci"][0] <= row["loss"] <= row["loss_ci"][1]
        assert row["latency_ms"] == min(row["runtimes_ms"].values())
        assert row["speedup"] == pytest.approx(row["original_ms"] / row["latency_ms"])
        assert row["healing_steps"] == (0 if row["method"] == "int8" else 2)
        assert set(row["runtimes_ms"]) <= {"torch", "torch_channels_last", "torch_int16", "onnxruntime", "openvino"}
    predicted = {row["method"] for row in rows if row["expected_speedup"]}
    assert {"asl"} <= predicted <= {"asl", "asl-prune"}
    assert not [row for row in left_out if row["code"] != "does_not_pay"]
    folder = peers["run"].folder_of(small, settings, seed=0, work=tmp_path / "work")
    assert len(list(folder.glob("*.heal.pt"))) == len(methods) - 1
    peers["run"].drop_checkpoints(folder)
    assert {path.name for path in folder.iterdir()} <= {"model.pt2", "plans.json", "pruned.json", "refused.txt"}
    wanted = {"task": "small", "seed": 0, "budget": settings.label}
    assert peers["run"].missing(rows, left_out, methods, wanted) == []
    assert peers["run"].missing(rows, left_out, methods, {**wanted, "seed": 1}) == methods
    record = {
        "device": {"cpu": "a processor", "threads": 1, "torch": "x"}, "tasks": {"small": "a note"},
        "rows": rows, "left_out": left_out,
    }  # fmt: skip
    page = peers["table"].page(record)
    assert "## small, healed 2 steps (quick) a variant" in page
    assert all(f"| {row['method']} | {row['point']} |" in page for row in rows)
    svg = peers["chart"].picture(record)
    assert svg.startswith("<svg")
    assert "small, healed 2 steps (quick) a variant" in svg
    assert all(name in svg for name in ("asl-int8", "prune-taylor", "scratch"))


def _row(**changes: Any) -> dict[str, Any]:
    row = {
        "task": "t", "method": "asl", "point": "a", "seed": 0, "budget": "1 s", "metric": "top1", "unit": "",
        "original": 0.9, "value": 0.9, "loss": 0.0, "loss_ci": [0.0, 0.0], "speedup": 2.0, "speedup_ci": [1.9, 2.1],
        "latency_ms": 1.0, "latency_ci": [1.0, 1.0], "runtime": "torch", "original_ms": 2.0,
        "original_runtime": "openvino", "healing_steps": 5,
    }  # fmt: skip
    return {**row, **changes}


def test_the_table_averages_seeds_and_finds_the_fastest_within_the_loss(peers: dict[str, ModuleType]) -> None:
    rows = [
        _row(), _row(point="b", speedup=3.0, loss=0.5),
        _row(seed=1, speedup=4.0), _row(seed=1, point="b", speedup=9.0, loss=0.01),
        _row(method="cp", loss=0.2),
    ]  # fmt: skip
    best = peers["table"].best_within(rows, 0.01)
    assert best == {"asl": [2.0, 9.0], "cp": [1.0]}
    record = {"device": {"cpu": "c", "threads": 1, "torch": "x"}, "tasks": {"t": "n"}, "rows": rows, "left_out": []}
    page = peers["table"].page(record)
    assert "| asl | 5.50 ± 4.95 |" in page
    assert "| asl | a | 0.0000 ± 0.0000 | 0.0 ± 0.0 % | 0.0000 .. 0.0000 | 3.00 ± 1.41 |" in page


def test_at_equal_latency_the_best_of_ours_that_is_as_fast_is_held_against_each_other_point(
    peers: dict[str, ModuleType],
) -> None:
    narrow = {"loss_ci": [0.0, 0.0]}
    rows = [
        _row(point="slow", loss=0.01, **narrow), _row(point="slow", seed=1, loss=0.03, **narrow),
        # A single run, however good, is passed over where there are points of more seeds.
        _row(point="lucky", speedup=2.5, loss=-1.0, **narrow),
        _row(method="asl-prune", point="fast", speedup=4.0, loss=0.1, **narrow),
        # As fast as our slow one but for the noise; its seeds scatter.
        _row(method="cp", point="near", speedup=2.04, loss=0.03, **narrow),
        _row(method="cp", point="far", speedup=2.04, loss=0.05, **narrow),
        _row(method="cp", point="slow", speedup=1.5, loss=0.03, **narrow),
        # Faster than our slow one: the fast one is its rival.
        _row(method="tucker", point="better", speedup=3.0, loss=0.05, **narrow),
        _row(method="tucker", point="beyond", speedup=5.0, loss=0.5, **narrow),
        _row(method="tucker", point="slower", speedup=1.02, loss=-0.5, **narrow),
    ]  # fmt: skip
    found = {entry.point: entry for entry in peers["verdict"].compared(rows)}
    assert {name: entry.verdict for name, entry in found.items()} == {
        "near": "tie", "far": "ahead", "slow": "faster", "better": "behind", "beyond": "out of reach"
    }  # fmt: skip
    assert found["near"].ours == found["far"].ours == "asl slow"
    assert found["far"].ahead == pytest.approx(0.03)
    assert found["far"].spread == pytest.approx(math.sqrt(2) * 0.01)
    assert found["better"].ours == "asl-prune fast"
    lines = peers["verdict"].section(rows)
    assert "ahead 1, faster 1, tie 1, behind 1, out of reach 1, offered 0" in lines[0]
    # The original in 8 bits is a rival of ours and, beside a third method, one of what a conversion offers.
    rows.append(_row(method="int8", point="original", speedup=3.0, loss=0.0, **narrow))
    found = {entry.point: entry for entry in peers["verdict"].compared(rows)}
    assert (found["original"].verdict, found["original"].ours) == ("offered", "asl-prune fast")
    assert (found["better"].verdict, found["better"].ours) == ("ahead", "int8 original")
    assert peers["verdict"].section([_row()]) == []
    # Of a single run, what the size of the test split leaves open is no difference.
    wide = [_row(loss_ci=[-0.1, 0.1]), _row(method="cp", loss=0.03, loss_ci=[-0.07, 0.13])]
    assert peers["verdict"].compared(wide)[0].verdict == "tie"


def test_predictions_are_held_against_what_was_measured(peers: dict[str, ModuleType]) -> None:
    told = [(2.0, 2.0, 0.1, 0.2), (3.0, 2.5, 0.2, 0.3), (4.2, 4.0, 0.4, 0.25)]
    rows = [
        _row(point=str(i), expected_speedup=expected, speedup=measured, expected_damage=damage, relative_l2=moved)
        for i, (expected, measured, damage, moved) in enumerate(told)
    ]
    assert peers["predictions"].errors([*rows, _row()]) == pytest.approx([0, 0.2, 0.05])
    assert peers["predictions"].orders(rows) == {("t", 0, "1 s"): pytest.approx(0.5)}
    text = "\n".join(peers["predictions"].section(rows))
    assert "for 2 of 3 variants; off by 5.0% in the median, 20.0% at most" in text
    assert "| t | 0 | 1 s | 0.50 |" in text
    assert peers["predictions"].section([_row()]) == []


def test_rows_of_earlier_runs_are_kept(
    peers: dict[str, ModuleType], small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = peers["__main__"]
    asked: list[list[str]] = []

    def run_task(task: Any, methods: list[str], settings: Any, *, seed: int, work: Path) -> Any:
        asked.append(list(methods))
        base = {"task": "digits", "seed": seed, "budget": settings.label}
        return [_row(**base, method=method) for method in methods if method != "cp"], [
            {**base, "method": "cp", "code": "why", "reason": "None."}
        ]

    monkeypatch.setattr(main, "load_task", lambda name, quick: small)
    monkeypatch.setattr(main, "run_task", run_task)
    given = ["--tasks", "digits", "--budget", "7", "--out", str(tmp_path)]
    assert main.main([*given, "--methods", "asl", "cp"]) == 0
    assert main.main([*given, "--methods", "asl", "cp", "separable"]) == 0
    assert main.main([*given, "--methods", "asl", "--budget", "8"]) == 0
    assert asked == [["asl", "cp"], ["separable"], ["asl"]]
    assert len(json.loads((tmp_path / "peers.json").read_text())["rows"]) == 3
    assert (tmp_path / "peers.svg").read_text().startswith("<svg")
    assert main.main([*given, "--methods", "asl", "--fresh"]) == 0
    assert len(json.loads((tmp_path / "peers.json").read_text())["rows"]) == 1


def test_a_missing_package_is_told_and_fails_the_run(
    peers: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InfrastructureError, match="make bench-peers"):
        peers["tasks.task"].package_file("no-such-package-as-this", "data.gz")

    def load_task(name: str, *, quick: bool) -> Any:
        raise InfrastructureError("packages_missing", "The package x is not installed.")

    monkeypatch.setattr(peers["__main__"], "load_task", load_task)
    assert peers["__main__"].main(["--tasks", "animals", "--out", str(tmp_path)]) == 1
    assert "animals: packages_missing: The package x is not installed." in capsys.readouterr().err


def test_pickled_pictures_are_read_and_nothing_else(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    read = peers["tasks.sprites"].read_pickled_array
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    good, bad = tmp_path / "good.gz", tmp_path / "bad.gz"
    with gzip.open(good, "wb") as file:
        pickle.dump(array, file, protocol=4)
    assert (read(good) == array).all()
    with gzip.open(bad, "wb") as file:
        pickle.dump(math.sqrt, file)
    with pytest.raises(UsageError, match="math"):
        read(bad)


def test_training_stops_at_its_steps_and_is_kept(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    labels = torch.arange(40) % 2
    images = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + labels[:, None, None, None]
    trained = peers["tasks.train"].trained

    def net(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2))

    path = tmp_path / "kept" / "net.pt"
    first = trained(net(0), images, labels, path=path, steps=150, batch=20, augment=peers["tasks.train"].moved)
    assert not first.training
    assert float((first(images).argmax(1) == labels).float().mean()) > 0.9
    again = trained(net(1), images, labels, path=path, steps=150, batch=20)
    torch.testing.assert_close(again(images), first(images))


def test_the_unet_scores_every_pixel(peers: dict[str, ModuleType]) -> None:
    net = peers["tasks.segment"].UNet(widths=(4, 6, 8))
    assert net(torch.zeros(2, 3, 16, 24)).shape == (2, 5, 16, 24)
