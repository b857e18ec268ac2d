"""How much a file may hold; everything is counted from what is read, never from what a header says alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Caps in bytes, elements or counts. The defaults hold a rebuild within 1 GB of address space.

    A large .onnx takes more, as it is parsed whole.
    """

    file_bytes: int = 2 << 30
    """Of a model file as uploaded."""
    onnx_bytes: int = 1 << 30
    """Of an .onnx file, which is held in memory whole, about three times over."""
    onnx_parts: int = 500_000
    """Fields of the message: nodes, names, attributes and axes, but not the elements of tensors."""
    entries: int = 20_000
    """In a model archive: one a weight and a handful besides."""
    json_bytes: int = 32 << 20
    json_depth: int = 48
    json_values: int = 2_000_000
    graph_nodes: int = 50_000
    graph_depth: int = 4
    """Of graphs within graphs: blocks without gradients."""
    name_chars: int = 256
    text_chars: int = 256
    """Of a string argument such as an einsum equation."""
    tensors: int = 20_000
    rank: int = 8
    tensor_elements: int = 1 << 29
    """2 GiB in float32, far above any layer of a CNN."""
    weight_bytes: int = 2 << 30
    """No more than 3.5 GiB whatever is set: what is written is a zip without long sizes."""
    repeats: int = 1 << 16
    """By how much an operator may multiply the size of what it is given."""
    expression_chars: int = 4_000
    expression_depth: int = 24
    expression_terms: int = 400
    tree_leaves: int = 4_096
    example_elements: int = 1 << 24
    """Of the example inputs that are written fresh, all together."""
    data_file_bytes: int = 16 << 30
    data_entries: int = 200_000
    data_bytes: int = 16 << 30
    """Of a data archive, unpacked."""
    ratio: int = 200
    """Bytes unpacked for a byte stored, counted from ``ratio_floor`` on."""
    ratio_floor: int = 1 << 20
    pixels: int = 100_000_000
    """Of one image: four times a 24-megapixel photo."""
    array_header_bytes: int = 64 << 10


DEFAULT = Limits()
