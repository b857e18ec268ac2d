"""conv -> active_shift + 1x1 conv, for the sites that were given a block.

Pattern: ``conv{1,2,3}d(x, W, b)`` at a site. Algebra: ``y = P . S(x) + bias``, ``S(x)`` being the block's K rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.fit.phases import phase_order
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.ir.graph import CONV_BY_AXES, arguments, aten, attribute, copy_graph, find_sites
from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.passes.parameters import drop_unused, put_buffer, put_parameter, read_targets
from aslconvert.converter.passes.verify import verify

SITE = "asl_site"
"""The meta of a shift's node names the site that it stands for."""


def replace_sites(gm: fx.GraphModule, blocks: Mapping[str, Block]) -> fx.GraphModule:
    """A copy of ``gm`` whose sites named in ``blocks`` are shifted rows and a 1x1 convolution.

    New parameters ``<name>.weight`` [C_out, K / groups, 1, ...], ``<name>.bias`` and ``<name>.shift`` [K, D] train; the
    int64 buffer ``<name>.source`` [K] does not. Tied sites are replaced together, by the block of the first one named.
    Raises KeyError for a name that is no site of ``gm``, ValueError for a block that does not fit its site.
    """
    gm = copy_graph(gm)
    before = read_targets(gm)
    sites, _ = find_sites(gm)
    unknown = set(blocks) - {site.name for site in sites}
    if unknown:
        raise KeyError(f"no conv site is named {', '.join(sorted(unknown))}")
    nodes = {node.name: node for node in gm.graph.nodes}
    chosen: dict[str, tuple[str, Block]] = {}
    for site in sites:
        if site.name in blocks:
            chosen.setdefault(site.key, (site.name, blocks[site.name]))
    stored: dict[str, str] = {}
    replaced = [site for site in sites if site.key in chosen]
    kept_weights = _other_users(gm, replaced)
    for site in replaced:
        name, block = chosen[site.key]
        if site.key not in stored:
            _check(site, block)
            stored[site.key] = _store(gm, site, block, _prefix(gm, site, name, kept_weights, set(stored.values())))
        _rewrite(gm, nodes[site.node], site, stored[site.key], block)
    gm.graph.eliminate_dead_code()
    drop_unused(gm, before)
    gm.recompile()
    return verify(gm)


def _check(site: ConvSite, block: Block) -> None:
    axes = len(site.geometry.kernel)
    if block.weight.shape[0] != site.block_outputs or block.shift.shape[1] != axes or block.rows == 0:
        raise ValueError(
            f"the block of '{site.name}' has {block.weight.shape[0]} outputs and {block.rows} rows of "
            f"{block.shift.shape[1]} axes; the site has {site.block_outputs} outputs and {axes} axes"
        )
    if int(block.source.min()) < 0 or int(block.source.max()) >= site.in_channels:
        raise ValueError(f"the block of '{site.name}' reads a channel outside 0..{site.in_channels - 1}")


def _other_users(gm: fx.GraphModule, replaced: list[ConvSite]) -> set[str]:
    """Weights and biases that something besides the replaced convolutions still reads."""
    gone = {site.node for site in replaced}
    tensors = {id(attribute(gm, site.weight_target)): site.weight_target for site in replaced}
    tensors.update({id(attribute(gm, s.bias_target)): s.bias_target for s in replaced if s.bias_target is not None})
    still: set[str] = set()
    for node in gm.graph.nodes:
        if node.op == "get_attr" and any(user.name not in gone for user in node.users):
            target = tensors.get(id(attribute(gm, node.target)))
            if target is not None:
                still.add(target)
    return still


def _prefix(gm: fx.GraphModule, site: ConvSite, name: str, kept: set[str], taken: set[str]) -> str:
    base = site.weight_target.removesuffix(".weight")
    is_module = base != site.weight_target
    if not is_module or site.weight_target in kept or site.bias_target in kept:
        base = f"{base}_asl"
    if base in taken and all(part.isidentifier() or part.isdigit() for part in name.split(".")):
        # Another geometry of a shared weight: the block lies where the layer's own weight would.
        base = name if _is_free(gm, f"{name}.weight", site) else base
    prefix, count = base, 2
    while prefix in taken:
        prefix, count = f"{base}_{count}", count + 1
    return prefix


def _is_free(gm: fx.GraphModule, target: str, site: ConvSite) -> bool:
    """Whether nothing but the site itself reads ``target``."""
    reads = [node for node in gm.graph.nodes if node.op == "get_attr" and node.target == target]
    return all(user.name == site.node for node in reads for user in node.users)


def _store(gm: fx.GraphModule, site: ConvSite, block: Block, prefix: str) -> str:
    device = attribute(gm, site.weight_target).device
    like = {"dtype": site.dtype, "device": device}
    weight = block.weight.detach().to(**like)
    put_parameter(gm, f"{prefix}.weight", weight.reshape(*weight.shape, *[1] * block.shift.shape[1]).clone())
    # float32 also for low-precision weights: a shift is a coordinate.
    precise = torch.float64 if site.dtype == torch.float64 else torch.float32
    put_parameter(gm, f"{prefix}.shift", block.shift.detach().to(dtype=precise, device=device).clone())
    put_buffer(gm, f"{prefix}.source", block.source.detach().to(device=device, dtype=torch.int64).clone())
    if block.bias is not None:
        put_parameter(gm, f"{prefix}.bias", block.bias.detach().to(**like).clone())
    return prefix


def _rewrite(gm: fx.GraphModule, node: fx.Node, site: ConvSite, prefix: str, block: Block) -> None:
    graph, meta = gm.graph, node.meta
    with graph.inserting_before(node):
        shift = graph.get_attr(f"{prefix}.shift")
        source = graph.get_attr(f"{prefix}.source")
        weight = graph.get_attr(f"{prefix}.weight")
        bias = graph.get_attr(f"{prefix}.bias") if block.bias is not None else None
        geometry = site.gather
        rows = graph.call_function(
            torch.ops.asl.active_shift.default,
            (arguments(node)["input"], shift, source, list(geometry.stride), list(geometry.delta)),
        )
        one = [1] * len(geometry.kernel)
        grouped = (one, [0] * len(one), one, block.groups) if block.groups > 1 else ()
        mixed = graph.call_function(CONV_BY_AXES[len(one)], (rows, weight, bias, *grouped))
    batch, _, *spatial = site.output_shape
    positions = [-(-size // phase) for size, phase in zip(spatial, site.phases, strict=True)]
    for fresh, channels in ((rows, block.rows), (mixed, site.block_outputs)):
        fresh.meta = {key: meta[key] for key in ("nn_module_stack", "stack_trace", "dtype") if key in meta}
        fresh.meta["shape"] = (batch, channels, *positions)
    rows.meta[SITE] = site.name
    with graph.inserting_before(node):
        last = join(graph, mixed, site)
    node.replace_all_uses_with(last)
    graph.erase_node(node)


def join(graph: fx.Graph, mixed: fx.Node, site: ConvSite) -> fx.Node:
    """The phases of a transposed site side by side, as ``fit.phases.join_phases`` has it."""
    axes, value = len(site.phases), mixed
    if axes == 2 and len(set(site.phases)) == 1:
        if site.phases[0] > 1:
            value = graph.call_function(aten.pixel_shuffle.default, (value, site.phases[0]))
    elif any(phase > 1 for phase in site.phases):
        value = graph.call_function(aten.unflatten.int, (value, 1, [site.out_channels, *site.phases]))
        value = graph.call_function(aten.permute.default, (value, phase_order(axes)))
        for axis in range(axes + 1, 1, -1):
            value = graph.call_function(aten.flatten.using_ints, (value, 2 * axis - 2, 2 * axis - 1))
    for axis, rest in enumerate(site.crop):
        if rest:
            value = graph.call_function(aten.slice.Tensor, (value, axis + 2, 0, -rest))
    if value is not mixed:
        value.meta = {**mixed.meta, "shape": site.output_shape}
    return value
