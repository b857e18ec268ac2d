"""An atom's mix of taps is what the Active Shift Layer samples at the atom's shift."""

import pytest
import torch

from aslconvert.converter.fit.dictionary import build_dictionary
from aslconvert.converter.fit.statistics import gather_taps
from aslconvert.converter.ir.site import Geometry
from aslconvert.kernels import reference

GEOMETRIES = [
    Geometry((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    Geometry((1, 7), (1, 1), (1, 1), (0, 3), (0, 3)),
    Geometry((2, 4), (2, 3), (1, 1), (0, 1), (1, 2)),
    Geometry((3, 3), (2, 1), (2, 1), (2, 0), (2, 0)),
    Geometry((1, 1), (1, 1), (1, 1), (0, 0), (0, 0)),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("grid", [0.5, 0.25, 1.0])
def test_atoms_are_samples_of_the_reference(geometry: Geometry, grid: float) -> None:
    dictionary = build_dictionary(geometry, grid=grid)
    x = torch.randn(2, 1, 11, 13, dtype=torch.float64)
    mixed = dictionary.mix @ gather_taps(x, geometry)
    source = torch.zeros(dictionary.size, dtype=torch.int64)
    sampled = reference.active_shift(x, dictionary.shift, source, list(geometry.stride), list(geometry.delta))
    torch.testing.assert_close(mixed, sampled.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_tap_is_an_atom_and_no_atom_twice(geometry: Geometry) -> None:
    dictionary = build_dictionary(geometry)
    shifts = {tuple(row) for row in dictionary.shift.tolist()}
    assert len(shifts) == dictionary.size
    assert {tuple(row) for row in geometry.tap_offsets().double().tolist()} <= shifts
    torch.testing.assert_close(dictionary.mix.sum(1), torch.ones(dictionary.size, dtype=torch.float64))


def test_a_three_by_three_kernel_has_twenty_five_half_pixel_atoms() -> None:
    assert build_dictionary(GEOMETRIES[0]).size == 25
    # Along the dilated axis only the taps: between them lie pixels that the kernel does not read.
    assert build_dictionary(GEOMETRIES[3]).size == 3 * 5
