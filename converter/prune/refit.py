"""After pruning, the weights of every layer again by least squares, so that what is left makes up for what is gone.

Layer after layer, in the order of the graph, each on the activations that the pruned network has by then, towards what
the layer gives in the whole network (as channel pruning is done by He et al. 2017). The step is taken from the weights
as they are, with a ridge that positions decide which were not fitted to: where data is scarce nothing moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from aslconvert.converter.fit.pure import call_pure
from aslconvert.converter.fit.walk import DEFAULT_LIMIT_BYTES, ActivationStore
from aslconvert.converter.ir.graph import attribute, copy_graph
from aslconvert.converter.passes.verify import verify
from aslconvert.converter.prune.gate import channel_axis
from aslconvert.converter.prune.layers import ShiftedConv
from aslconvert.converter.prune.rehydrate import Rehydrated, set_shapes

POSITIONS = 16384
"""Positions read of each layer; one in eight judges the ridge."""

HELD_OUT = 8
WIDEST = 4096
"""Inputs of a layer (channels times taps, or rows) beyond which it stays: its covariance would take 128 MB and more."""

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)

ROUNDING = 1e-5
"""Relative error of float32 activations below which a layer gives what it should: nothing is left to fit but noise."""


def refit(
    gm: fx.GraphModule,
    reference: fx.GraphModule,
    batches: Sequence[tuple[Any, ...]],
    outputs: Mapping[str, Sequence[int]],
    *,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
) -> tuple[fx.GraphModule, int]:
    """A copy of the pruned ``gm`` with refitted weights, and how many layers were.

    reference: the graph before pruning (a converted network aims a little closer at itself than at its original);
    ``outputs``: by layer, the output channels that are left (``PruningReport.outputs``). Only weights and biases of
    dense layers that run once move: convolutions of two axes, linear layers, shifted rows with their 1x1 convolution.
    """
    result, teacher = copy_graph(gm), copy_graph(reference)
    set_shapes(result, tuple(batches[0]))
    set_shapes(teacher, tuple(batches[0]))
    student, whole = Rehydrated(result), Rehydrated(teacher)
    places = _Places(len(batches))
    targets = _Targets(limit_bytes // 4)
    try:
        with torch.no_grad():
            targets.collect(whole, batches, places)
            moved = _Walk(student, batches, targets, outputs, places, limit_bytes).run()
    finally:
        targets.close()
    return verify(student.put_back()), moved


class _Places:
    """Which positions of a batch are read: the same ones of the layer's input and of its wanted output."""

    def __init__(self, batches: int) -> None:
        self._share = max(POSITIONS // batches, 1)

    def of(self, count: int, batch: int) -> Tensor:
        if count <= self._share:
            return torch.arange(count)
        generator = torch.Generator().manual_seed(batch)
        return torch.randperm(count, generator=generator)[: self._share].sort().values


class _Targets:
    """By layer, for each batch, [O, n] of its outputs in the whole network; on disk beyond ``limit_bytes``."""

    def __init__(self, limit_bytes: int) -> None:
        self._store = ActivationStore(limit_bytes=limit_bytes)
        self.close = self._store.close

    def collect(self, whole: Rehydrated, batches: Sequence[tuple[Any, ...]], places: _Places) -> None:
        """Run the whole network over all batches."""
        for number, batch in enumerate(batches):
            handles = [
                layer.register_forward_hook(self._hook(f"{number}:{name}", number, places))
                for name, layer in _once(whole).items()
            ]
            try:
                whole.module(*(x.clone() if isinstance(x, Tensor) else x for x in pytree.arg_tree_leaves(*batch)))
            finally:
                for handle in handles:
                    handle.remove()

    def take(self, name: str, batches: int) -> Tensor | None:
        """[O, n] over all batches, once; None where the whole network has no such layer."""
        keys = [f"{number}:{name}" for number in range(batches)]
        if any(key not in self._store for key in keys):
            return None
        found = torch.cat([self._store.get(key) for key in keys], 1)
        for key in keys:
            self._store.drop(key)
        return found

    def _hook(self, key: str, batch: int, places: _Places) -> Any:
        def hook(layer: nn.Module, _: tuple[Any, ...], y: Tensor) -> None:
            flat = y.movedim(channel_axis(layer), 0).flatten(1)
            self._store.put(key, flat[:, places.of(flat.shape[1], batch)].clone())

        return hook


def _once(rehydrated: Rehydrated) -> dict[str, nn.Module]:
    """Dense layers by name, of those that run once and whose name no other has."""
    names = [layer.name for layer in rehydrated.layers.values()]
    return {
        layer.name: module
        for module, layer in rehydrated.layers.items()
        if names.count(layer.name) == 1 and len(rehydrated.sites[module]) == 1 and _is_dense(module)
    }


def _is_dense(module: nn.Module) -> bool:
    if isinstance(module, ShiftedConv):
        return module.groups == module.upscale == 1
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.groups == 1 and not module.transposed
    return isinstance(module, nn.Linear)


class _Walk:
    """Runs the pruned network node by node over all batches; every dense layer is refitted when it is reached."""

    def __init__(
        self,
        student: Rehydrated,
        batches: Sequence[tuple[Any, ...]],
        targets: _Targets,
        outputs: Mapping[str, Sequence[int]],
        places: _Places,
        limit_bytes: int,
    ) -> None:
        self._module = student.module
        self._batches = [pytree.arg_tree_leaves(*batch) for batch in batches]
        self._targets = targets
        self._outputs = outputs
        self._places = places
        self._layers = {module: name for name, module in _once(student).items()}
        self._store = ActivationStore(limit_bytes=limit_bytes)

    def run(self) -> int:
        """How many layers moved."""
        try:
            return self._walk()
        finally:
            self._store.close()

    def _walk(self) -> int:
        last: dict[fx.Node, list[fx.Node]] = {}
        seen: set[fx.Node] = set()
        for node in reversed(self._module.graph.nodes):
            for used in node.all_input_nodes:
                if used not in seen:
                    seen.add(used)
                    last.setdefault(node, []).append(used)
        moved, inputs = 0, iter(range(len(self._batches[0])))
        for node in self._module.graph.nodes:
            if node.op == "placeholder":
                index = next(inputs)
                for b, batch in enumerate(self._batches):
                    self._store.put(f"{b}:{node.name}", batch[index])
            elif node.op in ("call_function", "call_module"):
                if node.op == "call_module":
                    moved += self._refit(node)
                for b in range(len(self._batches)):
                    self._store.put(f"{b}:{node.name}", self._call(node, b))
            for dead in last.get(node, []):
                for b in range(len(self._batches)):
                    self._store.drop(f"{b}:{dead.name}")
        return moved

    def _call(self, node: fx.Node, b: int) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda used: self._value(used, b))
        if node.op == "call_module":
            return attribute(self._module, node.target)(*args)
        if not callable(node.target):
            raise TypeError(f"node {node.name} calls {node.target!r}, which is no function")
        return call_pure(node.target, args, kwargs)

    def _value(self, node: Any, b: int) -> Any:
        return attribute(self._module, node.target) if node.op == "get_attr" else self._store.get(f"{b}:{node.name}")

    def _refit(self, node: fx.Node) -> int:
        layer = attribute(self._module, node.target)
        name = self._layers.get(layer)
        target = self._targets.take(name, len(self._batches)) if name is not None else None
        if name is None or target is None or layer.weight[0].numel() > WIDEST:
            return 0
        kept = self._outputs.get(name)
        target = target if kept is None else target[list(kept)]
        read = [self._read(layer, self._value(node.args[0], b), b) for b in range(len(self._batches))]
        if target.shape[0] != layer.weight.shape[0] or any(x is None for x in read):
            return 0
        rows = torch.cat([x for x in read if x is not None], 1)
        if rows.shape[1] != target.shape[1]:
            return 0
        return int(_solve(layer, rows.double(), target.double()))

    def _read(self, layer: nn.Module, x: Tensor, batch: int) -> Tensor | None:
        """[I, n], the inputs of the layer's weights at the positions that are read."""
        if isinstance(layer, nn.Linear):
            flat = x.movedim(-1, 0).flatten(1)
            return flat[:, self._places.of(flat.shape[1], batch)]
        if not isinstance(layer, (nn.Conv2d, ShiftedConv)) or isinstance(getattr(layer, "padding", 0), str):
            return None
        picked: list[Tensor] = []
        places = torch.empty(0)
        for number, image in enumerate(x):
            # One image at a time: the taps of a whole batch may be many times its size.
            part = _taps(layer, image[None])
            if number == 0:
                places = self._places.of(part.shape[1] * len(x), batch)
            at = places - number * part.shape[1]
            picked.append(part[:, at[(at >= 0) & (at < part.shape[1])]])
        return torch.cat(picked, 1)


def _taps(layer: nn.Conv2d | ShiftedConv, image: Tensor) -> Tensor:
    """[I, positions] of one image."""
    if isinstance(layer, ShiftedConv):
        rows: Tensor = torch.ops.asl.active_shift(image, layer.shift, layer.source, layer.stride, layer.delta)
        return rows[0].flatten(1)
    return functional.unfold(image, layer.kernel_size, layer.dilation, layer.padding, layer.stride)[0]  # type: ignore[arg-type]


def _solve(layer: Any, rows: Tensor, target: Tensor) -> bool:
    """Move weight and bias of ``layer``; rows [I, n], target [O, n]. False where held-out positions gain nothing."""
    weight = layer.weight.detach().double().flatten(1)
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    rest = target - weight @ rows - bias.double()[:, None]
    held = torch.arange(rows.shape[1]) % HELD_OUT == HELD_OUT - 1
    if not held.any() or not rest.isfinite().all():
        return False
    x, e = rows[:, ~held], rest[:, ~held]
    # Without a bias to take them up, means are part of what has to be fitted.
    mean_x, mean_e = (v.mean(1, keepdim=True) * (layer.bias is not None) for v in (x, e))
    x, e = x - mean_x, e - mean_e
    covariance, cross = x @ x.T / x.shape[1], x @ e.T / x.shape[1]
    scale = float(covariance.diagonal().mean()) + torch.finfo(torch.float32).tiny
    best, step = float(rest[:, held].square().sum()), None
    if best <= ROUNDING**2 * float(target[:, held].square().sum()):
        return False
    for ridge in RIDGES:
        damped = covariance + torch.eye(len(covariance), dtype=covariance.dtype) * (ridge * scale)
        change = torch.linalg.solve(damped, cross).T
        left = float((rest[:, held] - mean_e - change @ (rows[:, held] - mean_x)).square().sum())
        if left < best:
            best, step = left, change
    if step is None:
        return False
    layer.weight = nn.Parameter((weight + step).view_as(layer.weight).to(layer.weight.dtype))
    if layer.bias is not None:
        moved = bias.double()[:, None] + mean_e - step @ mean_x
        layer.bias = nn.Parameter(moved[:, 0].to(layer.bias.dtype))
    return True
