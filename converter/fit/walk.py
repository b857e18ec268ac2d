"""Runs a graph node by node over all calibration batches, with a teacher's and a student's value of every node."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from aslconvert.converter.errors import InfrastructureError
from aslconvert.converter.fit.pure import call_pure
from aslconvert.converter.ir.graph import attribute

DEFAULT_LIMIT_BYTES = 2 * 1024**3
"""Activations held in memory at once; what exceeds it waits in a temporary folder."""


class ActivationStore:
    """Values of live nodes, in memory up to a limit and on disk beyond it."""

    def __init__(self, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._held: dict[str, Any] = {}
        self._bytes = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._spilled: dict[str, Path] = {}
        self._files = 0

    def put(self, key: str, value: Any) -> None:
        """Keep ``value``; a tensor that would exceed the limit is written to disk."""
        size = value.nbytes if isinstance(value, Tensor) else 0
        if size and self._bytes + size > self._limit:
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="aslconvert-")
            path = Path(self._folder.name) / f"{self._files}.pt"
            self._files += 1
            _write(value, path)
            self._spilled[key] = path
            return
        self._held[key] = value
        self._bytes += size

    def get(self, key: str) -> Any:
        """The value under ``key``; KeyError when there is none."""
        if key in self._held:
            return self._held[key]
        return torch.load(self._spilled[key], weights_only=True)

    def __contains__(self, key: str) -> bool:
        return key in self._held or key in self._spilled

    def drop(self, key: str) -> None:
        """Forget ``key``, if it is there."""
        value = self._held.pop(key, None)
        if isinstance(value, Tensor):
            self._bytes -= value.nbytes
        path = self._spilled.pop(key, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Forget everything and remove the temporary folder."""
        self._held.clear()
        self._spilled.clear()
        self._bytes = 0
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class TwinWalk:
    """Teacher and student side by side through one graph, for a list of batches.

    Where nothing upstream was changed the student's value is the teacher's and is computed once. ``visit`` is called
    at every node named in ``stops``, with the walk itself: ``pairs(node)`` then gives, batch by batch, the student's
    input and the teacher's output, and the returned function, if any, makes the student's output from its input.
    """

    def __init__(self, gm: fx.GraphModule, batches: Sequence[tuple[Tensor, ...]], *, limit_bytes: int) -> None:
        self._gm = gm
        self._batches = batches
        self._store = ActivationStore(limit_bytes=limit_bytes)
        self._changed: set[str] = set()
        self._last_use: dict[fx.Node, list[fx.Node]] = {}
        seen: set[fx.Node] = set()
        for node in reversed(gm.graph.nodes):
            for used in node.all_input_nodes:
                if used not in seen:
                    seen.add(used)
                    self._last_use.setdefault(node, []).append(used)

    def run(self, stops: Mapping[str, Callable[[fx.Node], Callable[[Tensor], Tensor] | None]]) -> None:
        """Walk the whole graph once, up to the last stop."""
        try:
            with torch.no_grad():
                self._walk(stops)
        finally:
            self._store.close()

    def _walk(self, stops: Mapping[str, Callable[[fx.Node], Callable[[Tensor], Tensor] | None]]) -> None:
        waiting = set(stops)
        inputs = iter(range(len(self._batches[0]) if self._batches else 0))
        for node in self._gm.graph.nodes:
            if node.op == "output" or not waiting:
                break
            if node.op == "placeholder":
                index = next(inputs)
                for b, batch in enumerate(self._batches):
                    self._store.put(f"t{b}:{node.name}", batch[index])
            elif node.op == "call_function":
                self._step(node, stops.get(node.name))
                waiting.discard(node.name)
            for dead in self._last_use.get(node, []):
                for b in range(len(self._batches)):
                    self._store.drop(f"t{b}:{dead.name}")
                    self._store.drop(f"s{b}:{dead.name}")

    def pairs(self, node: fx.Node, *, student: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
        """(student's input, teacher's output) of the convolution ``node``, batch by batch; not ``student`` gives the
        teacher's input."""
        source = node.args[0]
        for b in range(len(self._batches)):
            yield self._value(source, b, student=student), self._store.get(f"t{b}:{node.name}")

    def _step(self, node: fx.Node, stop: Callable[[fx.Node], Callable[[Tensor], Tensor] | None] | None) -> None:
        for b in range(len(self._batches)):
            self._store.put(f"t{b}:{node.name}", self._call(node, b, student=False))
        replacement = stop(node) if stop is not None else None
        upstream = any(used.name in self._changed for used in node.all_input_nodes)
        if replacement is None and not upstream:
            return
        self._changed.add(node.name)
        for b in range(len(self._batches)):
            if replacement is not None:
                value: Any = replacement(self._value(node.args[0], b, student=True))
            else:
                value = self._call(node, b, student=True)
            self._store.put(f"s{b}:{node.name}", value)

    def _call(self, node: fx.Node, b: int, *, student: bool) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda used: self._value(used, b, student=student))
        if not callable(node.target):
            raise TypeError(f"node {node.name} calls {node.target!r}, which is no function")
        return call_pure(node.target, args, kwargs)

    def _value(self, node: Any, b: int, *, student: bool) -> Any:
        if node.op == "get_attr":
            return attribute(self._gm, node.target)
        key = f"s{b}:{node.name}"
        return self._store.get(key if student and key in self._store else f"t{b}:{node.name}")


def _write(value: Tensor, path: Path) -> None:
    # A clone, since a view would be saved with all that it is a view of. Through memory, since torch's own writer
    # turns a full disk into a RuntimeError without a cause.
    buffer = io.BytesIO()
    torch.save(value.clone(), buffer)
    try:
        path.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise InfrastructureError(
            "disk_full", f"Activations do not fit on the disk of '{path.parent.parent}': {error.strerror}.",
            hint="Free some space, or set TMPDIR to a larger disk.",
        ) from error  # fmt: skip
