"""A healing in several processes is that of one, and ends with an error when one of them is gone."""

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_heal_batches import BATCH, STEPS, assert_close, healed, student_and_pool

from aslconvert.converter.errors import InfrastructureError, UsageError
from aslconvert.converter.heal import team
from aslconvert.converter.heal.member import telling
from aslconvert.converter.heal.team import FAILED, WORK, heal_together, joined, raise_failure


def members() -> list[int]:
    """Processes of ours that heal along."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            parent = path.with_name("stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"aslconvert.converter.heal.member" in words and int(parent) == os.getpid():
            found.append(int(path.parent.name))
    return found


def test_processes_heal_to_the_weights_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, alone = healed()
    gm, pool = student_and_pool()
    environment, threads = dict(os.environ), torch.get_num_threads()
    told: list[float] = []
    left: list[list[Path]] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def on_step(used: float, allowed: float, loss: float) -> None:
        told.append(loss)
        left.append(list(tmp_path.rglob(WORK)))

    together = heal_together(
        gm, pool, processes=2, seconds=math.inf, max_steps=STEPS, seed=3, batch=BATCH, checkpoint=tmp_path / "x.pt",
        on_step=on_step,
    )  # fmt: skip
    assert_close(gm.state_dict(), whole)
    # The pool is the large part, and gone as soon as all have read it.
    assert left == [[]] * STEPS
    assert (together.steps, together.kept, len(told)) == (STEPS, alone.kept, STEPS)
    assert (tmp_path / "x.pt").is_file()
    assert list(tmp_path.glob("aslconvert-heal-*")) == []
    # Nothing is left of it: what heals next in this process heals alone.
    assert members() == []
    assert (dict(os.environ), torch.get_num_threads()) == (environment, threads)
    assert not torch.distributed.is_initialized()
    again = healed()[0]
    assert all(torch.equal(value, whole[name]) for name, value in again.items())


def test_one_that_dies_ends_the_healing_with_an_error() -> None:
    gm, pool = student_and_pool()

    def kill_one(used: float, allowed: float, loss: float) -> None:
        for member in members():
            os.kill(member, signal.SIGKILL)

    with pytest.raises(InfrastructureError) as ended:
        heal_together(gm, pool, processes=2, seconds=math.inf, max_steps=100_000, seed=3, batch=BATCH, on_step=kill_one)
    assert ended.value.code == "healing_process"
    assert members() == []


def test_one_that_does_not_begin_ends_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What Python runs first of all, in every process that is started here.
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    gm, pool = student_and_pool()
    with pytest.raises(InfrastructureError) as ended:
        heal_together(gm, pool, processes=2, seconds=math.inf, max_steps=STEPS, seed=3, batch=BATCH)
    assert ended.value.code == "healing_process"
    assert "ended before it began" in ended.value.message


def test_an_interrupt_ends_all(tmp_path: Path) -> None:
    gm, pool = student_and_pool()

    def interrupt(used: float, allowed: float, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal_together(
            gm, pool, processes=2, seconds=math.inf, max_steps=STEPS, seed=3, batch=BATCH,
            checkpoint=tmp_path / "x.pt", on_step=interrupt,
        )  # fmt: skip
    assert (members(), (tmp_path / "x.pt").is_file()) == ([], True)
    # Whoever goes on from it may do so in another number of processes.
    heal_together(
        gm, pool, processes=1, seconds=math.inf, max_steps=STEPS, seed=3, batch=BATCH, checkpoint=tmp_path / "x.pt"
    )
    assert_close(gm.state_dict(), healed()[0])


@pytest.mark.parametrize("settings", [{"batch": 1}, {"fixed_batch": 20}])
def test_there_are_no_more_than_a_step_has_samples_for(settings: dict[str, int]) -> None:
    gm, pool = student_and_pool()
    notes: list[str] = []
    done = heal_together(
        gm, pool, processes=3, seconds=math.inf, max_steps=1, seed=3, on_note=notes.append, **settings
    )  # fmt: skip
    assert done.steps == 1
    assert notes == ["It is healed in 1 of the 3 processes: a step has no samples for more."]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InfrastructureError("damaged_checkpoint", "It is damaged.", hint="Check the disk."), "damaged_checkpoint"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), "out_of_memory"),
        (RuntimeError("shapes do not fit"), "healing_process"),
    ],
)
def test_what_another_process_ended_by_is_told(tmp_path: Path, error: Exception, code: str) -> None:
    with pytest.raises(type(error)), telling(tmp_path / f"{FAILED}-1"):
        raise error
    with pytest.raises(InfrastructureError) as told:
        raise_failure(tmp_path, "It ended early.")
    assert told.value.code == code


def test_a_process_of_several_starts_none(tmp_path: Path) -> None:
    with joined(tmp_path, rank=0, processes=1, threads=1), pytest.raises(UsageError) as refused:
        heal_together(*student_and_pool(), processes=2, seconds=math.inf, max_steps=STEPS, seed=3, batch=BATCH)
    assert refused.value.code == "processes"


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gm, pool = student_and_pool()
    # The same answer of the system as of a disk without space, wherever the work is to be written.
    monkeypatch.setattr(team, "WORK", "/dev/full")
    with pytest.raises(InfrastructureError) as full:
        heal_together(gm, pool, processes=2, seconds=math.inf, max_steps=STEPS, seed=3, batch=BATCH)
    assert full.value.code == "disk_full"


@pytest.mark.deep
def test_an_error_of_the_first_process_is_its_own() -> None:
    gm, pool = student_and_pool()

    def fail(used: float, allowed: float, loss: float) -> None:
        raise RuntimeError("nothing that another process has to do with")

    with pytest.raises(RuntimeError, match="nothing that another"):
        heal_together(gm, pool, processes=2, seconds=math.inf, max_steps=STEPS, seed=3, batch=BATCH, on_step=fail)
    assert members() == []


@pytest.mark.deep
@pytest.mark.parametrize("begun", [False, True])
def test_with_the_first_process_all_end(begun: bool, tmp_path: Path) -> None:
    script = f"""
import math, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_heal_team import members, student_and_pool
from aslconvert.converter.heal import team
if not {begun}:
    # While the other one loads torch, before it can ask the kernel to end with its parent.
    team._await = lambda place, others: os._exit(print(others[0].pid, flush=True) or 0)
team.heal_together(
    *student_and_pool(), processes=2, seconds=math.inf, max_steps=100_000, seed=3, batch=10,
    on_step=lambda *_: print(*members(), flush=True),
)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stdout is not None
        pid = int(first.stdout.readline().split()[-1])
        first.kill()
    # Without it the other one would wait five minutes to be met.
    until = time.monotonic() + 200
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < until
        time.sleep(0.05)
    # Once all have begun, what is left behind is small.
    assert bool(list(tmp_path.rglob(WORK))) is not begun
