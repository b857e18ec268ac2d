"""Every named pass is checked after it ran, and what it did is written down."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from aslconvert.converter.errors import InternalError
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.ir.graph import aten, copy_graph, graph_module
from aslconvert.converter.passes.fast import fast_form
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.passes.stages import DEPLOYED, FAST, FOLDED, PACKED, PASSES, Stages

Exported = Callable[[str], tuple[nn.Module, ExportedProgram]]


@pytest.fixture(scope="module")
def variant(
    exported: Exported, random_blocks: Callable[[fx.GraphModule], dict[str, Block]]
) -> tuple[ExportedProgram, fx.GraphModule]:
    program = exported("demosaicker")[1]
    gm = graph_module(program)
    return program, replace_sites(gm, random_blocks(gm))


def calls(gm: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in gm.graph.nodes if node.op == "call_function"]


def test_the_stages_are_the_forms_that_are_timed(
    variant: tuple[ExportedProgram, fx.GraphModule], difference: Callable[[Tensor, Tensor], float], tmp_path: Path
) -> None:
    program, gm = variant
    (tmp_path / "99-lower.after.txt").write_text("of an earlier run")
    (tmp_path / "mine.txt").write_text("mine")
    stages = Stages(program, folder=tmp_path)
    folded = stages.run(FOLDED, gm)
    deployed, fast = stages.run(DEPLOYED, folded), stages.run(FAST, folded)
    assert calls(deployed) == calls(lower(fold_batch_norm(gm)))
    assert calls(fast) == calls(fast_form(fold_batch_norm(gm)))
    assert set(FOLDED + DEPLOYED + FAST + PACKED) < set(PASSES)
    x = torch.randn(3, 3, 40, 28)
    with torch.no_grad():
        assert difference(stages.exported(deployed).module()(x), gm(x)) <= 1e-5
    names = [step.name for step in stages.steps]
    assert names == [*FOLDED, *DEPLOYED, *FAST]
    assert all(step.difference is not None and step.difference <= 1e-5 for step in stages.steps)
    assert any(step.changed for step in stages.steps)
    lines = (tmp_path / "passes.txt").read_text().splitlines()
    assert lines == [f"{index:02d} {step.line}" for index, step in enumerate(stages.steps, start=1)]
    written = {path.name for path in tmp_path.iterdir()} - {"passes.txt"}
    whens = ("before", "after")
    assert written == {f"{i:02d}-{n}.{when}.txt" for i, n in enumerate(names, start=1) for when in whens} | {"mine.txt"}
    assert "asl.shift_pointwise" in (tmp_path / "04-fuse.after.txt").read_text()


def scaled(gm: fx.GraphModule) -> fx.GraphModule:
    gm = copy_graph(gm)
    output = next(node for node in gm.graph.nodes if node.op == "output")
    (result,) = output.args[0]
    with gm.graph.inserting_before(output):
        output.args = ((gm.graph.call_function(aten.mul.Tensor, (result, 1.001)),),)
    gm.recompile()
    return gm


def cropped(gm: fx.GraphModule) -> fx.GraphModule:
    gm = copy_graph(gm)
    output = next(node for node in gm.graph.nodes if node.op == "output")
    (result,) = output.args[0]
    with gm.graph.inserting_before(output):
        output.args = ((gm.graph.call_function(aten.slice.Tensor, (result, 3, 0, 20)),),)
    gm.recompile()
    return gm


@pytest.mark.parametrize(("broken", "code"), [(scaled, "pass_changed_outputs"), (cropped, "pass_changed_shapes")])
def test_a_pass_that_breaks_the_graph_is_named(
    variant: tuple[ExportedProgram, fx.GraphModule],
    broken: Callable[[fx.GraphModule], fx.GraphModule],
    code: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program, gm = variant
    monkeypatch.setitem(PASSES, "lower", broken)
    with pytest.raises(InternalError, match="The pass lower") as caught:
        Stages(program).run(("fold_batch_norm", "lower"), gm)
    assert caught.value.code == code


def test_a_pass_that_need_not_preserve_is_checked_for_sizes_alone(
    variant: tuple[ExportedProgram, fx.GraphModule],
) -> None:
    program, gm = variant
    stages = Stages(program)
    stages.record("replace_sites", gm, scaled(gm), preserves=False)
    assert "not meant to preserve" in stages.steps[0].line
    with pytest.raises(InternalError):
        stages.record("replace_sites", gm, cropped(gm), preserves=False)


def test_a_weight_that_changes_alone_is_a_change(variant: tuple[ExportedProgram, fx.GraphModule]) -> None:
    program, gm = variant
    other = copy_graph(gm)
    for parameter in other.parameters():
        parameter.data.mul_(1.5)
    with pytest.raises(InternalError) as caught:
        Stages(program).record("lower", gm, other)
    assert caught.value.code == "pass_changed_outputs"
