"""The refusals of the ONNX importer, each with its stable code."""

from __future__ import annotations

from aslconvert.converter.errors import ModelRefused

UNSUPPORTED_HINT = "Export the model to a .pt2 with torch.export instead, or without this operator."


def unsupported_operator(where: str) -> ModelRefused:
    """An operator that the importer does not know."""
    return ModelRefused("unsupported_operator", f"{where} is not supported.", hint=UNSUPPORTED_HINT)


def unsupported_attribute(where: str, what: str) -> ModelRefused:
    """An attribute, or a value of one, that the importer does not know."""
    return ModelRefused("unsupported_attribute", f"{where}: {what} is not supported.", hint=UNSUPPORTED_HINT)


def unsupported_type(where: str, what: str) -> ModelRefused:
    """An element type or kind of tensor that the importer does not know."""
    return ModelRefused("unsupported_type", f"{where}: {what} is not supported.", hint=UNSUPPORTED_HINT)


def dynamic_value(where: str, what: str) -> ModelRefused:
    """A number that the graph computes from its input, where it must be known beforehand."""
    return ModelRefused(
        "dynamic_value",
        f"{where}: {what} is computed from the model's input and is not known when the model is imported.",
        hint="Run onnxsim or export again with that argument fixed.",
    )


def bad_graph(where: str, what: str) -> ModelRefused:
    """A graph that contradicts itself or the standard."""
    return ModelRefused("bad_graph", f"{where}: {what}", hint="Check the file with onnx.checker.check_model.")


def too_large(where: str, what: str) -> ModelRefused:
    """Sizes beyond what a network has."""
    return ModelRefused("too_large", f"{where}: {what}")
