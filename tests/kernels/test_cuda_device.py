"""The CUDA ops on a GPU; nothing runs where there is none."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch._inductor.config
from hypothesis import given, settings
from hypothesis import strategies as st

import aslconvert.kernels

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(aslconvert.kernels.build_info().get("cuda", "none") == "none", reason="built without CUDA"),
]


def _load() -> ModuleType:
    path = Path(__file__).parent / "cuda" / "device_checks.py"
    spec = importlib.util.spec_from_file_location("kernel_device_checks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kernel_device_checks"] = module
    spec.loader.exec_module(module)
    return module


checks = _load()


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_ops_equal_the_reference(dtype: torch.dtype, seed: int) -> None:
    checks.check_problem(seed, dtype)


# Inductor imports what torch itself has deprecated, and its pool of processes may outlive the test.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.parametrize("name", checks.CHECKS)
def test_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    checks.CHECKS[name]()
