"""Parameters at dotted paths of a graph module: put, replace and drop them."""

from __future__ import annotations

from torch import Tensor, fx, nn

from aslconvert.converter.ir.graph import attribute


def put_parameter(root: nn.Module, target: str, value: Tensor) -> None:
    """Set a trainable parameter at ``target``, whatever stood there; the modules on the way are made."""
    holder, name = _holder(root, target)
    _clear(holder, name)
    holder.register_parameter(name, nn.Parameter(value))


def put_buffer(root: nn.Module, target: str, value: Tensor) -> None:
    """Set a buffer at ``target``, whatever stood there; the modules on the way are made."""
    holder, name = _holder(root, target)
    _clear(holder, name)
    holder.register_buffer(name, value)


def readers(gm: fx.GraphModule, target: object) -> set[fx.Node]:
    """The nodes that read the tensor at ``target``, under whichever of its names."""
    tensor = attribute(gm, target)
    return {
        user
        for node in gm.graph.nodes
        if node.op == "get_attr" and attribute(gm, node.target) is tensor
        for user in node.users
    }


def stored(node: object) -> bool:
    """Whether an argument is a tensor kept in the module (and not computed in the graph)."""
    return isinstance(node, fx.Node) and node.op == "get_attr"


def free_name(gm: fx.GraphModule, wanted: str) -> str:
    """``wanted``, numbered when something of that name exists."""
    name, count = wanted, 2
    while _exists(gm, name):
        name, count = f"{wanted}_{count}", count + 1
    return name


def _exists(gm: fx.GraphModule, target: str) -> bool:
    try:
        return attribute(gm, target) is not None
    except AttributeError:
        return False


def read_targets(gm: fx.GraphModule) -> set[str]:
    """The names of the tensors and submodules that the graph reads, with the second names of tied ones."""
    # Exported graphs also hold get_attr nodes that nothing uses, such as those of batch counters.
    read = {str(n.target) for n in gm.graph.nodes if n.op == "call_module" or (n.op == "get_attr" and n.users)}
    tensors = {id(attribute(gm, target)) for target in read}
    return read | {name for name, value in gm.named_parameters(remove_duplicate=False) if id(value) in tensors}


def drop_unused(gm: fx.GraphModule, read_before: set[str]) -> None:
    """Remove the tensors that a pass took out of use, given what the graph read before it.

    What the graph never read (the batch counters of batch norms, say) stays, so that names keep matching the
    original's, unless all that was read of its module is gone.
    """
    used = read_targets(gm)
    gone = {name.rpartition(".")[0] for name in read_before - used} - {name.rpartition(".")[0] for name in used}
    for name in [name for name, _ in (*gm.named_parameters(remove_duplicate=False), *gm.named_buffers())]:
        out_of_use = name in read_before or name.rpartition(".")[0] in gone
        if out_of_use and not any(name == target or name.startswith(f"{target}.") for target in used):
            holder, last = _holder(gm, name)
            _clear(holder, last)
    _drop_empty(gm)


def _drop_empty(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, fx.GraphModule):
            continue
        _drop_empty(child)
        held = (*child._parameters.values(), *child._buffers.values(), *child._modules.values())
        if type(child) is nn.Module and not any(value is not None for value in held):
            delattr(module, name)


def _holder(root: nn.Module, target: str) -> tuple[nn.Module, str]:
    *path, name = target.split(".")
    holder = root
    for part in path:
        child = holder._modules.get(part)
        if child is None:
            child = nn.Module()
            holder.add_module(part, child)
        holder = child
    return holder, name


def _clear(holder: nn.Module, name: str) -> None:
    for store in (holder._parameters, holder._buffers, holder._modules):
        store.pop(name, None)
    holder.__dict__.pop(name, None)
