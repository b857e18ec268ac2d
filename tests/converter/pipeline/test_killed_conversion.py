"""A conversion that is killed outright, wherever it is, ends in the same bytes when it is resumed."""

import hashlib
import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from quick_measurements import quicken

from aslconvert.cli.main import main
from aslconvert.converter.heal import distil, loop
from aslconvert.converter.heal.checkpoint import write_checkpoint
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline.plan_file import identity_of, plan_bytes
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.state import FOLDER
from aslconvert.converter.pipeline.subject import open_subject
from aslconvert.converter.pipeline.survey import Survey
from aslconvert.converter.pipeline.variants import Made

pytestmark = pytest.mark.long

STEPS = 40
CHECKPOINT = "a checkpoint is written\n"
ROWS = ({"0": 6, "2": 40}, {"0": 16, "2": 48})


@pytest.fixture(scope="module")
def plan(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants whose costs are given instead of measured: what the clock decides cannot be repeated."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    options = ConvertOptions()
    subject = open_subject(str(workshop / "net.pt2"), data=str(workshop / "data.npz"), options=options)
    names = [site.name for site in subject.sites]
    costs = {name: {None: 1.0, **{rows[name]: 0.4 for rows in ROWS if name in rows}} for name in names}
    found = Survey(
        costs=costs, kept={}, damage={name: {row[name]: 0.1 for row in ROWS} for name in ROWS[0]}, importance={}
    )
    made = [
        Made(Planned(f"x{2 + i}.00", {**dict.fromkeys(names), **rows}, 2.0 + i, 2.0), subject.gm, {}, 0.0, 0, 0.0, 0.0)
        for i, rows in enumerate(ROWS)
    ]
    for variant in made:
        variant.steps_asked = STEPS
    path.write_bytes(plan_bytes(made, found, chosen="x2.00", packed=True, identity=identity_of(subject, options)))
    return path


def arguments(workshop: Path, out: Path, *more: str) -> list[str]:
    inputs = [str(workshop / "net.pt2"), "--data", str(workshop / "data.npz"), "--out", str(out)]
    wish = ["--threads", "1", "--heal-steps", str(STEPS), "--max-drop", "9", "--artifacts", "weights"]
    return ["convert", *inputs, *wish, *more]


def killed(command: list[str], *, stage: str, checkpoints: int = 0) -> None:
    """Run the command in a process of its own; kill it in ``stage``, after so many checkpoints."""
    with subprocess.Popen([sys.executable, __file__, *command], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(stage):
                break
        while checkpoints > 0:
            checkpoints -= process.stderr.readline() == CHECKPOINT
        # Whatever it is at by then, the writing of the next one included.
        process.send_signal(signal.SIGKILL)
        process.stderr.read()
        assert process.wait() == -signal.SIGKILL


def sha256(out: Path) -> str:
    return hashlib.sha256((out / "weights.safetensors").read_bytes()).hexdigest()


def test_a_killed_conversion_is_resumed_to_the_same_bytes(
    quick: None, workshop: Path, plan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main(arguments(workshop, whole, "--plan", str(plan))) == 0
    command = arguments(workshop, out, "--plan", str(plan))
    killed(command, stage="fit x3.00")
    name = random.choice(("x2.00", "x3.00"))
    killed([*command, "--resume"], stage=f"heal {name}", checkpoints=random.randint(1, STEPS - 10))
    assert main([*command, "--resume"]) == 0
    assert sha256(out) == sha256(whole)
    assert not (out / FOLDER).exists()
    capfd.readouterr()


def test_a_conversion_killed_while_it_searches_leaves_nothing_that_would_be_continued(
    quick: None, workshop: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    killed(arguments(workshop, out), stage="damage of each site")
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["run.json"]
    assert set(json.loads((out / FOLDER / "run.json").read_text())) == {"fingerprint"}


def tell_checkpoints(path: Path, record: dict[str, Any]) -> None:
    write_checkpoint(path, record)
    sys.stderr.write(CHECKPOINT)
    sys.stderr.flush()


if __name__ == "__main__":
    quicken()
    distil.CHECKPOINT_SECONDS = 0.0
    loop.write_checkpoint = tell_checkpoints
    sys.exit(main(sys.argv[1:]))
