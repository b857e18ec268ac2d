"""The documents keep their word: commands exist, links resolve, and the house rules hold."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from aslconvert.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "converter", "workers", "service", "cli", "tests", "examples", "benchmarks")
README = (ROOT / "README.md").read_text()
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL))
COMMANDS = sorted({line.split("#")[0].strip() for line in BLOCKS.splitlines() if line.startswith("aslconvert ")})


def test_readme_opens_with_the_two_commands() -> None:
    block = README.split("```sh\n", 1)[1].split("```", 1)[0]
    assert [line.split("#")[0].strip() for line in block.strip().splitlines()] == ["make demo", "make test"]
    assert len(README.split("```sh\n", 1)[0].splitlines()) <= 2


def test_ci_runs_what_the_readme_says() -> None:
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")


@pytest.mark.parametrize("line", COMMANDS)
def test_readme_uses_commands_and_options_that_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = line.split()
    assert main([words[1], "--help"]) == 0
    known = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", capsys.readouterr().out.replace(",", " ")))
    assert {word for word in words[2:] if word.startswith("-")} <= known


def test_readme_names_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    codes = set(re.findall(r"\b\d+\b", capsys.readouterr().out.split("Exit codes:")[1]))
    told = README.split("Exit codes:")[1].split("\n\n")[0]
    assert codes <= set(re.findall(r"\b\d+\b", told))


def test_make_targets_of_the_documents_exist() -> None:
    named = {target for text in DOCUMENTS for target in re.findall(r"\bmake ([a-z-]+)\b", _code(text.read_text()))}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert named
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "adr").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_no_file_is_longer_than_500_lines() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in {".py", ".cpp", ".h"}]
    assert not [str(path) for path in files if len(path.read_text().splitlines()) > 500]


def test_test_files_have_unique_names() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_ruff_refuses_the_bare_names_of_rooms() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--config", str(ROOT / "pyproject.toml"), "-"],
        input="import kernels\nfrom converter.ir import site\nfrom aslconvert import cli\n",
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert done.stdout.count("TID251") == 2


def _code(text: str) -> str:
    """The code of a document: its blocks and its spans."""
    return " ".join(re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL))
