"""Standard output holds the answer alone, whoever else prints."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from aslconvert.cli.console import plain


@dataclasses.dataclass
class Point:
    x: float
    path: Path


def test_plain_takes_dataclasses_and_drops_what_json_cannot_hold() -> None:
    value = plain({"points": (Point(math.nan, Path("a/b")),), 3: {1.5}})
    assert json.loads(json.dumps(value)) == {"points": [{"x": None, "path": "a/b"}], "3": [1.5]}


def test_plain_refuses_what_has_no_json_form() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        plain(object())


def test_what_others_print_goes_to_stderr() -> None:
    code = """
import os
from aslconvert.cli.console import answer_stream, write_json
print("before")
with answer_stream() as stream:
    print("python chatter")
    os.system("echo native chatter")
    write_json({"a": 1}, stream)
print("after")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["before", "{", '"a":', "1", "}", "after"]
    assert "python chatter" in done.stderr
    assert "native chatter" in done.stderr
