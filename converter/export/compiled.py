"""A program compiled ahead of time by AOTInductor: one file that needs torch alone, for this kind of machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import fx
from torch.export import ExportedProgram

from aslconvert.converter.errors import InfrastructureError
from aslconvert.converter.ir.quiet import quiet


def compiled_bytes(program: ExportedProgram) -> bytes:
    """The AOTInductor package of a program of standard operators; takes half a minute or more.

    Its bytes differ from run to run, and it runs only on processors with this one's instruction sets.
    Raises InfrastructureError("no_aoti") with the reason, where nothing can be compiled here.
    """
    parts = [part for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)]
    if any(node.target is torch.ops.higher_order.cond for part in parts for node in part.graph.nodes):
        # Of torch 2.13: a plain network with a branch gives other numbers than in eager torch.
        raise InfrastructureError("no_aoti", "AOTInductor is not trusted with branches (torch.cond).")
    with tempfile.TemporaryDirectory(prefix="aslconvert-aoti-") as folder:
        target = Path(folder) / "model.pt2"
        try:
            with quiet():
                torch._inductor.aoti_compile_and_package(program, package_path=str(target))
            return target.read_bytes()
        # Compilers fail in many ways; all of them mean that this one artifact cannot be had here.
        except Exception as error:
            lines = str(error).strip().splitlines()
            why = lines[0] if lines else repr(error)
            raise InfrastructureError(
                "no_aoti",
                f"AOTInductor could not compile the model: {why}",
                hint="Install g++ and Python's headers, or leave aoti out of --artifacts.",
            ) from error
