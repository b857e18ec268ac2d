"""The CPU kernels under valgrind: no value is used before it was set, which AddressSanitizer does not see."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the kernels are compiled once more
    pytest.mark.skipif(
        shutil.which("valgrind") is None or shutil.which("g++") is None, reason="needs valgrind and g++"
    ),
]
# Valgrind knows no AVX-512: these are the loops of the least machine.
LEVEL = "x86-64" if platform.machine() == "x86_64" else "native"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plain_ops_memcheck", Path(__file__).with_name("plain_ops.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain_ops = _load()


def test_no_value_is_used_before_it_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIMS_RAW", "1")  # new tensors hold nothing, so that what is left unwritten is seen
    objects = plain_ops.compile_objects("g++", ["-O1", "-g", f"-march={LEVEL}"])
    program = plain_ops.link("g++", objects, tmp_path)
    memcheck = ["valgrind", "--error-exitcode=9", "--quiet", "--track-origins=yes", str(program)]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        expected = plain_ops.write_problems(tmp_path / "problems", dtype, range(20))
        actual, _ = plain_ops.run(memcheck, tmp_path)
        for got, want in zip(actual, expected, strict=True):
            plain_ops.cases.check_close(got, want)
