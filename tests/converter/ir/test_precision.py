from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from aslconvert.converter.errors import InternalError
from aslconvert.converter.export.kinds import KINDS
from aslconvert.converter.export.verify import verify_dir
from aslconvert.converter.export.write import write_artifacts
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.ir.graph import copy_graph, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.ir.precision import MOST, allowance, as_double, run_in_double
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.passes.stages import PRESERVED, Stages

Blocks = Callable[..., dict[str, Block]]


class Magnifying(nn.Module):
    """Its outputs are at most one, what its convolution rounds off is multiplied by thousands."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 4, 3, padding=1)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.factor * self.conv(x))


def _converted(factor: float, random_blocks: Blocks) -> tuple[fx.GraphModule, torch.export.ExportedProgram]:
    program = export_model(Magnifying(factor), (torch.randn(2, 8, 16, 16),))
    gm = graph_module(program)
    return replace_sites(gm, random_blocks(gm)), program


def test_artifacts_of_a_network_that_magnifies_rounding_are_judged_by_its_own(
    random_blocks: Blocks, tmp_path: Path
) -> None:
    converted, program = _converted(1000.0, random_blocks)
    write_artifacts(tmp_path, converted, program, kinds=("portable",))
    (result,) = verify_dir(tmp_path)
    usual = KINDS["portable"].tolerance  # the largest output is one
    assert usual < result["max_abs_diff"] <= result["tolerance"] < MOST * usual
    assert any("magnifies" in note for note in result["notes"])


def test_a_usual_network_is_judged_as_ever(random_blocks: Blocks, tmp_path: Path) -> None:
    converted, program = _converted(1.0, random_blocks)
    (record,) = write_artifacts(tmp_path, converted, program, kinds=("portable",))
    assert record["notes"] == []
    (result,) = verify_dir(tmp_path)
    assert result["tolerance"] <= KINDS["portable"].tolerance


def test_a_pass_is_judged_by_the_rounding_too(random_blocks: Blocks) -> None:
    converted, program = _converted(4000.0, random_blocks)
    stages = Stages(program)
    stages.run(("lower",), converted)
    assert stages.steps[0].difference is not None
    assert stages.steps[0].difference > PRESERVED
    wrong = copy_graph(converted)
    with torch.no_grad():
        next(p for name, p in wrong.named_parameters() if name.endswith("weight")).mul_(1.0001)
    with pytest.raises(InternalError, match="changed the outputs"):
        stages.record("wrong", converted, wrong)


def test_the_allowance_is_the_usual_one_or_twice_the_rounding_within_bounds() -> None:
    assert allowance(1e-5, 0.0) == 1e-5
    assert allowance(1e-5, 1e-4) == pytest.approx(2e-4)
    assert allowance(1e-5, 1.0) == pytest.approx(MOST * 1e-5)


def test_in_double_everything_is_and_other_types_are_left_alone(
    exported: Callable[[str], tuple[nn.Module, object]],
) -> None:
    gm = graph_module(exported("odd")[1])
    x = torch.randn(2, 3, 24, 30)
    given = run_in_double(gm, (x,), {})
    assert given is not None
    assert {y.dtype for y in given if y.is_floating_point()} == {torch.float64}
    assert all(p.dtype is torch.float64 for p in as_double(gm).parameters())
    assert all(p.dtype is torch.float32 for p in gm.parameters())
    with torch.no_grad():
        torch.testing.assert_close(given[0].float(), gm(x), atol=1e-4, rtol=1e-4)
    assert run_in_double(gm.bfloat16(), (x.bfloat16(),), {}) is None


class Decoding(nn.Module):
    """Positions of maxima as numbers: quotients of integers, whose type torch states in the graph."""

    def forward(self, x: Tensor) -> Tensor:
        best, index = x.flatten(1).topk(2)
        return best + (index / x.shape[-1]).float()


def test_statements_on_types_do_not_stop_the_copy() -> None:
    x = torch.randn(2, 5, 7)
    gm = graph_module(torch.export.export(Decoding(), (x,)))
    assert any("_assert_tensor_metadata" in str(node.target) for node in gm.graph.nodes)
    (given,) = run_in_double(gm, (x,), {}) or ()
    torch.testing.assert_close(given.float(), gm(x))
