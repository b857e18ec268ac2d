"""A checkpoint is whole or not used: the one before it is, and where none is whole nothing is made up."""

from pathlib import Path

import pytest
import torch

from aslconvert.converter.errors import InfrastructureError
from aslconvert.converter.heal.checkpoint import before, read_checkpoint, write_checkpoint


def test_nothing_written_is_nothing_to_read(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "x.pt") is None


@pytest.mark.parametrize("kept", [0, 10, 40, 500, -1])
def test_of_a_truncated_checkpoint_the_one_before_is_read(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.pt"
    for step in range(3):
        write_checkpoint(path, {"step": step, "weights": torch.full((100,), float(step))})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.pt", "x.pt.before"]
    path.write_bytes(path.read_bytes()[:kept])
    told: list[str] = []
    record = read_checkpoint(path, on_note=told.append)
    assert record is not None
    assert record["step"] == 1
    assert torch.equal(record["weights"], torch.full((100,), 1.0))
    assert told == ["The checkpoint x.pt is damaged."]


def test_a_flipped_bit_in_the_weights_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    write_checkpoint(path, {"weights": torch.full((100,), 1.5)})
    data = bytearray(path.read_bytes())
    data[data.index(torch.tensor([1.5]).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(InfrastructureError) as caught:
        read_checkpoint(path)
    assert caught.value.code == "damaged_checkpoint"
    assert "x.pt" in caught.value.hint


def test_a_kill_between_the_two_names_loses_no_more_than_one(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    write_checkpoint(path, {"step": 7})
    path.replace(before(path))
    record = read_checkpoint(path)
    assert record is not None
    assert record["step"] == 7
