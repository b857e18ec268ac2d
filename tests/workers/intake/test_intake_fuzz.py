"""Whatever is damaged, the outcome is a rebuilt file or a coded refusal, and never another exception."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import mutations
import pytest
from corpus_parts import REBUILT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aslconvert.workers.intake.codes import CODES
from aslconvert.workers.intake.jsontext import parse
from aslconvert.workers.intake.limits import DEFAULT, Limits
from aslconvert.workers.intake.refusal import Refused
from aslconvert.workers.intake.symbolic import FUNCTIONS, Expression, parse_expression

OUTCOMES = CODES.keys() | {REBUILT}
# The folder is made once and its files are written anew by every example.
LOOSE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def fine(tiny: Path) -> dict[str, bytes]:
    return mutations.bases(tiny.read_bytes())


def code_of(call: Callable[[], object]) -> str:
    """The code of the refusal, or nothing."""
    try:
        call()
    except Refused as refused:
        return refused.code
    return ""


def test_the_files_to_damage_are_fine(fine: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in fine.items():
        kind = "model" if name in ("pt2", "onnx", "safetensors") else "data"
        assert mutations.outcome(kind, content, tmp_path) == REBUILT, name


@settings(LOOSE, max_examples=300)
@given(seed=st.integers(0, 1 << 60))
def test_damaged_files(fine: dict[str, bytes], tmp_path: Path, seed: int) -> None:
    kind, content = mutations.mutant(fine, Random(seed))
    assert mutations.outcome(kind, content, tmp_path) in OUTCOMES


@settings(LOOSE, max_examples=100)
@given(content=st.binary(max_size=600), kind=st.sampled_from(("model", "data")), start=st.sampled_from(
    (b"", b"PK\x03\x04", b"\x08\x09", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\x00", b"\x20\0\0\0\0\0\0\0{")
))  # fmt: skip
def test_noise(tmp_path: Path, content: bytes, kind: str, start: bytes) -> None:
    assert mutations.outcome(kind, start + content, tmp_path) in CODES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


@settings(deadline=None, max_examples=200)
@given(text=st.text(alphabet='[]{}",:\\ 0123eE+-.truefalsn', max_size=60) | JSON.map(repr))
def test_json_is_parsed_or_refused(text: str) -> None:
    def read() -> object:
        return parse(text.encode("utf-8", "surrogatepass"), entry="x", limits=Limits(json_depth=5, json_values=20))

    assert code_of(read) in ("", "json_damaged", "json_too_deep", "json_too_large", "number_too_large")


LEAVES = st.builds(lambda n: Expression("Integer", str(n)), st.integers(-(1 << 62), 1 << 62)) | st.builds(
    lambda n, p: Expression("Symbol", f"s{n}", (), p), st.integers(0, 999), st.booleans()
)
WIDE = [head for head, (least, most) in FUNCTIONS.items() if most > 2 and head != "ModularIndexing"]
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        lambda head, parts: Expression(head, "", tuple(parts)),
        st.sampled_from(sorted(set(WIDE) - {"Where"})),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(expression=EXPRESSIONS)
def test_what_is_printed_is_read_as_the_same(expression: Expression) -> None:
    assert parse_expression(expression.printed(), entry="x", limits=DEFAULT) == expression


@settings(deadline=None, max_examples=200)
@given(text=st.text(alphabet="s0123u+-*/%() ,'=<>&|~AdMulx.", max_size=40))
def test_expressions_are_read_or_refused(text: str) -> None:
    def read() -> Expression:
        return parse_expression(text, entry="x", limits=DEFAULT)

    code = code_of(read)
    assert code in ("", "expression_invalid", "expression_too_large")
    if not code:
        assert parse_expression(read().printed(), entry="x", limits=DEFAULT).printed() == read().printed()


S0 = "Symbol('s0', positive=True, integer=True)"
U1 = "Symbol('u1', integer=True)"


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("s0 + 1", f"Add({S0}, Integer(1))"),
        ("2*s0 - u1", f"Add(Mul(Integer(2), {S0}), Mul(Integer(-1), {U1}))"),
        ("(s0 - 1)//2", f"FloorDiv(Add({S0}, Mul(Integer(-1), Integer(1))), Integer(2))"),
        ("s0**2", f"Pow({S0}, Integer(2))"),
        ("Max(1, s0 % 3) >= 2", f"GreaterThan(Max(Integer(1), Mod({S0}, Integer(3))), Integer(2))"),
        ("Eq(s0, -4)", f"Equality({S0}, Integer(-4))"),
        ("Add(Symbol('u1', integer=True), Integer(-3))", f"Add({U1}, Integer(-3))"),
    ],
)
def test_both_notations_are_read(text: str, printed: str) -> None:
    assert parse_expression(text, entry="x", limits=DEFAULT).printed() == printed


def test_the_script_fuzzes(tiny: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("fuzz.py")
    command = [
        sys.executable,
        str(script),
        "--seconds",
        "300",
        "--files",
        "30",
        "--seed",
        "1",
        "--base",
        str(tiny),
        "--findings",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^(\d+) files, \d+ outcomes, 0 findings$", done.stdout, re.MULTILINE)
    assert found is not None
    assert int(found[1]) == 30
