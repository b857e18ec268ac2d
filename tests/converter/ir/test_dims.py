from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from aslconvert.converter.export.reexport import Reexport, reexport_like
from aslconvert.converter.ir.dims import dynamic_axes, dynamic_shapes
from aslconvert.converter.ir.graph import graph_module
from aslconvert.converter.ir.load import export_model

Exported = Callable[[str], tuple[nn.Module, ExportedProgram]]


@pytest.mark.parametrize("name", ["demosaicker", "resnet18", "unet", "odd"])
def test_batch_and_image_sizes_stay_dynamic(exported: Exported, name: str) -> None:
    _, program = exported(name)
    assert list(dynamic_axes(program).values()) == [(0, 2, 3)]


def test_multiples_are_declared_as_such(exported: Exported) -> None:
    shapes = dynamic_shapes(exported("unet")[1])
    assert str(shapes[0][2]).startswith("4*")


class Pair(nn.Module):
    """Two inputs that share their batch, one given by name, and a dictionary of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor, *, scale: Tensor) -> dict[str, Tensor]:
        return {"y": self.conv(image) * scale[:, None, None, None], "scale": scale}


def test_the_user_s_ranges_and_shared_dims_survive_a_reexport() -> None:
    batch, height = Dim("batch", min=3, max=32), Dim("height", min=5, max=64)
    program = torch.export.export(
        Pair().eval(),
        (torch.zeros(4, 3, 8, 8),),
        {"scale": torch.ones(4)},
        dynamic_shapes={"image": {0: batch, 2: height}, "scale": {0: batch}},
    )
    again = reexport_like(graph_module(program), program)
    assert dynamic_axes(again) == {"image": (0, 2), "scale": (0,)}
    ranges = sorted((int(bound.lower), int(bound.upper)) for bound in again.range_constraints.values())
    assert ranges == [(3, 32), (5, 64)]
    result = again.module()(torch.zeros(5, 3, 9, 8), scale=torch.ones(5))
    assert set(result) == {"y", "scale"}
    with pytest.raises(AssertionError, match="32"):
        again.module()(torch.zeros(40, 3, 9, 8), scale=torch.ones(40))


class Attended(nn.Module):
    """Attention to a coarser map, as in SegFormer: torch guards it to have more than one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 3, 7, 4, 3), nn.Conv2d(3, 3, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fine(x)
        return y.flatten(2).transpose(1, 2) @ self.coarse(y).flatten(2)


def test_a_range_with_an_open_end_survives_where_torch_refuses_named_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    # From 61 rows on the guard holds, but torch cannot conclude that; of a named size it wants it.
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC(min=40), 3: Dim.DYNAMIC(min=62, max=999)}
    program = torch.export.export(Attended().eval(), (torch.zeros(2, 3, 64, 64),), dynamic_shapes=(sizes,))
    tried: list[object] = []
    export = torch.export.export

    def note(*args: object, **kwargs: object) -> ExportedProgram:
        tried.append(kwargs["dynamic_shapes"])
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", note)
    again = Reexport(program)
    for attempts in (2, 1):
        # The second graph begins with what was accepted for the first one.
        tried.clear()
        bounds = again(graph_module(program)).range_constraints.values()
        assert len(tried) == attempts
        assert sorted(str(bound) for bound in bounds) == ["VR[2, int_oo]", "VR[40, int_oo]", "VR[62, 999]"]


class HeightAsNumber(nn.Module):
    """Reads the height as a plain number, which fixes it; the width stays free."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * int(x.shape[2])


def test_a_size_that_the_network_reads_as_a_number_is_fixed() -> None:
    program = export_model(HeightAsNumber().eval(), (torch.randn(2, 3, 16, 16),))
    assert dynamic_axes(program) == {"x": (0, 3)}
    assert program.module()(torch.randn(3, 3, 16, 20)).shape == (3, 4, 14, 18)
