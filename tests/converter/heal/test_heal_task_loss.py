"""Labels and targets in healing: the right loss, cropped with the inputs, and refused where there is none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aslconvert.converter.data.dataset import Subset
from aslconvert.converter.data.load import load_dataset
from aslconvert.converter.data.metrics import METRICS, Metric
from aslconvert.converter.errors import UsageError
from aslconvert.converter.heal.distil import heal
from aslconvert.converter.heal.loss import TASKS, Task, task_loss
from aslconvert.converter.heal.pool import TaskTerm, build_pool, draw
from aslconvert.converter.ir.graph import graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.options import ConvertOptions, Crop
from aslconvert.converter.pipeline.healing_pool import healing_pool, task_of
from aslconvert.converter.pipeline.subject import open_subject
from aslconvert.converter.progress import SilentProgress


def test_classes_are_scored_by_cross_entropy_and_pixels_of_no_class_by_nothing() -> None:
    scores, labels = torch.randn(5, 4), torch.tensor([0, 1, 3, 2, 2])
    torch.testing.assert_close(task_loss(scores, labels, task="top1"), functional.cross_entropy(scores, labels))
    maps = torch.randn(2, 3, 4, 4, requires_grad=True)
    wanted = torch.randint(3, (2, 4, 4))
    wanted[0, 0, 0], wanted[1, 2, 3] = 255, -1
    loss = task_loss(maps, wanted, task="miou")
    clean = wanted.where(wanted != 255, -1)
    torch.testing.assert_close(loss, functional.cross_entropy(maps, clean, ignore_index=-1))
    (gradient,) = torch.autograd.grad(loss, maps)
    assert float(gradient[0, :, 0, 0].abs().max()) == 0
    assert float(gradient[0, :, 0, 1].abs().max()) > 0


@pytest.mark.parametrize("task", ["psnr", "mse"])
def test_errors_weigh_the_same_at_any_scale(task: Task) -> None:
    output, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    plain = task_loss(output, target, task=task)
    torch.testing.assert_close(task_loss(255 * output, 255 * target, task=task), plain)
    assert float(task_loss(target, target, task=task)) == 0
    assert float(plain) > 0.5


def test_healing_goes_where_the_targets_are_by_their_weight() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1)).eval()
    inputs = torch.randn(64, 2, 8, 8)
    teacher = graph_module(export_model(net, (inputs[:2],)))
    pool = build_pool(teacher, (inputs,))
    # The original is wrong by a factor, which the labelled data knows and its answers do not.
    target = 1.5 * pool.outputs[0]

    def error(weight: float) -> tuple[float, float]:
        student = graph_module(export_model(net, (inputs[:2],)))
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.mul_(1.1)
        term = TaskTerm("mse", target, weight)
        heal(student, replace(pool, task=term if weight else None), seconds=60, seed=0, max_steps=150, rate_scale=1.0)
        with torch.no_grad():
            output = student(inputs)
        return float(task_loss(output, target, task="mse")), float(task_loss(output, pool.outputs[0], task="mse"))

    to_target, to_teacher = zip(*(error(weight) for weight in (0.0, 0.8, 1.0)), strict=True)
    assert to_target[0] > 4 * to_target[1]
    assert to_target[0] > 4 * to_target[2]
    assert to_teacher[0] < min(to_teacher[1:]) / 4


def test_targets_are_cropped_with_their_inputs(tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:20, 0:30].astype(np.float32)
    images = np.stack([np.stack([rows, columns])] * 8)
    split = np.array([0, 1, 2, 3] * 2)
    for name, target in (("alike", images[:, :1]), ("half", images[:, :1, ::2, ::2])):
        np.savez(tmp_path / f"{name}.npz", input=images, target=target, split=split)
    whole = draw(_split(tmp_path / "alike.npz"), 12, crop=Crop(size=8, multiple=2), seed=0)
    assert whole.target is not None
    assert torch.equal(whole.target, whole.inputs[0][:, :1])
    assert len(whole.groups) == 12
    assert draw(_split(tmp_path / "half.npz"), 3, crop=Crop(size=8, multiple=2), seed=0).target is None


def test_only_a_metric_of_ours_has_a_loss() -> None:
    assert [task_of(METRICS[name]) for name in TASKS] == list(TASKS)
    own: Metric = replace(METRICS["mse"], name="mine")
    for metric, told in ((None, "no labels"), (own, "mine")):
        with pytest.raises(UsageError, match=told) as caught:
            task_of(metric)
        assert caught.value.code == "task_loss"


def test_the_pool_of_a_conversion_carries_labels_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    torch.export.save(
        torch.export.export(net.eval(), (torch.zeros(2, 1, 12, 12),), dynamic_shapes=({0: torch.export.Dim("batch")},)),
        tmp_path / "net.pt2",
    )
    labels = np.arange(80) % 4
    np.savez(tmp_path / "data.npz", input=np.random.default_rng(0).random((80, 1, 12, 12), np.float32), label=labels)
    np.savez(
        tmp_path / "wrong.npz", input=np.random.default_rng(0).random((80, 1, 12, 12), np.float32), label=labels + 9
    )
    options = ConvertOptions(task_loss=0.25)
    subject = open_subject(str(tmp_path / "net.pt2"), data=str(tmp_path / "data.npz"), options=options)
    pool = healing_pool(subject, options, metric=METRICS["top1"], progress=SilentProgress())
    assert pool.task is not None
    assert (pool.task.task, pool.task.weight, len(pool.task.wanted)) == ("top1", 0.25, len(pool))
    with torch.no_grad():
        scores: Tensor = subject.gm(*pool.inputs)
    plain = replace(pool, task=None).loss(subject.gm, torch.arange(8), device=torch.device("cpu"))
    mixed = pool.loss(subject.gm, torch.arange(8), device=torch.device("cpu"))
    own = functional.cross_entropy(scores[:8], pool.task.wanted[:8])
    torch.testing.assert_close(mixed, 0.75 * plain + 0.25 * own)
    wrong = open_subject(str(tmp_path / "net.pt2"), data=str(tmp_path / "wrong.npz"), options=options)
    with pytest.raises(UsageError, match="Labels reach"):
        healing_pool(wrong, options, metric=METRICS["top1"], progress=SilentProgress())


def _split(path: Path) -> Subset:
    data = load_dataset(str(path), size=None, scale=None, mean=None, std=None, channels=None, input_names=["input"])
    return data.split("heal")
