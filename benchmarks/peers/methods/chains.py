"""A convolution written as several cheaper ones in a row, in place of the site in the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, fx
from torch.nn import functional

from aslconvert.converter.ir.graph import arguments, aten, copy_graph
from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.passes.parameters import drop_unused, put_parameter, read_targets
from aslconvert.converter.passes.verify import verify


@dataclass(frozen=True)
class Stage:
    """One convolution of a chain: weight [O, C / groups, kh, kw]; stride and padding (dy, dx), dilation one."""

    weight: Tensor
    bias: Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, O, H', W']."""
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups)

    @property
    def weights(self) -> int:
        """Numbers in the weight: multiply-adds at one position."""
        return self.weight.numel()


Chain = tuple[Stage, ...]


def run_chain(chain: Sequence[Stage], x: Tensor) -> Tensor:
    """The stages one after the other."""
    for stage in chain:
        x = stage(x)
    return x


def is_cheaper(chain: Chain, site: ConvSite) -> bool:
    """Whether the chain takes fewer multiply-adds than the site; where it has a stride, some run before it."""
    rows, columns = site.geometry.stride
    # Before the stage that steps, every input position is worked on.
    area, work = rows * columns, 0
    for stage in chain:
        area //= stage.stride[0] * stage.stride[1]
        work += stage.weights * area
    return work < site.in_channels * site.out_channels * site.geometry.taps


def stepping(site: ConvSite) -> dict[str, tuple[int, int]]:
    """Stride and padding of the stage that looks around."""
    (stride_y, stride_x), (pad_y, pad_x) = site.geometry.stride, site.geometry.padding_before
    return {"stride": (stride_y, stride_x), "padding": (pad_y, pad_x)}


def with_chains(gm: fx.GraphModule, chains: Mapping[str, Chain], sites: Sequence[ConvSite]) -> fx.GraphModule:
    """A copy of ``gm`` whose sites named in ``chains`` are chains; ``<name>.stageI.weight`` and ``.bias`` train.

    Raises:
        InternalError: ``bad_graph``, where a chain does not fit its site.
    """
    gm = copy_graph(gm)
    before = read_targets(gm)
    nodes = {node.name: node for node in gm.graph.nodes}
    for site in sites:
        if site.name in chains:
            _rewrite(gm, nodes[site.node], site, chains[site.name])
    gm.graph.eliminate_dead_code()
    drop_unused(gm, before)
    gm.recompile()
    return verify(gm)


def _rewrite(gm: fx.GraphModule, node: fx.Node, site: ConvSite, chain: Chain) -> None:
    graph, value = gm.graph, arguments(node)["input"]
    # By the call and not by the weight: tied sites would share what differs.
    base = f"{site.weight_target.removesuffix('.weight').replace('.', '_')}_{site.node}"
    batch, _, height, width = site.input_shape
    with graph.inserting_before(node):
        for index, stage in enumerate(chain):
            prefix = f"{base}.stage{index}"
            put_parameter(gm, f"{prefix}.weight", stage.weight.detach().to(site.dtype).clone())
            weight, bias = graph.get_attr(f"{prefix}.weight"), None
            if stage.bias is not None:
                put_parameter(gm, f"{prefix}.bias", stage.bias.detach().to(site.dtype).clone())
                bias = graph.get_attr(f"{prefix}.bias")
            args = (value, weight, bias, list(stage.stride), list(stage.padding), [1, 1], stage.groups)
            value = graph.call_function(aten.conv2d.default, args)
            value.meta = {k: node.meta[k] for k in ("nn_module_stack", "stack_trace", "dtype") if k in node.meta}
            kernel = stage.weight.shape[2:]
            height, width = (
                (size + 2 * pad - side) // step + 1
                for size, pad, side, step in zip((height, width), stage.padding, kernel, stage.stride, strict=True)
            )
            value.meta["shape"] = (batch, stage.weight.shape[0], height, width)
    node.replace_all_uses_with(value)
    graph.erase_node(node)


def with_last(chain: Chain, weight: Tensor, bias: Tensor) -> Chain:
    """The chain with another last stage: weight [O, K], bias [O]."""
    return (*chain[:-1], replace(chain[-1], weight=weight[:, :, None, None], bias=bias))
