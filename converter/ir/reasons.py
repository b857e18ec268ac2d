"""Every reason code with which a convolution is kept; docs/reasons.md explains them. A code keeps its meaning."""

from __future__ import annotations

KEPT = frozenset(
    {
        "autocast",
        "computed_bias",
        "computed_weight",
        "control_flow",
        "dtype",
        "dynamic_geometry",
        "kept_by_user",
        "nested_submodule",
        "no_gain",
        "not_worth_it",
        "pointwise",
        "unbatched",
        "unknown_shape",
    }
)
