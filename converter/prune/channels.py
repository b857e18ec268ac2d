"""Prunes channels of a graph in groups that depend on each other, and proves each group before it goes on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from aslconvert.converter.cost.counts import count_macs
from aslconvert.converter.errors import InfrastructureError, InternalError, ModelRefused, UsageError
from aslconvert.converter.ir.graph import copy_graph
from aslconvert.converter.passes.verify import verify
from aslconvert.converter.prune.gate import TOLERANCE, Lost, Snapshot, difference, ignoring, observe, relative
from aslconvert.converter.prune.rehydrate import Rehydrated, follow_channels, set_shapes
from aslconvert.converter.prune.scores import OutputScores

Importance = Literal["magnitude", "random", "output"]

REASONS = {
    "feeds_output": "The channels are channels of an output.",
    "fixed_shape": "An operation after it has the number of channels built in, or needs a divisor of it.",
    "not_separable": "An operation after it mixes channels, so that leaving some out changes the others.",
    "too_few_channels": "The ratio takes less than one channel, or all of them.",
    "untraceable": "torch-pruning finds no group of layers that it belongs to.",
}
"""Why a group of channels was kept, by code."""


@dataclass(frozen=True)
class Group:
    """Channels that can only go together: the layer they are made in, how many there were, and how many went.

    ``reason`` is a key of ``REASONS`` where none went, else empty. ``difference``: see ``gate.py``.
    """

    layer: str
    channels: int
    pruned: int
    reason: str = ""
    detail: str = ""
    difference: float = 0.0


@dataclass(frozen=True)
class PruningReport:
    """What pruning did: parameters and multiply-adds of one call with the example, before and after; all groups.

    ``outputs``: by layer, the output channels that are left, for the layers that lost some.
    """

    ratio: float
    importance: str
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int
    groups: tuple[Group, ...]
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def pruned(self) -> tuple[Group, ...]:
        """The groups that lost channels."""
        return tuple(group for group in self.groups if group.pruned)

    @property
    def kept(self) -> tuple[Group, ...]:
        """The groups that did not, each with its reason."""
        return tuple(group for group in self.groups if not group.pruned)


def prune_channels(
    gm: fx.GraphModule,
    example: Sequence[Any],
    *,
    ratio: float = 0.3,
    importance: Importance = "magnitude",
    batches: Sequence[tuple[Any, ...]] = (),
    seed: int = 0,
) -> tuple[fx.GraphModule, PruningReport]:
    """A copy of ``gm`` without the least important ``ratio`` of the channels of every group that allows it.

    ``gm``: a graph as ``ir.graph.graph_module`` gives it, converted or not, in eval mode; ``example``: the positional
    inputs of one call. Names, inputs, outputs and their shapes stay; parameters shrink. A group goes only when the
    pruned network does what the whole one does that ignores its channels (``gate.py``).

    ``importance``: "magnitude", the L2 norm of all weights that make or read a channel; "output", how much the outputs
    change without it on ``batches`` (``scores.py``; by magnitude where no gradient reaches the group); or "random",
    drawn by ``seed``.

    Raises UsageError("bad_ratio", "bad_importance"), InfrastructureError("torch_pruning_missing"),
    ModelRefused("nothing_to_prune") where no group can lose a channel, InternalError("pruning_without_effect",
    "pruned_graph_differs") where the result is not what it should be.
    """
    if not 0.0 < ratio < 1.0:
        raise UsageError("bad_ratio", f"{ratio} is no share of channels.", hint="Give a number between 0 and 1.")
    if importance not in get_args(Importance):
        known = ", ".join(get_args(Importance))
        raise UsageError("bad_importance", f"'{importance}' is no importance.", hint=f"Known: {known}.")
    if importance == "output" and not batches:
        raise UsageError("no_batches", "The importance 'output' is measured on data.", hint="Give batches of inputs.")
    need_torch_pruning()
    from aslconvert.converter.prune.dependencies import Dependencies

    example = tuple(example)
    result = copy_graph(gm)
    set_shapes(result, example)
    result = follow_channels(result)
    before = _params(result), _macs(result, example)
    inputs = pytree.arg_tree_leaves(*example)
    whole = Rehydrated(result)
    scores = OutputScores(whole, batches, seed=seed) if importance == "output" else None
    cutter = _Cutter(Dependencies(whole, inputs), ratio, importance, scores, seed)
    groups = cutter.prune_groups()
    report = PruningReport(ratio, importance, before[0], 0, before[1], 0, tuple(groups))
    if not report.pruned:
        reasons = sorted({group.reason for group in groups})
        found = "; ".join(REASONS[reason] for reason in reasons) or "It has no layer with channels of its own."
        raise ModelRefused("nothing_to_prune", f"No channel of the model can be pruned. {found}")
    with torch.no_grad():
        wanted = whole.module(*inputs)
    result = whole.put_back()
    set_shapes(result, example)
    verify(result)
    with torch.no_grad():
        got = pytree.tree_leaves(result(*example))
    got = [leaf for leaf in got if isinstance(leaf, Tensor)]
    wanted = [leaf for leaf in wanted if isinstance(leaf, Tensor)]
    if any(relative(x, y) > TOLERANCE for x, y in zip(wanted, got, strict=True)):
        raise InternalError("pruned_graph_differs", "The pruned graph computes something else than its layers.")
    after = _params(result), _macs(result, example)
    if not (after[0] < before[0] and after[1] < before[1]):
        raise InternalError("pruning_without_effect", "Channels were pruned, but parameters or multiply-adds were not.")
    left = {whole.layers[layer].name: tuple(channels) for layer, channels in cutter.left.items()}
    return result, PruningReport(ratio, importance, before[0], after[0], before[1], after[1], tuple(groups), left)


class _Cutter:
    """Prunes group after group; ``left`` holds the output channels that layers still have."""

    def __init__(
        self, dependencies: Any, ratio: float, importance: Importance, scores: OutputScores | None, seed: int
    ) -> None:
        self._dependencies = dependencies
        self._ratio = ratio
        self._importance = importance
        self._scores = scores
        self._generator = torch.Generator().manual_seed(seed)
        self.left: dict[nn.Module, list[int]] = {}

    def prune_groups(self) -> list[Group]:
        """All groups, each pruned or with the reason why not."""
        done: list[Group] = []
        seen: set[nn.Module] = set()
        dependencies = self._dependencies
        for root in dependencies.roots():
            if root in seen:
                continue
            name, channels = dependencies.name(root), dependencies.outputs(root)
            whole = dependencies.group(root, range(channels))
            if whole is None:
                done.append(Group(name, channels, 0, "untraceable"))
                continue
            seen |= dependencies.makers(whole)
            count = int(channels * self._ratio)
            if not 0 < count < channels:
                done.append(Group(name, channels, 0, "too_few_channels"))
            elif (reason := dependencies.protected(whole)) is not None:
                done.append(Group(name, channels, 0, reason))
            else:
                chosen = sorted(self._score(whole, channels).argsort(stable=True)[:count].tolist())
                done.append(self._try(root, chosen, Group(name, channels, count)))
        return done

    def _score(self, whole: Any, channels: int) -> Tensor:
        if self._importance == "random":
            return torch.rand(channels, generator=self._generator)
        found = None if self._scores is None else self._scores.of(self._dependencies.readers(whole), channels)
        magnitude: Tensor = self._dependencies.magnitude(whole, channels)
        return magnitude if found is None else found

    def _try(self, root: nn.Module, chosen: list[int], group: Group) -> Group:
        """Prune the chosen channels of ``root``; leaves everything as it was where that does not hold."""
        dependencies = self._dependencies
        found = dependencies.group(root, chosen)
        if found is None:
            return Group(group.layer, group.channels, 0, "untraceable")
        lost: Lost = dependencies.lost(found)
        made: Lost = dependencies.made(found)
        before = {layer: dependencies.channels(layer) for layer in made}
        module, inputs = dependencies.rehydrated.module, dependencies.inputs
        layers = list(dependencies.rehydrated.layers)
        snapshot = Snapshot(module)
        reason, detail, apart = "", "", float("inf")
        try:
            with ignoring(module, lost):
                whole = observe(module, layers, inputs)
            dependencies.prune(found)
            pruned = observe(module, layers, inputs)
            apart = difference(whole, pruned, lost)
            if any(x.shape != y.shape for x, y in zip(whole[1], pruned[1], strict=True) if isinstance(x, Tensor)):
                reason = "feeds_output"
            elif not apart <= TOLERANCE:
                reason = "not_separable"
        # Each operator complains about shapes in its own way.
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, ZeroDivisionError) as error:
            reason, detail = "fixed_shape", str(error).partition("\n")[0][:200]
        if reason:
            snapshot.restore()
            dependencies.trace()
            return Group(group.layer, group.channels, 0, reason, detail, apart)
        if self._scores is not None:
            self._scores.drop(lost)
        for layer, channels in made.items():
            gone = set(channels)
            known = self.left.get(layer, list(range(before[layer])))
            self.left[layer] = [channel for place, channel in enumerate(known) if place not in gone]
        return Group(group.layer, group.channels, group.pruned, difference=apart)


def _params(gm: fx.GraphModule) -> int:
    return sum(parameter.numel() for parameter in gm.parameters())


def _macs(gm: fx.GraphModule, example: tuple[Any, ...]) -> int:
    # torch's counter stumbles over parameters that train inside a branch that does not.
    return count_macs(copy_graph(gm).requires_grad_(False), example)


def need_torch_pruning() -> None:
    """Raises InfrastructureError("torch_pruning_missing")."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch_pruning  # noqa: F401
    except ImportError as error:
        raise InfrastructureError(
            "torch_pruning_missing", "Pruning needs torch-pruning.", hint="pip install 'aslconvert[prune]'"
        ) from error
