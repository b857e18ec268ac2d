"""Turns what the user names (a .pt2 file, or a factory in their own code) into an exported program."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl, which a converted .pt2 holds
from aslconvert.converter.errors import InfrastructureError, ModelRefused
from aslconvert.converter.ir.dims import export_dynamic
from aslconvert.converter.ir.graph import aten
from aslconvert.converter.ir.quiet import quiet

EXPORT_HINT = "Write one with `aslconvert export file.py:factory -o model.pt2`."


def load_program(spec: str, *, example: tuple[Any, ...] | None = None) -> ExportedProgram:
    """The model named by ``spec``: ``model.pt2``, ``module:factory`` or ``file.py:factory``.

    A factory takes no arguments and gives an ``nn.Module`` or ``(nn.Module, example inputs)``; ``example`` stands in
    where it gives no inputs. It is exported in eval mode, with every batch and image size dynamic that torch can keep
    dynamic (``dims.dynamic_axes`` tells which). Raises ModelRefused with a stable code.
    """
    program = _from_factory(spec, example) if is_factory(spec) else _from_file(Path(spec))
    _refuse_train_mode(program, spec)
    return program


def is_factory(spec: str) -> bool:
    """Whether ``spec`` names code (``module:factory``) and not a file."""
    return ":" in spec and not Path(spec).exists()


def export_factory(spec: str, *, example: tuple[Any, ...] | None = None) -> ExportedProgram:
    """Run the user's factory here and export what it gives. Raises ModelRefused."""
    if not is_factory(spec):
        raise ModelRefused("bad_spec", f"'{spec}' is not a factory.", hint="Write module:factory or file.py:factory.")
    return load_program(spec, example=example)


def export_model(model: nn.Module, example: tuple[Any, ...], *, name: str = "the model") -> ExportedProgram:
    """Export ``model`` in eval mode with the sizes of its inputs dynamic where possible. Raises ModelRefused."""
    # A module that shares its parameters with the caller's stays as it was: only the mode is switched, and back.
    modes = {module: module.training for module in model.modules()}
    try:
        return export_dynamic(model.eval(), example)
    except Exception as error:
        raise ModelRefused(
            "export_failed",
            f"torch.export could not trace {name}: {_first_line(error)}",
            hint="Check that the example inputs fit the model and that its forward has no data-dependent branches.",
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def _from_file(path: Path) -> ExportedProgram:
    if not path.exists():
        raise ModelRefused("not_found", f"There is no file '{path}'.", hint="Give a .pt2 file or module:factory.")
    if path.is_dir():
        raise ModelRefused("not_a_model", f"'{path}' is a folder.", hint="Give the .pt2 file in it.")
    _check_container(path)
    try:
        with quiet():
            return torch.export.load(path)
    except MemoryError as error:
        raise InfrastructureError("out_of_memory", f"There is not enough memory to load '{path}'.") from error
    except Exception as error:
        raise ModelRefused(
            "not_a_model",
            f"'{path}' is an archive, but not an exported program that torch {torch.__version__} can load: "
            f"{_first_line(error)}",
            hint=EXPORT_HINT,
        ) from error


def _check_container(path: Path) -> None:
    """A .pt2 is a zip; whole it has its directory at the end and good checksums."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InfrastructureError("unreadable", f"'{path}' cannot be read: {error.strerror}.") from error
    if not magic:
        raise ModelRefused("truncated", f"'{path}' is empty.", hint=EXPORT_HINT)
    if magic != b"PK\x03\x04":
        raise ModelRefused("not_a_model", f"'{path}' is not a .pt2 file.", hint=EXPORT_HINT)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
            # A cut file may end in an archive that it contained, which then starts somewhere inside.
            whole = min((info.header_offset for info in archive.infolist()), default=0) == 0
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
        raise ModelRefused(
            "truncated", f"'{path}' is cut short or damaged.", hint="Copy or export the file again."
        ) from error
    if damaged is not None or not whole:
        where = f"is damaged in its entry '{damaged}'" if whole else "is cut short"
        raise ModelRefused("truncated", f"'{path}' {where}.", hint="Copy or export the file again.")
    if any(name.endswith("data.pkl") for name in names) and not any("models/" in name for name in names):
        raise ModelRefused(
            "not_a_model",
            f"'{path}' is a torch.save or TorchScript file: it holds weights or a script, not an exported program.",
            hint=EXPORT_HINT,
        )


def _from_factory(spec: str, example: tuple[Any, ...] | None) -> ExportedProgram:
    made = _call(spec, _factory(spec))
    model, given = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise ModelRefused(
            "factory_failed",
            f"'{spec}' gave {_kind(made)}, not an nn.Module or (nn.Module, example inputs).",
        )
    inputs = given if example is None else example
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    if not isinstance(inputs, (tuple, list)) or not inputs:
        raise ModelRefused(
            "no_example",
            f"'{spec}' gave a model without example inputs.",
            hint="Return (model, (example_tensor,)) from the factory.",
        )
    return export_model(model, tuple(inputs), name=f"'{spec}'")


def _factory(spec: str) -> Callable[[], Any]:
    source, _, attribute = spec.rpartition(":")
    if not source or not attribute:
        raise ModelRefused("bad_spec", f"'{spec}' is not a factory.", hint="Write module:factory or file.py:factory.")
    if source.endswith(".py") and not Path(source).is_file():
        raise ModelRefused("not_found", f"There is no file '{source}'.")
    try:
        module = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    except ModuleNotFoundError as error:
        raise ModelRefused("factory_failed", f"'{source}' cannot be imported: {error}.") from error
    except Exception as error:
        raise ModelRefused("factory_failed", f"Importing '{source}' failed: {_first_line(error)}") from error
    found = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ModelRefused("factory_failed", f"'{source}' has no callable '{attribute}'.")
    return found  # type: ignore[no-any-return]


def _import_module(name: str) -> Any:
    with _on_path(Path.cwd()):
        return importlib.import_module(name)


def _import_file(path: Path) -> Any:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(specification)
    with _on_path(path.parent.resolve()):
        # Dataclasses and pickling in the user's file look their module up by name.
        sys.modules.setdefault(path.stem, module)
        specification.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _call(spec: str, factory: Callable[[], Any]) -> Any:
    try:
        return factory()
    except Exception as error:
        raise ModelRefused("factory_failed", f"'{spec}' raised {type(error).__name__}: {_first_line(error)}") from error


_DROPOUT_NAMES = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
DROPOUTS = {getattr(aten, f"{name}{end}").default for name in _DROPOUT_NAMES for end in ("", "_")}
RRELUS = {aten.rrelu.default, aten.rrelu_.default}


def _refuse_train_mode(program: ExportedProgram, spec: str) -> None:
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)]
    for node in (node for graph in graphs for node in graph.nodes):
        if node.target is aten.batch_norm.default:
            trains = node.args[5] and node.args[3] is not None
        elif node.target in DROPOUTS:
            trains = node.args[2]
        elif node.target in RRELUS:
            trains = len(node.args) > 3 and node.args[3]
        else:
            continue
        if trains:
            raise ModelRefused(
                "train_mode",
                f"'{spec}' was exported in training mode: '{node.name}' still trains.",
                hint="Call model.eval() before torch.export.export.",
            )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _kind(value: object) -> str:
    return f"an object of type {type(value).__name__}"
