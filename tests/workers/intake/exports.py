"""Real exports through intake: `python tests/workers/intake/exports.py [NAME ...]` takes networks of the zoo.

Each is exported, saved, rebuilt and loaded; outputs must be those of the file as it was, bit for bit, and a second
rebuild the same bytes. `--folder` keeps the exports, so that a second run need not make them again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from aslconvert.converter.ir.quiet import quiet
from aslconvert.workers.intake.program import Rebuilt, rebuild_program
from aslconvert.workers.intake.refusal import Refused


def rebuilt_twice(source: Path, folder: Path) -> Rebuilt:
    """`source` rebuilt as ``once.pt2``; raises AssertionError where a second time gives other bytes."""
    rebuilt = rebuild_program(source, folder / "once.pt2")
    again = rebuild_program(source, folder / "twice.pt2")
    assert rebuilt.path.read_bytes() == again.path.read_bytes(), "a second rebuild gives other bytes"
    return rebuilt


def outputs(file: Path, inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None) -> tuple[Any, Any]:
    """(outputs, the inputs that they are of): the program's own examples where none are given."""
    with quiet(), torch.no_grad():
        program = torch.export.load(file)
        args, kwargs = inputs or program.example_inputs
        return program.module()(*pytree.tree_map(fresh, args), **pytree.tree_map(fresh, kwargs)), (args, kwargs)


def fresh(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def assert_identical(one: Any, other: Any) -> None:
    """The same containers, shapes, types and bits."""
    leaves, tree = pytree.tree_flatten(one)
    others, other_tree = pytree.tree_flatten(other)
    assert tree == other_tree, "the containers differ"
    for a, b in zip(leaves, others, strict=True):
        if isinstance(a, torch.Tensor):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), "types or shapes differ"
            same = a.contiguous().view(torch.uint8) == b.contiguous().view(torch.uint8) if a.dim() else a == b
            assert bool(same.all()), "the values differ"
        else:
            assert a == b, "the values differ"


def check(source: Path, folder: Path) -> Rebuilt:
    """All of the above for one file, and that the examples written fresh fit."""
    rebuilt = rebuilt_twice(source, folder)
    before, inputs = outputs(source)
    assert_identical(before, outputs(rebuilt.path, inputs)[0])
    again, made_up = outputs(rebuilt.path)
    shapes = [getattr(leaf, "shape", None) for leaf in pytree.tree_leaves(inputs)]
    assert shapes == [getattr(leaf, "shape", None) for leaf in pytree.tree_leaves(made_up)], "the examples differ"
    assert len(pytree.tree_leaves(again)) == len(pytree.tree_leaves(before))
    return rebuilt


def export_zoo(names: Iterable[str], folder: Path) -> Iterable[tuple[str, Path | str]]:
    """(name, file), or what kept a network from being exported."""
    sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
    from zoo.nets import NETS, Missing

    from aslconvert.converter.ir.load import export_model

    for name in names or NETS:
        file = folder / f"{name}.pt2"
        if not file.exists():
            torch.manual_seed(0)
            try:
                program = export_model(NETS[name].build().eval(), (torch.rand(NETS[name].shape),), name=name)
            except Missing as missing:
                yield name, str(missing)
                continue
            torch.export.save(program, file)
        yield name, file


def main() -> int:
    """Prints a line a network; 1 where one was refused or differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    failed = passed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in export_zoo(options.names, folder):
            if isinstance(file, str):
                say(f"left out {name}: {file}")
                continue
            start = time.monotonic()
            try:
                rebuilt = check(file, Path(temporary))
            except (AssertionError, Refused) as error:
                failed += 1
                say(f"FAILED   {name}: {error}")
                continue
            passed += 1
            calls = sum(rebuilt.operators.values())
            say(f"same     {name}: {calls} calls, {rebuilt.tensors} tensors, {time.monotonic() - start:.1f} s")
    say(f"{passed} the same, {failed} failed")
    return 1 if failed else 0


def say(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
