"""Real networks come out of intake with the outputs that they went in with, bit for bit, and twice the same bytes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import assert_identical, check, outputs
from torch import Tensor, nn
from torch.nn import functional as F

from aslconvert.converter.ir.quiet import quiet
from aslconvert.workers.intake.examples import write_examples
from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.program import rebuild_program
from aslconvert.workers.intake.refusal import Refused
from aslconvert.workers.intake.tensors import Size, TensorMeta
from aslconvert.workers.intake.trees import Tree

TESTS = Path(__file__).parents[2]


def _nets() -> Any:
    specification = importlib.util.spec_from_file_location("nets", TESTS / "converter" / "nets.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


nets = _nets()


class Containers(nn.Module):
    """Several inputs and outputs in tuples, lists and dicts, one of them None; a buffer that is not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("scale", torch.rand(4, 1, 1), persistent=False)

    def forward(self, image: Tensor, masks: list[Tensor], *, extra: dict[str, Tensor]) -> dict[str, Any]:
        features = self.conv(image) * self.scale
        return {"features": [features, features.mean()], "both": (masks[0] + extra["bias"], None), "constant": 3}


class Sizes(nn.Module):
    """Arithmetic on sizes, a list of tensors, integers from the graph, and a tensor constant."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h * w).chunk(2, dim=1)
        grid = torch.arange(h * w, device=x.device).to(x.dtype) / (h * w - 1)
        return torch.cat([p * grid for p in parts], dim=1) + torch.tensor([0.25])


class NoGrad(nn.Module):
    """Blocks without gradients and in another precision, each a graph within the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.conv(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = self.conv(y)
        return z.float() + F.interpolate(y, scale_factor=2.0)[..., ::2, ::2]


class Names(nn.Module):
    """Values and inputs called as Python's own."""

    def forward(self, input: Tensor, type: Tensor) -> Tensor:
        return torch.max(input.abs().pow(2), type.sum().round())


class Bits(nn.Module):
    """Weights of all plain types, a transposed and a shared one, an empty one, one by half of a storage."""

    def __init__(self) -> None:
        super().__init__()
        storage = torch.rand(2, 12)
        self.top, self.bottom = nn.Parameter(storage[0]), nn.Parameter(storage[1])
        self.tied = self.top
        self.turned = nn.Parameter(torch.rand(3, 4).t())
        self.last = nn.Parameter(torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last))
        types = (
            torch.float16,
            torch.bfloat16,
            torch.float64,
            torch.int8,
            torch.uint8,
            torch.int16,
            torch.int32,
            torch.bool,
        )
        for number, dtype in enumerate(types):
            self.register_buffer(f"b{number}", (torch.rand(12) * 3).to(dtype))
        self.branches = nn.ModuleDict({"1x1-pool": nn.Linear(12, 12)})
        self.register_buffer("nothing", torch.zeros(0, 7))
        self.register_buffer("number", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.top * self.bottom + self.tied + self.turned.reshape(-1) + self.number + self.last.sum()
        for number in range(8):
            y = y + getattr(self, f"b{number}")
        return torch.cat([self.branches["1x1-pool"](y.float()), self.nothing.reshape(-1)])


def image(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


BATCH = {0: torch.export.Dim.AUTO}
IMAGE = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...], dict[str, Any], Any]] = {
    "resnet": (nets.ResNet18, (image(2, 3, 32, 32),), {}, (IMAGE,)),
    "unet": (nets.UNet, (image(2, 3, 16, 16),), {}, (BATCH,)),
    "odd": (nets.Odd, (image(1, 3, 24, 27),), {}, None),
    "containers": (Containers, (image(1, 3, 8, 8), [image(2)]), {"extra": {"bias": image(2)}}, None),
    "sizes": (Sizes, (image(2, 4, 6, 6),), {}, (IMAGE,)),
    "no_grad": (NoGrad, (image(1, 3, 8, 8),), {}, None),
    "names": (Names, (image(4), image(4)), {}, None),
    "bits": (Bits, (image(12),), {}, None),
    "recurrent": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.GELU(), nn.LayerNorm(6)),
        (image(2, 3, 8),),
        {},
        (BATCH,),
    ),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (image(2, 5, 8),), {}, None),
    "video": (lambda: nn.Sequential(nn.Conv3d(1, 2, 3), nn.Hardswish()), (image(1, 1, 5, 6, 7),), {}, None),
}


def exported(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    make, args, kwargs, shapes = CASES[name]
    with quiet():
        program = torch.export.export(make().eval(), args, kwargs, dynamic_shapes=shapes)
        torch.export.save(program, folder / f"{name}.pt2")
    return folder / f"{name}.pt2"


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_the_same(name: str, tmp_path: Path) -> None:
    rebuilt = check(exported(name, tmp_path), tmp_path)
    assert rebuilt.kind == "pt2"
    assert rebuilt.tensors >= len(list(CASES[name][0]().parameters()))


def test_dynamic_sizes_stay_dynamic(tmp_path: Path) -> None:
    rebuilt = rebuild_program(exported("sizes", tmp_path), tmp_path / "out.pt2")
    inputs = ((image(3, 4, 5, 9),), {})
    assert_identical(outputs(tmp_path / "sizes.pt2", inputs)[0], outputs(rebuilt.path, inputs)[0])


def test_bounds_of_sizes_are_kept(tiny: Path, tmp_path: Path) -> None:
    rebuilt = rebuild_program(tiny, tmp_path / "out.pt2")
    with pytest.raises(Exception, match=r"(?s)64|guard|[Rr]ange"):
        outputs(rebuilt.path, ((image(65, 3, 5, 5),), {}))


def test_sites_keep_their_names(tmp_path: Path) -> None:
    """The converter names a site after the modules that its node came from."""
    source = exported("resnet", tmp_path)
    with quiet():
        before = torch.export.load(source)
        after = torch.export.load(rebuild_program(source, tmp_path / "out.pt2").path)
    stacks = [
        [n.meta.get("nn_module_stack") for n in p.graph.nodes if n.op == "call_function"] for p in (before, after)
    ]
    assert stacks[0] == stacks[1]
    assert any("layer2.0.conv1" in str(stack) for stack in stacks[1])
    assert set(before.state_dict) == set(after.state_dict)
    assert [s.arg.name for s in after.graph_signature.input_specs][-1:] == ["x"]


def test_nothing_of_the_user_is_left_in_it(tmp_path: Path) -> None:
    source = exported("resnet", tmp_path)
    rebuilt = rebuild_program(source, tmp_path / "out.pt2")
    assert b"nets.py" in source.read_bytes()
    assert b".py" not in rebuilt.path.read_bytes()


def test_weights_that_share_memory_are_refused(tmp_path: Path) -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("wide", torch.rand(3, 1).expand(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.wide

    with quiet():
        torch.export.save(torch.export.export(Wide(), (image(3, 4),)), tmp_path / "wide.pt2")
    with pytest.raises(Refused) as refused:
        rebuild_program(tmp_path / "wide.pt2", tmp_path / "out.pt2")
    assert refused.value.code == "weights_overlap"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_torch_reads_the_examples_without_running_code(dtype: torch.dtype, tmp_path: Path) -> None:
    from torch._export.serde.serialize import _TORCH_TO_SERIALIZE_DTYPE

    number = int(_TORCH_TO_SERIALIZE_DTYPE[dtype])
    meta = TensorMeta(number, (Size(2), Size(3)), (Size(3), Size(1)), Size(0), False)
    leaf = Tree("leaf")
    tree = Tree("tuple", (Tree("tuple", (leaf, Tree("list", (leaf, leaf)))), Tree("dict", (leaf, leaf), ("a", "b"))))
    content = write_examples(tree, [meta, 1 << 40, None, "text", 0.5], limits=Limits())
    (tmp_path / "x.pt").write_bytes(content)
    (tensor, rest), named = torch.load(tmp_path / "x.pt", weights_only=True)
    assert (tensor.dtype, tensor.shape) == (dtype, (2, 3))
    assert rest == [1 << 40, None]
    assert named == {"a": "text", "b": 0.5}
    assert write_examples(tree, [meta, 1 << 40, None, "text", 0.5], limits=Limits(example_elements=5)) == b""
