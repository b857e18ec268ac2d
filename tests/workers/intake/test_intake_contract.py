"""Intake loads without torch; its lists and its page are what the code says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import derive_operators
import pytest
import torch

from aslconvert.workers.intake import names
from aslconvert.workers.intake.codes import CODES
from aslconvert.workers.intake.limits import DEFAULT
from aslconvert.workers.intake.operators import allowed

ROOT = Path(__file__).parents[3]
MODULES = sorted(path.stem for path in (ROOT / "workers" / "intake").glob("*.py") if path.stem != "__init__")


def test_nothing_here_loads_torch_or_the_converter() -> None:
    imports = "; ".join(f"import aslconvert.workers.intake.{module}" for module in MODULES)
    told = "print(sorted(m for m in sys.modules if m == 'torch' or m.startswith('aslconvert.converter')))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {imports}; {told}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_page_lists_every_code() -> None:
    page = (ROOT / "docs" / "intake.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| (.+) \| (.+) \|$", page, re.MULTILINE)
    assert rows == [(code, told.meaning, told.hint) for code, told in CODES.items()]


def test_every_code_is_raised_somewhere() -> None:
    source = "".join(
        path.read_text("utf-8") for path in (ROOT / "workers" / "intake").glob("*.py") if path.stem != "codes"
    )
    assert [code for code in CODES if f'"{code}"' not in source] == []
    raised = set(re.findall(r'(?:Refused|refused)\(\s*"([a-z0-9_]+)"', source))
    assert raised <= CODES.keys()


@pytest.mark.parametrize("limit", ["graph_nodes", "tensor_elements", "json_bytes", "pixels", "ratio"])
def test_the_page_tells_the_limits(limit: str) -> None:
    page = (ROOT / "docs" / "intake.md").read_text("utf-8")
    assert f"| `{limit}` | {getattr(DEFAULT, limit):,} |" in page


def test_the_operators_are_the_derived_ones() -> None:
    """In the torch that the list was derived with; others know some by other names."""
    derived = set(derive_operators.derived())
    assert len(allowed()) > 500
    if torch.__version__.startswith("2.13."):
        assert derived == allowed()
    else:
        assert len(derived & allowed()) > 0.9 * len(allowed())


def test_no_operator_touches_files_or_memory() -> None:
    bad = ("from_file", "set_", "resize", "as_strided", "storage", "load", "save", "sparse", "empty", "print", "random")
    assert [target for target in allowed() if any(f".{word}" in target or f"_{word}" in target for word in bad)] == []
    assert all(target.startswith(("torch.ops.aten.", "_operator.", "torch.sym_", "math.")) for target in allowed())
    assert "_operator.attrgetter" not in allowed()


def test_no_allowed_operator_writes_to_a_given_output() -> None:
    for target in allowed():
        if target.startswith("torch.ops.aten."):
            _, _, _, name, overload = target.split(".")
            packet = getattr(torch.ops.aten, name, None)
            if packet is not None and overload in packet.overloads():
                assert not any(argument.is_out for argument in getattr(packet, overload)._schema.arguments), target


def test_parameters_may_not_be_called_as_a_modules_own() -> None:
    # In a fresh process: libraries that other tests import hang methods of theirs on every module.
    code = "import json, torch; print(json.dumps([name for name in dir(torch.nn.Module()) if name[0] != '_']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = {*json.loads(done.stdout), "_parameters", "_buffers", "_modules"}
    assert own - names.ATTRIBUTES - {"training"} == set()
    assert not names.is_dotted("layer.forward", 100)
    assert names.is_dotted("layer1.0.conv.weight", 100)
    assert names.is_dotted("branches.1x1-pool.weight", 100)
