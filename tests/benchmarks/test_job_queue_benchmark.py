"""The benchmark of claims runs, and its figures fit together."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "job_queue.py"


def test_it_prints_a_table_and_writes_the_same(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(SCRIPT), "--databases", "sqlite", "--lengths", "8,16", "--workers", "1,2"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = json.loads(out.read_text())["measurements"]
    assert [(line["workers"], line["length"], line["claims"]) for line in lines] == [
        (1, 8, 4),
        (1, 16, 8),
        (2, 8, 4),
        (2, 16, 8),
    ]
    for line in lines:
        assert 0 < line["p50_ms"] <= line["p99_ms"] <= line["longest_ms"]
        assert line["claims_per_second"] > 0
    assert done.stdout.count("| sqlite |") == 4
