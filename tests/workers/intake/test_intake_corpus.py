"""Every hostile file has its own code, nothing of it runs, and memory stays under a gigabyte."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus
import corpus_others
import numpy as np
import pytest
import torch
from corpus_parts import REBUILT, SAMPLES, Attack, pack, unpack
from exports import assert_identical, outputs

from aslconvert.converter.ir.quiet import quiet
from aslconvert.workers.intake.codes import CODES
from aslconvert.workers.intake.program import rebuild_program
from aslconvert.workers.intake.zipread import ZipFile

JUDGE = Path(__file__).with_name("judge.py")
MEMORY = 600_000_000
"""Bytes that the judging process had in memory at most; twice what it needs for the worst of them."""
SECONDS = 10.0
"""For one file; the slowest takes 2 here, and this only says that no file keeps the service busy for long."""


@dataclass(frozen=True)
class Judged:
    attacks: dict[str, Attack]
    verdicts: dict[str, list[Any]]
    has_torch: bool
    canary: Path
    folder: Path


@pytest.fixture(scope="module")
def judged(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    folder = tmp_path_factory.mktemp("corpus")
    canary = folder / "canary"
    files = [*corpus.corpus(tiny.read_bytes(), str(canary)), *corpus_others.others(str(canary))]
    attacks = {f"{attack.kind}-{number:03d}": attack for number, attack in enumerate(files)}
    for name, attack in attacks.items():
        (folder / f"{name}.bin").write_bytes(attack.content)
    done = subprocess.run([sys.executable, str(JUDGE), str(folder)], capture_output=True, text=True, check=True)
    *lines, last = map(json.loads, done.stdout.splitlines())
    return Judged(attacks, {line[0]: line[1:] for line in lines}, last[0], canary, folder)


def test_every_attack_gets_its_code(judged: Judged) -> None:
    found = {attack.name: judged.verdicts[name][0] for name, attack in judged.attacks.items()}
    assert found == {attack.name: attack.code for attack in judged.attacks.values()}
    assert len(found) == len(judged.attacks) > 350


def test_nothing_runs_and_torch_is_not_loaded(judged: Judged) -> None:
    assert not judged.canary.exists()
    assert not judged.has_torch


def test_time_and_memory_are_bounded(judged: Judged) -> None:
    assert max(verdict[3] for verdict in judged.verdicts.values()) < SECONDS
    assert max(verdict[4] for verdict in judged.verdicts.values()) < MEMORY


def test_a_refusal_names_what_to_do_in_plain_text(judged: Judged) -> None:
    for code, _, message, *_ in judged.verdicts.values():
        if code != REBUILT:
            assert message.isascii()
            assert message.isprintable()
            assert len(message) < 1000
            assert CODES[code].hint in message


def test_a_refused_model_leaves_no_file(judged: Judged) -> None:
    for name, attack in judged.attacks.items():
        if attack.kind == "model":
            assert (judged.folder / f"{name}.out").exists() == (attack.code == REBUILT)
    assert not list(judged.folder.glob("*.part"))


def test_the_corpus_has_every_code(judged: Judged) -> None:
    """But those of the file system, of limits that take gigabytes to reach, and of functions called by themselves."""
    elsewhere = {"file_unreadable", "file_too_large", "archive_too_large", "safetensors_damaged"}
    assert {attack.code for attack in judged.attacks.values()} - {REBUILT} == CODES.keys() - elsewhere


@pytest.mark.parametrize("name", ["pickled-sample-inputs", "guards-and-traces"])
def test_what_is_made_harmless_runs_no_code_in_torch(judged: Judged, tiny: Path, name: str, tmp_path: Path) -> None:
    attack = next(attack for attack in judged.attacks.values() if attack.name == name)
    source = tmp_path / "evil.pt2"
    source.write_bytes(attack.content)
    rebuilt = rebuild_program(source, tmp_path / "fine.pt2")
    before, inputs = outputs(tiny)
    assert_identical(before, outputs(rebuilt.path, inputs)[0])
    content = rebuilt.path.read_bytes()
    assert b"secret.py" not in content
    assert b"__import__" not in content
    assert not judged.canary.exists()


def test_the_attack_works_on_torch_itself(tiny: Path, tmp_path: Path) -> None:
    """The canary is one: torch's loader runs the pickle that intake leaves out."""
    canary = tmp_path / "canary"
    attack = next(a for a in corpus.corpus(tiny.read_bytes(), str(canary)) if a.name == "pickled-sample-inputs")
    source = tmp_path / "evil.pt2"
    source.write_bytes(attack.content)
    with quiet(), pytest.raises(Exception):  # noqa: B017  (torch has no common error for it)
        torch.export.load(source)
    assert canary.exists()


def test_cut_anywhere_a_small_file_is_refused(tiny: Path, tmp_path: Path) -> None:
    parts = unpack(tiny.read_bytes())
    for name, whole in {
        "pt2": pack({**parts, SAMPLES: b""}),
        "onnx": corpus_others.model(),
        "safetensors": corpus_others.safetensors({"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}, b"abc"),
        "npz": corpus_others.npz(x=np.zeros(3)),
        "tar": corpus_others.tarred([("1.png", corpus_others.png())])[:1536],
    }.items():
        codes = cut_everywhere(name, whole, tmp_path)
        assert codes <= CODES.keys() | {REBUILT}, name
        assert REBUILT not in codes, name


def cut_everywhere(name: str, whole: bytes, folder: Path) -> set[str]:
    """The outcomes of a file at all of its shorter lengths."""
    from aslconvert.workers.intake.refusal import Refused
    from aslconvert.workers.intake.vet import vet

    source, codes = folder / f"{name}.cut", set()
    for length in range(len(whole)):
        source.write_bytes(whole[:length])
        try:
            vet(source, folder / f"{name}.out", kind="data" if name in ("npz", "tar") else "model")
            codes.add(REBUILT)
        except Refused as refused:
            codes.add(refused.code)
    return codes


def test_the_reader_tells_where_an_entry_lies(tiny: Path) -> None:
    from aslconvert.workers.intake.limits import DEFAULT

    with tiny.open("rb") as file:
        archive = ZipFile(file, limits=DEFAULT, most_entries=100)
        parts = unpack(tiny.read_bytes())
        for name, entry in archive.entries.items():
            assert archive.read(entry, at_most=1 << 20) == parts[name.partition("/")[2]]
