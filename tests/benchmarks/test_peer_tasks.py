"""The emoji and the detector of the comparison: their pictures, their scores, and a network with several outputs."""

from __future__ import annotations

import importlib
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from quick_measurements import quicken
from torch import Tensor, nn

from aslconvert.converter.errors import InfrastructureError, UsageError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ("context", "record", "run", "methods.int8", "methods.prune", "table", "__main__",
         "tasks.boxes", "tasks.detect", "tasks.digits", "tasks.emoji", "tasks.npm", "tasks.segment",
         "tasks.task", "tasks.train")  # fmt: skip


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


TARGET = torch.tensor([
    [[0, 10.0, 12.0, 40.0, 36.0], [2, 50.0, 50.0, 90.0, 94.0], [-1] * 5],
    [[1, 0.0, 0.0, 30.0, 30.0], [-1] * 5, [-1] * 5],
])  # fmt: skip


def _maps(boxes: ModuleType, target: Tensor, *, classes: int = 3, side: int = 12) -> tuple[Tensor, Tensor]:
    """What a detector that knows everything gives."""
    heat = boxes.heat_of(target, classes, side)
    place = torch.zeros(len(target), 4, side, side)
    for image, rows in enumerate(target):
        for _, left, top, right, bottom in rows[rows[:, 0] >= 0].tolist():
            x, y = (left + right) / 2 / 8, (top + bottom) / 2 / 8
            values = torch.tensor([x % 1, y % 1, (right - left) / 8, (bottom - top) / 8])
            place[image, :, int(y), int(x)] = torch.cat([values[:2], values[2:].log()])
    return torch.logit(heat.clamp(1e-4, 1 - 1e-4)), place


def test_maps_become_the_boxes_they_were_made_from(peers: dict[str, ModuleType]) -> None:
    boxes = peers["tasks.boxes"]
    scores, place = _maps(boxes, TARGET)
    assert boxes.mean_f1((scores, place), TARGET).tolist() == [1.0, 1.0]
    for image, wanted in enumerate(TARGET):
        found = boxes.decode(scores[image], place[image])
        real = wanted[wanted[:, 0] >= 0]
        order = found[:, 0].argsort()
        torch.testing.assert_close(found[order, :5], real[real[:, 0].argsort()], atol=1e-4, rtol=0)


def test_the_score_counts_what_is_missed_and_what_is_not_there(peers: dict[str, ModuleType]) -> None:
    boxes = peers["tasks.boxes"]
    scores, place = _maps(boxes, TARGET)
    missed = scores.clone()
    missed[0, 2] = -9
    assert boxes.mean_f1((missed, place), TARGET).tolist() == [pytest.approx(2 / 3), 1.0]
    wrong = scores.roll(1, dims=1)
    assert boxes.mean_f1((wrong, place), TARGET).tolist() == [0.0, 0.0]
    large = place + torch.tensor([0, 0, 1.0, 1.0])[:, None, None]
    assert boxes.mean_f1((scores, large), TARGET).tolist() == [0.0, 0.0]
    assert boxes.mean_f1((torch.full_like(scores, -9), place), TARGET).tolist() == [0.0, 0.0]
    # Whatever a broken network gives, the score stays a number.
    assert boxes.mean_f1((scores, place + 1e4), TARGET).isfinite().all()


def test_the_detectors_loss_is_least_at_the_right_maps(peers: dict[str, ModuleType]) -> None:
    boxes = peers["tasks.boxes"]
    right = _maps(boxes, TARGET)
    least = float(boxes.loss(right, TARGET))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        noise = [0.5 * torch.randn(part.shape, generator=generator) for part in right]
        assert float(boxes.loss([part + n for part, n in zip(right, noise, strict=True)], TARGET)) > least
    assert least < 0.5


def test_scenes_have_tight_boxes_that_hardly_overlap(peers: dict[str, ModuleType]) -> None:
    detect, boxes = peers["tasks.detect"], peers["tasks.boxes"]
    rng = np.random.default_rng(0)
    # Grey levels tell ground and objects apart, which they do not in the task.
    ground = [np.full((3, 120, 130), 0.2, dtype=np.float32)]
    sprite = np.zeros((2, 28, 28), dtype=np.uint8)
    sprite[:, 5:20, 9:15] = 255
    seen = 0
    for _ in range(20):
        image, target = detect._scene(ground, [sprite, sprite], rng)
        assert image.shape == (3, 96, 96)
        real = torch.from_numpy(target[target[:, 0] >= 0])
        seen += len(real)
        assert bool((real[:, 3:] > real[:, 1:3]).all())
        tall, wide = real[:, 4] - real[:, 2], real[:, 3] - real[:, 1]
        torch.testing.assert_close(tall / wide, torch.full_like(tall, 15 / 6), atol=0.5, rtol=0)
        apart = boxes.overlaps(real[:, 1:], real[:, 1:]).fill_diagonal_(0)
        assert float(apart.max()) <= detect.CROWDED
    assert seen >= 30


def test_a_mirrored_scene_has_mirrored_boxes(peers: dict[str, ModuleType]) -> None:
    detect = peers["tasks.detect"]
    images = torch.zeros(2, 3, 96, 96)
    images[0, :, 12:36, 10:40] = 1
    generator = torch.Generator().manual_seed(0)
    flips = 0
    for _ in range(8):
        mirrored, target = detect.mirrored(images, TARGET, generator)
        assert ((target[..., 0] >= 0) == (TARGET[..., 0] >= 0)).all()
        left, top, right, bottom = (int(n) for n in target[0, 0, 1:])
        assert bool((mirrored[0, :, top:bottom, left:right] > 0).all())
        assert int((mirrored[0, 0] > 0).sum()) == (right - left) * (bottom - top)
        flips += left != 10
    assert 0 < flips < 8


def test_the_detector_gives_its_maps(peers: dict[str, ModuleType]) -> None:
    net = peers["tasks.detect"].Detector(widths=(4, 6, 8)).eval()
    with torch.no_grad():
        scores, place = net(torch.zeros(2, 3, 48, 96))
    assert scores.shape == (2, 4, 6, 12)
    assert place.shape == (2, 4, 6, 12)
    assert float(torch.sigmoid(scores).mean()) == pytest.approx(0.1, abs=0.02)


def _archive(path: Path, vendor: str, colour: tuple[int, int, int, int]) -> Path:
    entries = [
        {"unified": f"1F{index:03X}", "image": f"{index}.png", "category": category}
        for index, category in enumerate(["Flags", "People & Body", "Component", "Symbols"] * 10)
    ]
    files = {"emoji.json": json.dumps(entries).encode()}
    for index in range(len(entries)):
        content = io.BytesIO()
        image = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
        image.paste(colour, (0, 0, 32, 64))
        image.save(content, "png")
        # One picture is missing.
        if index != 7:
            files[f"img/{vendor}/64/{index}.png"] = content.getvalue()
    with tarfile.open(path, "w:gz") as packed:
        for name, content_ in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content_)
            packed.addfile(member, io.BytesIO(content_))
    return path


def test_an_emoji_is_in_one_split_with_both_vendors(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    emoji = peers["tasks.emoji"]
    given = {
        "twitter": _archive(tmp_path / "t.tgz", "twitter", (255, 0, 0, 255)),
        "google": _archive(tmp_path / "g.tgz", "google", (0, 255, 0, 255)),
    }
    arrays = emoji.gather(given)
    # A quarter of forty are components, and one has no picture.
    assert arrays["x"].shape == (2 * 29, 3, 32, 32)
    assert set(arrays["label"]) == {emoji.CATEGORIES.index(name) for name in ("Flags", "People & Body", "Symbols")}
    for group in np.unique(arrays["group"]):
        assert len(np.unique(arrays["split"][arrays["group"] == group])) == 1
        assert (arrays["group"] == group).sum() == 2
    assert len(np.unique(arrays["split"])) > 1
    # Nothing is drawn on the right half: it is the ground, zero.
    assert (arrays["x"][:, :, :, 16:] == 0).all()
    assert arrays["x"][0, :, 0, 0].tolist() == [0.5, -0.5, -0.5]
    assert arrays["x"][-1, :, 0, 0].tolist() == [-0.5, 0.5, -0.5]


def test_emoji_split_as_their_shares_say(peers: dict[str, ModuleType]) -> None:
    emoji = peers["tasks.emoji"]
    splits = np.bincount([emoji.split_of(f"{code:X}") for code in range(4000)], minlength=4) / 4000
    # Four thousand draws: three standard deviations are 0.024 at most.
    assert splits == pytest.approx(emoji.SHARES, abs=0.024)


def test_packages_that_npm_does_not_give_are_told_missing(
    peers: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfrastructureError, match="npm is not there") as caught:
        peers["tasks.npm"].fetch("pictures@1.0.0", "0" * 64, tmp_path)
    assert caught.value.code == "packages_missing"
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no such registry >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(InfrastructureError, match="no such registry"):
        peers["tasks.npm"].fetch("pictures@1.0.0", "0" * 64, tmp_path)
    npm.write_text('#!/bin/sh\necho other > "$5/x.tgz"\n')
    with pytest.raises(InfrastructureError, match="not the archive that was pinned"):
        peers["tasks.npm"].fetch("pictures@1.0.0", "0" * 64, tmp_path)


def test_test_digits_are_mnists_own_and_no_digit_is_in_two_splits(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    digits = peers["tasks.digits"]
    used = sum(digits.COUNTS.values())
    # Each picture says which it is: training digits count from 0, test digits are all bright.
    numbers = np.arange(used + 5, dtype=np.uint32).view(np.uint8).reshape(-1, 4)
    train = np.zeros((used + 5, 28, 28), np.uint8)
    train[:, 0, :4] = numbers
    given = {
        "train": (train, np.arange(used + 5) % 10),
        "t10k": (np.full((20, 28, 28), 255, np.uint8), np.arange(20) % 7),
    }
    archive = tmp_path / "mnist.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        for name, (pictures, labels) in given.items():
            files = {
                "images-idx3": bytes(16) + pictures.tobytes(),
                "labels-idx1": bytes(8) + labels.astype(np.uint8).tobytes(),
            }
            for kind, content in files.items():
                member = tarfile.TarInfo(f"package/data/{name}-{kind}-ubyte")
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
    arrays = digits.gather(archive, mean=0.5, std=0.25)
    assert arrays["image"].shape == (used + 20, 1, 28, 28)
    assert np.bincount(arrays["split"]).tolist() == [*digits.COUNTS.values(), 20]
    bytes_back = np.rint((arrays["image"] * 0.25 + 0.5) * 255).astype(np.uint8)
    assert (bytes_back[arrays["split"] == 3] == 255).all()
    assert (bytes_back[:used, 0, 0, :4] == numbers[:used]).all()
    assert (arrays["label"][:used] == np.arange(used) % 10).all()
    assert (arrays["label"][used:] == np.arange(20) % 7).all()


def test_varied_emoji_stay_in_their_frame(peers: dict[str, ModuleType]) -> None:
    images = torch.zeros(40, 3, 32, 32)
    images[:, :, 10:22, 12:20] = 0.5
    labels = torch.arange(40)
    varied, same = peers["tasks.emoji"].varied(images, labels, torch.Generator().manual_seed(0))
    assert (same == labels).all()
    size = (varied[:, 0] > 0).float().sum((1, 2)) / 96
    # 15 % larger or smaller along a side, and a rim of pixels that are partly covered.
    assert float(size.min()) > 0.7
    assert float(size.max()) < 2.0
    middle = (varied[:, 0] * torch.arange(32.0)).sum((1, 2)) / varied[:, 0].sum((1, 2))
    assert float(middle.std()) > 0.5


class Pair(nn.Module):
    """A map and boxes of its own, with a 3x3 convolution between that can be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, stride=8, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.heat, self.boxes = nn.Conv2d(16, 3, 1), nn.Conv2d(16, 4, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.second(torch.relu(self.first(image))))
        return self.heat(x), self.boxes(x)


def test_a_metric_of_its_own_and_several_outputs_go_all_the_way(
    peers: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quicken(monkeypatch.setattr, monkeypatch.setitem)
    boxes = peers["tasks.boxes"]
    torch.manual_seed(0)
    image = torch.rand(60, 3, 96, 96)
    net = Pair().eval()
    # Wanted is what the network finds itself, so that the original scores all it can.
    nn.init.constant_(net.heat.bias, 1.0)
    target = torch.full((60, 16, 5), -1.0)
    with torch.no_grad():
        scores, place = net(image)
    for index in range(60):
        found = boxes.decode(scores[index], place[index])[:, :5]
        target[index, : len(found)] = found
    data = tmp_path / "pair.npz"
    np.savez(data, image=image.numpy(), target=target.numpy(), split=np.arange(60) % 4)
    task = peers["tasks.task"].Task(
        name="pair", metric=f"{boxes.__file__}:mean_f1", net=net, example=(torch.zeros(2, 3, 96, 96),), data=data,
        fixed=("heat", "boxes"), loss=boxes.loss,
    )  # fmt: skip
    settings = peers["context"].Settings(budget=9.0, steps=1, points=1, rounds=3, quick=True)
    rows, left_out = peers["run"].run_task(
        task, ["int8", "separable", "prune-taylor"], settings, seed=0, work=tmp_path / "work", tell=lambda _: None
    )
    assert {row["method"] for row in rows} == {"int8", "separable", "prune-taylor"}, left_out
    for row in rows:
        assert row["metric"] == "mean_f1"
        assert row["original"] > 0.95
        assert row["loss"] == pytest.approx(row["original"] - row["value"])
    record = peers["record"].Record(tmp_path / "out", fresh=False)
    record.add(task, rows, left_out, threads=1)
    share = next(100 * row["loss"] / row["original"] for row in rows if row["method"] == "int8")
    assert f"| {share:.1f} % |" in (tmp_path / "out" / "peers.md").read_text()


def _row(**changes: Any) -> dict[str, Any]:
    row = {
        "task": "t", "method": "asl", "point": "a", "seed": 0, "budget": "1 s", "metric": "top1", "unit": "",
        "original": 0.9, "value": 0.9, "loss": 0.0, "loss_ci": [0.0, 0.0], "speedup": 2.0, "speedup_ci": [1.9, 2.1],
        "latency_ms": 1.0, "latency_ci": [1.0, 1.0], "runtime": "torch", "original_ms": 2.0,
        "original_runtime": "openvino", "healing_steps": 5,
    }  # fmt: skip
    return {**row, **changes}


def _task(peers: dict[str, ModuleType], name: str) -> Any:
    return peers["tasks.task"].Task(
        name=name, metric="top1", net=nn.Identity(), example=(), data=Path(), fixed=(), note=f"note of {name}"
    )


def test_two_runs_into_one_folder_keep_each_others_rows(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    first, second = (peers["record"].Record(tmp_path, fresh=False) for _ in range(2))
    first.add(_task(peers, "t"), [_row()], [], threads=1)
    second.add(_task(peers, "u"), [_row(task="u")], [{**_row(task="u"), "code": "why", "reason": "None."}], threads=1)
    stored = json.loads((tmp_path / "peers.json").read_text())
    assert {row["task"] for row in stored["rows"]} == {"t", "u"}
    assert stored["tasks"] == {"t": "note of t", "u": "note of u"}
    assert all(row["device"]["threads"] == 1 and len(row["date"]) == 10 for row in stored["rows"])
    assert second.rows == stored["rows"]
    assert len(second.left_out) == 1
    page = (tmp_path / "peers.md").read_text()
    assert "note of t" in page
    assert "note of u" in page


def test_records_of_several_machines_are_joined(
    peers: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"cpu": "an old processor", "threads": 1, "torch": "x"}
    new = {"cpu": "a new processor", "threads": 2, "torch": "x"}
    for name, device, rows in (
        ("a", old, [_row(date="2026-01-02", loss=0.5), _row(point="b")]),
        ("b", new, [_row(date="2026-01-03", loss=0.25), _row(seed=1, date="2026-01-01")]),
    ):
        (tmp_path / name).mkdir()
        record = {"device": device, "tasks": {"t": "n"}, "rows": rows, "left_out": []}
        (tmp_path / name / "peers.json").write_text(json.dumps(record))
    given = ["--out", str(tmp_path / "both"), "--join", str(tmp_path / "b"), str(tmp_path / "a")]
    assert peers["__main__"].main(given) == 0
    rows = json.loads((tmp_path / "both" / "peers.json").read_text())["rows"]
    by = {(row["point"], row["seed"]): row for row in rows}
    assert len(rows) == 3
    # The later day counts, and a row without a device has its record's.
    assert by["a", 0]["loss"] == 0.25
    assert by["b", 0]["device"] == old
    assert by["a", 1]["device"] == new
    page = (tmp_path / "both" / "peers.md").read_text()
    assert "a new processor, 2 thread(s), torch x; an old processor, 1 thread(s), torch x." in page
    assert peers["__main__"].main(["--out", str(tmp_path / "c"), "--join", str(tmp_path / "none")]) == 1
    assert "no_record" in capsys.readouterr().err
    with pytest.raises(UsageError):
        peers["record"].join([tmp_path / "none"], tmp_path / "c")


def test_relative_loss_is_told_where_the_original_has_a_score(peers: dict[str, ModuleType]) -> None:
    record = {"device": {"cpu": "c", "threads": 1, "torch": "x"}, "tasks": {}, "left_out": []}
    rows = [_row(loss=0.09), _row(method="cp", original=0.0)]
    page = peers["table"].page({**record, "rows": rows})
    assert "| asl | a | 0.0900 | 10.0 % |" in page
    assert "| cp | a | 0.0000 |  |" in page
