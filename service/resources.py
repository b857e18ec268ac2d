"""What a job reads: the contract between the domains that keep models and data sets and the one that keeps jobs.

`models/repository.py` and `datasets/repository.py` each offer

    find(transaction, identity, *, tenant) -> Resource     # raises NotFound
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """A model or a data set of a tenant. ``blob``: the SHA-256 of its bytes; ``kind``: pt2, onnx, images and so on.

    ``architecture`` names the network of bare weights.
    """

    id: str
    kind: str
    blob: str
    bytes: int
    architecture: str | None = None
