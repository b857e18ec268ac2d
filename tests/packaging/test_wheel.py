"""The wheel holds every subpackage and the native library under `aslconvert`, and works outside the repository."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "converter", "workers", "service", "cli")
HAS_COMPILER = shutil.which("c++") is not None and shutil.which("cmake") is not None

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),  # the kernels are compiled from nothing where no build folder is left
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(folder)]
    # Code for GPUs takes minutes of one core, and is not what is tested here.
    command += ["--config-settings=cmake.define.ASL_CUDA=OFF"]
    # Nor how fast it is, or what it has for newer processors. A folder of its own, so that no other wheel is built with
    # what is kept there.
    command += ["--config-settings=cmake.build-type=Debug", "--config-settings=cmake.define.CMAKE_CXX_FLAGS_DEBUG="]
    command += ["--config-settings=cmake.define.ASL_X86_LEVELS=OFF"]
    command += ["--config-settings=build-dir=build/test-wheel"]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--target", str(target), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def sources() -> set[str]:
    """Every Python file, page and style sheet of the rooms, under the name it must have in the wheel."""
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in {".py", ".j2", ".css"}]
    return {f"aslconvert/{path.relative_to(ROOT).as_posix()}" for path in files}


def test_every_module_is_in_the_wheel(names: set[str]) -> None:
    assert sources() <= names


def test_nothing_else_is_in_the_wheel(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"aslconvert"}
    assert {name.split("/")[1] for name in names if name.startswith("aslconvert/")} == set(ROOMS)
    unwanted = (".cpp", ".h", ".inc", ".cu", ".pyc", "CMakeLists.txt")
    assert not [name for name in names if name.endswith(unwanted) or "test" in name.rsplit("/", 1)[-1].split("_")]


def test_the_namespace_has_no_init(names: set[str]) -> None:
    # With one, importing the wheel from the repository's root would find the wrong half.
    assert "aslconvert/__init__.py" not in names


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler here: the wheel runs on the reference")
def test_the_native_library_is_in_the_wheel(names: set[str], wheel: Path) -> None:
    assert "aslconvert/kernels/_asl.so" in names
    assert "none-any" not in wheel.name


def test_the_command_is_declared(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "aslconvert = aslconvert.cli.main:main" in archive.read(entry).decode().replace("=", " = ").replace(
            "  ", " "
        )


def test_it_works_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    code = f"""
import importlib, json, sys
sys.path = [sys.argv[1]] + [p for p in sys.path if not p.endswith(".dev")]
files = [importlib.import_module(f"aslconvert.{{room}}").__file__ for room in {ROOMS!r}]
import torch
from aslconvert.kernels import active_shift, is_native
x = torch.arange(16.0).reshape(1, 1, 4, 4)
y = active_shift(x, torch.tensor([[0.0, 1.0]]))
bare = [room for room in {ROOMS!r} if importlib.util.find_spec(room)]
print(json.dumps({{"files": files, "native": is_native(), "row": y[0, 0, 0].tolist(), "bare": bare}}))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(installed)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [Path(name).is_relative_to(installed) for name in answer["files"]] == [True] * len(ROOMS)
    assert answer["native"] is HAS_COMPILER
    assert answer["row"] == [1.0, 2.0, 3.0, 0.0]
    assert answer["bare"] == []
