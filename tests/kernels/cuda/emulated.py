"""Compiles a CUDA source with g++ against the emulator and calls its launchers on CPU tensors."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SOURCES = ROOT / "kernels" / "csrc" / "cuda"
BUILD = ROOT / "build" / "emulated"
RUNTIME = ("emulate.cpp", "watch.cpp", "tensor_cores.cpp")
COMPILER = shutil.which("g++")
FLAGS = ("-std=c++20", "-O1", "-g1", "-fPIC", "-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-Wno-unknown-pragmas")
# Their calls are answered by watch.cpp; the sanitizers' own libraries are never linked.
CHECKS = (
    "-fsanitize=thread",
    "--param=tsan-instrument-func-entry-exit=0",
    "-fsanitize=alignment,bounds,signed-integer-overflow,shift,integer-divide-by-zero,float-cast-overflow",
)


class KernelFault(RuntimeError):
    """A race, an access out of bounds, a deadlock or whatever else the emulator saw; or the launcher's own refusal."""


class Read:
    """A tensor argument that the kernel may only read."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _run(command: Sequence[str | os.PathLike[str]]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")


def _publish(made: Path, target: Path) -> Path:
    """Renames into place, so that tests that run at once never see half a file."""
    os.replace(made, target)
    return target


def _digest(paths: Sequence[Path], extra: str = "") -> str:
    content = hashlib.sha256(repr((FLAGS, CHECKS, extra)).encode())
    for path in sorted(paths):
        content.update(path.name.encode() + b"\0" + path.read_bytes())
    return content.hexdigest()[:16]


def _object(source: Path, flags: Sequence[str], headers: Sequence[Path]) -> Path:
    target = BUILD / f"{source.stem}-{_digest([source, *headers], repr(flags))}.o"
    if not target.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            made = Path(folder) / "made.o"
            include = (f"-I{HERE}", f"-I{SOURCES}")
            _run([str(COMPILER), *FLAGS, *flags, *include, "-x", "c++", "-c", source, "-o", made])
            _publish(made, target)
    return target


def compile_library(sources: Sequence[Path], definitions: Sequence[str] = ()) -> Path:
    """The shared library of these CUDA sources for the CPU, cached by content.

    Raises:
        RuntimeError: the compiler is missing or refuses the source; its words are in the message.
    """
    if COMPILER is None:
        raise RuntimeError("g++ is not installed")
    headers = [*HERE.glob("*.h"), *SOURCES.glob("*.cuh"), *SOURCES.glob("*.h")]
    flags = [*CHECKS, "-DASL_EMULATE", *(f"-D{definition}" for definition in definitions)]
    objects = [_object(source, flags, headers) for source in sources]
    objects += [_object(HERE / name, (), headers) for name in RUNTIME]
    target = BUILD / f"{sources[0].stem}-{_digest(objects)}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            made = Path(folder) / "made.so"
            _run([COMPILER, "-shared", "-Wl,-Bsymbolic", *objects, "-ldl", "-o", made])
            _publish(made, target)
    return target


class Emulated:
    """Launchers compiled for the CPU. A launcher returns a message, or null where all went well."""

    def __init__(self, *sources: Path, definitions: Sequence[str] = ()) -> None:
        self.path = compile_library(sources, definitions)
        self._library = ctypes.CDLL(str(self.path))
        self._library.emulate_buffer.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def call(self, launcher: str, *arguments: object, seed: int = 0) -> None:
        """Calls an extern "C" launcher under the scheduler's `seed`.

        Tensors (`Read(tensor)` where the kernel must not write) become pointers to their first element, and only their
        storage may be touched. Other arguments are passed on as ctypes values, int as int64 and None as a null pointer.

        Raises:
            KernelFault: the launcher returned a message.
        """
        self._library.emulate_begin(ctypes.c_uint64(seed))
        values: list[object] = []
        for position, argument in enumerate(arguments):
            tensor = argument.tensor if isinstance(argument, Read) else argument
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                name = f"argument {position} {list(tensor.shape)}".encode()
                self._library.emulate_buffer(
                    name, storage.data_ptr(), storage.nbytes(), int(not isinstance(argument, Read))
                )
                values.append(ctypes.c_void_p(tensor.data_ptr()))
            elif argument is None:
                values.append(ctypes.c_void_p(None))
            elif isinstance(argument, int):
                values.append(ctypes.c_int64(argument))
            else:
                values.append(argument)
        function = getattr(self._library, launcher)
        function.restype = ctypes.c_char_p
        message = function(*values)
        if message is not None:
            raise KernelFault(self._with_source_lines(message.decode()))

    def number(self, function: str, *arguments: object) -> int:
        """The integer that a host function of the sources returns."""
        call = getattr(self._library, function)
        call.restype = ctypes.c_int64
        value: int = call(*arguments)
        return value

    def _with_source_lines(self, message: str) -> str:
        tool = shutil.which("addr2line")
        found = re.search(r"\+(0x[0-9a-f]+)", message)
        if tool is None or found is None:
            return message
        lines = subprocess.run(
            [tool, "-s", "-i", "-e", str(self.path), found[1]], capture_output=True, text=True, check=False
        )
        return message.replace(found[0], " from ".join(lines.stdout.split("\n")[:-1]))
