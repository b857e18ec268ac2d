"""The whole way from a model to its faster variants, in order."""

from aslconvert.converter.pipeline.convert import convert

__all__ = ["convert"]
