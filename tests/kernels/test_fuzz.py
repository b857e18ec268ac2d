"""Random calls of every op, right and broken: what the reference gives or a clear error; never a crash, never a hang.

The calls run in a process of their own; hypothesis shrinks what ends it. `make fuzz` runs longer.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aslconvert.kernels import ops

FOLDER = Path(__file__).parent
NAMES = ("fuzz_inputs", "fuzz", "fuzz_worker")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def worker(scripts: dict[str, ModuleType]) -> Iterator[Any]:
    process = scripts["fuzz"].Worker()
    yield process
    process.close(for_good=True)


def test_every_op_is_fuzzed(scripts: dict[str, ModuleType]) -> None:
    schemas = scripts["fuzz"].schemas()
    assert set(schemas) == {schema.split("(")[0] for schema in ops.SCHEMAS}
    for names in schemas.values():
        # Raises for an argument that the fuzz was not taught.
        assert list(scripts["fuzz_inputs"].right_call(Random(0), names, ["float32"])) == names


@pytest.mark.parametrize("odd", [False, True], ids=["right", "broken"])
@settings(max_examples=250, deadline=None)
@given(draw=st.randoms(use_true_random=False))
def test_calls_equal_the_reference_or_are_refused(
    worker: Any, scripts: dict[str, ModuleType], odd: bool, draw: Random
) -> None:
    fuzz = scripts["fuzz"]
    call = scripts["fuzz_inputs"].random_call(draw, fuzz.schemas(), fuzz.dtypes(), odd=odd)
    verdict, text = worker.ask(call)
    assert verdict in ("value", "error", "skipped"), f"{verdict}: {text}\n{call}"
    assert odd or verdict == "value", f"{verdict}: {text}\n{call}"


def test_the_fuzz_reaches_values_and_errors(worker: Any, scripts: dict[str, ModuleType]) -> None:
    fuzz, draw = scripts["fuzz"], Random(0)
    verdicts = Counter(
        worker.ask(scripts["fuzz_inputs"].random_call(draw, fuzz.schemas(), fuzz.dtypes(), odd=True))[0]
        for _ in range(200)
    )
    assert min(verdicts["value"], verdicts["error"]) > 40, verdicts
    assert verdicts["skipped"] < 20, verdicts


def test_a_crash_a_hang_and_a_wrong_result_are_seen(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuzz = scripts["fuzz"]
    bad = tmp_path / "worker.py"
    bad.write_text(
        "import os, sys, threading\n"
        'print(\'["ready", ""]\', flush=True)\n'
        "for line in sys.stdin:\n"
        "    if 'crash' in line: os.abort()\n"
        "    if 'hang' in line: threading.Event().wait()\n"
        '    print(\'["value", ""]\', flush=True)\n'
    )
    monkeypatch.setattr(fuzz, "WORKER", bad)
    monkeypatch.setattr(fuzz, "PATIENCE", 1.0)
    worker = fuzz.Worker()
    assert [worker.ask({"op": name})[0] for name in ("crash", "fine", "hang", "fine")] == [
        "crashed",
        "value",
        "hung",
        "value",
    ]
    worker.close(for_good=True)


@pytest.mark.parametrize("changed", [{"shift": torch.tensor([[0.3, 0.5]] * 3)}, {"source": torch.tensor([2, 1, 0])}])
def test_the_judge_sees_a_wrong_result(scripts: dict[str, ModuleType], changed: dict[str, Tensor]) -> None:
    judge = scripts["fuzz_worker"]
    x = {
        "shape": [1, 3, 5, 5],
        "dtype": "float32",
        "layout": "contiguous",
        "fill": "normal",
        "device": "cpu",
        "seed": 1,
    }
    shift = {**x, "shape": [3, 2], "seed": 2}
    call = {"op": "active_shift", "arguments": {"x": x, "shift": shift}}
    arguments = {"x": judge.make_tensor(x), "shift": judge.make_tensor(shift), "source": None}
    arguments |= {"stride": [1, 1], "delta": [-1, -1]}
    (right,), _ = judge.run(judge.oracle("active_shift"), arguments)
    (wrong,), _ = judge.run(judge.oracle("active_shift"), arguments | changed)
    assert judge.compare((right,), (right,), call, values=True)[0] == "value"
    for result in (wrong, right[:, :2], right.double(), right.log()):
        assert judge.compare((result,), (right,), call, values=True)[0] == "wrong"


def test_the_judge_allows_no_refusal_but_for_memory_that_is_needed(scripts: dict[str, ModuleType]) -> None:
    judge = scripts["fuzz_worker"]
    small, large = {"x": torch.zeros(2, 3)}, torch.empty(2**23, device="meta")
    short = RuntimeError("not enough memory: you tried to allocate 5 bytes")
    assert judge._may_refuse(short, small, (large,))
    assert not judge._may_refuse(short, small, (torch.zeros(9),))
    assert not judge._may_refuse(RuntimeError("an output line is too long"), small, (large,))
    shift = {"shift": torch.zeros(1, 2).expand(2**24 + 1, 2)}
    assert judge._may_refuse(RuntimeError("shift has 16777217 rows, more than 2^24"), shift, ())
    assert not judge._may_refuse(RuntimeError("shift has 4 rows, more than 2^24"), {"shift": torch.zeros(4, 2)}, ())


def test_a_result_too_large_for_the_reference_is_judged_by_its_shape(scripts: dict[str, ModuleType]) -> None:
    judge, shape = scripts["fuzz_worker"], {"dtype": "float32", "layout": "contiguous", "device": "cpu", "seed": 1}
    x = {**shape, "shape": [1, 1, 3], "fill": "normal"}
    shift = {**shape, "shape": [1, 1], "fill": "normal"}
    arguments = {"x": x, "shift": shift, "source": None, "stride": [1], "delta": [2**25]}
    call = {"op": "active_shift", "arguments": arguments, "threads": torch.get_num_threads(), "right": False}
    assert judge.judge(call) == ("value", "")
    nan = {**arguments, "shift": {**shift, "fill": "nan"}}
    assert judge.judge({**call, "arguments": nan})[0] == "error"
