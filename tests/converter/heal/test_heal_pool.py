"""Samples for healing: pure numbers of samples, crops that keep their phase, the original asked once."""

import numpy as np
import pytest
import torch
from torch import Tensor

from aslconvert.converter.data.dataset import Subset
from aslconvert.converter.data.load import load_dataset
from aslconvert.converter.errors import UsageError
from aslconvert.converter.heal.pool import Pool, build_pool, draw_samples, pool_size
from aslconvert.converter.options import Crop


@pytest.fixture(scope="module")
def subset(tmp_path_factory: pytest.TempPathFactory) -> Subset:
    """Images whose pixels tell where they lie: channel 0 the row, 1 the column, 2 the sample."""
    path = tmp_path_factory.mktemp("pool") / "data.npz"
    count, height, width = 12, 20, 30
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    images = np.stack([np.stack([rows, columns, np.full_like(rows, i)]) for i in range(count)])
    np.savez(path, input=images, split=np.array([0, 1, 2, 3] * 3))
    data = load_dataset(str(path), size=None, scale=None, mean=None, std=None, channels=None, input_names=["input"])
    return data.split("heal")


def test_numbers_of_samples_are_a_pure_function_and_each_epoch_covers_all() -> None:
    pool = Pool(inputs=(torch.zeros(10, 1),), outputs=(torch.zeros(10, 1),))
    assert torch.equal(pool.indices(7, 3, seed=1), pool.indices(7, 3, seed=1))
    for epoch in range(2):
        drawn = torch.cat([pool.indices(epoch * 5 + step, 2, seed=1) for step in range(5)])
        assert sorted(drawn.tolist()) == list(range(10))
    assert pool.indices(0, 10, seed=1).tolist() != pool.indices(1, 10, seed=1).tolist()
    assert pool.indices(0, 10, seed=1).tolist() != pool.indices(0, 10, seed=2).tolist()
    # The global generator has no say.
    before = torch.get_rng_state()
    pool.indices(3, 4, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_pool_smaller_than_a_batch_is_given_whole() -> None:
    pool = Pool(inputs=(torch.zeros(3, 1),), outputs=(torch.zeros(3, 1),))
    assert sorted(pool.indices(5, 8, seed=0).tolist()) == [0, 1, 2]


def test_crops_start_on_multiples_and_are_whole_pieces_of_samples(subset: Subset) -> None:
    (crops,) = draw_samples(subset, 40, crop=Crop(size=8, multiple=4), seed=1)
    assert crops.shape == (40, 3, 8, 8)
    top, left = crops[:, 0, 0, 0], crops[:, 1, 0, 0]
    assert set(top.tolist()) == {0.0, 4.0, 8.0, 12.0}
    assert set((left % 4).tolist()) == {0.0}
    assert float(left.max()) <= 22
    assert torch.equal(crops[:, 0] - top.view(-1, 1, 1), torch.arange(8.0).view(1, 8, 1).expand(40, 8, 8))
    assert torch.equal(crops[:, 1] - left.view(-1, 1, 1), torch.arange(8.0).view(1, 1, 8).expand(40, 8, 8))
    assert set(crops[:, 2, 0, 0].tolist()) == {1.0, 5.0, 9.0}
    assert torch.equal(crops, draw_samples(subset, 40, crop=Crop(size=8, multiple=4), seed=1)[0])


def test_without_a_crop_no_sample_comes_twice(subset: Subset) -> None:
    (samples,) = draw_samples(subset, 100, crop=None, seed=0)
    assert samples.shape == (3, 3, 20, 30)
    assert sorted(samples[:, 2, 0, 0].tolist()) == [1.0, 5.0, 9.0]


def test_a_crop_larger_than_the_samples_is_refused(subset: Subset) -> None:
    with pytest.raises(UsageError) as caught:
        draw_samples(subset, 1, crop=Crop(size=24), seed=0)
    assert caught.value.code == "heal_crop"


def test_the_original_answers_once_in_batches_and_integers_are_dropped() -> None:
    seen: list[int] = []
    told: list[tuple[int, int]] = []

    def teacher(x: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(x))
        return x * 2, x.long()

    inputs = (torch.randn(37, 2),)
    pool = build_pool(teacher, inputs, on_batch=lambda *call: told.append(call))
    assert sum(seen) == len(pool) == 37
    assert told[-1] == (37, 37)
    assert len(pool.outputs) == 1
    assert torch.equal(pool.outputs[0], inputs[0] * 2)
    fixed = build_pool(teacher, inputs, batch=5)
    assert len(fixed) == len(fixed.outputs[0]) == 35


def test_the_pool_holds_no_more_than_its_memory_allows() -> None:
    sample = (torch.zeros(1, 3, 8, 8),)
    per_sample = (3 + 1) * 64 * 4
    assert pool_size(sample, torch.zeros(1, 1, 8, 8), limit_bytes=10 * per_sample) == 10
    assert pool_size(sample, torch.zeros(1, 1, 8, 8), limit_bytes=1) == 1
