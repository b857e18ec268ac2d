"""Derives workers/intake/operators.txt: `python derive_operators.py [FILE.pt2 ...] > operators.txt`.

The list is (a) the operators of torch that are tagged `core` or `pointwise`, (b) those that the converter's own source
names, (c) those that the given files call and (d) arithmetic on sizes; without what writes into a given output, has
an outcome of its own each time, gives shapes that depend on values, or is named in REFUSED.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[3]

REFUSED = re.compile(
    r"(from_file|resize|set_data|storage|as_strided|_unsafe_view|pickle|^_cudnn|^_print|sparse|nested|quantiz|_to_cpu|"
    r"backward|^sym_storage_offset|record_stream|pin_memory|^item$|_local_scalar_dense|^set_$|^set$|bernoulli|"
    r"^rand|^normal|^uniform|multinomial|_foreach|_fused|_amp_|^_make_|^_weight_int|^_jagged|^_test|empty|"
    r"^_embedding_bag|^_cdist|^_pdist|^_fft|^_native_batch_norm_legit$|^special_|^polygamma|^mvlgamma|^is_)"
)
"""Files, memory beyond a tensor's own or never written, other kinds of tensors, training, chance, inner functions."""

SIZES = [
    *(f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "pow")),
    *(f"_operator.{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_")),
    *(f"torch.sym_{name}" for name in ("float", "int", "max", "min", "not", "ite", "sum")),
    *(f"math.{name}" for name in ["ceil", "floor", "trunc"]),
    *(f"torch.ops.aten.{name}" for name in (
        "_assert_async.msg", "_assert_scalar.default", "_assert_tensor_metadata.default", "sym_constrain_range.default",
        "sym_constrain_range_for_size.default", "sym_numel.default", "sym_size.int", "sym_stride.int",
    )),
]  # fmt: skip

STRANGE = ("nondeterministic_seeded", "dynamic_output_shape", "data_dependent_output")

DROPOUTS = (
    "dropout", "dropout_", "feature_dropout", "feature_dropout_", "rrelu", "rrelu_", "scaled_dot_product_attention",
)  # fmt: skip
"""Each draws in training only, and a program that trains is refused later."""

COMMON = """
_weight_norm _weight_norm_interface adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
adaptive_max_pool2d adaptive_max_pool3d all amax amin aminmax arange argmax argmin avg_pool1d avg_pool2d avg_pool3d
batch_norm broadcast_to cat channel_shuffle chunk clamp clone concat constant_pad_nd contiguous conv1d conv2d conv3d
conv_transpose1d conv_transpose2d conv_transpose3d copy_ cumprod cumsum detach detach_ diagonal einsum expand
expand_as eye flatten flip fill full full_like gather grid_sampler group_norm hstack im2col index index_select
instance_norm index_put layer_norm lift_fresh_copy linalg_norm linalg_vector_norm linear linspace log_softmax matmul
max_pool1d max_pool2d max_pool3d max_pool2d_with_indices mean meshgrid mm mv movedim narrow native_group_norm
native_layer_norm new_full new_ones new_zeros norm ones ones_like one_hot pad permute pixel_shuffle pixel_unshuffle
prod reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d repeat repeat_interleave reshape reshape_as
rms_norm roll scaled_dot_product_attention scatter scatter_add select slice softmax sort split split_with_sizes square
squeeze squeeze_ stack std sum t tensor_split tile to topk transpose tril triu type_as unbind unflatten unfold
unsafe_chunk unsafe_split unsqueeze unsqueeze_ upsample_bicubic2d upsample_bilinear2d upsample_linear1d
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean vdot view view_as vstack
where zeros zeros_like copy_ fill_ zero_ add_ index_put_ masked_fill masked_fill_ slice_scatter select_scatter
swapaxes dot bmm baddbmm addmm addbmm _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
"""
"""What networks are written with and what is not tagged, by name; all of their overloads are taken."""


def derived(files: Iterable[Path] = ()) -> list[str]:
    """The sorted list."""
    source = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "converter").rglob("*.py")))
    named = set(re.findall(r"\baten\.(\w+)", source)) | set(COMMON.split())
    targets = {target for target in SIZES if _exists(target)}
    for name in sorted({schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("aten::")}):
        packet = getattr(torch.ops.aten, name.removeprefix("aten::"), None)
        for overload in packet.overloads() if packet is not None else ():
            if _taken(getattr(packet, overload), name.removeprefix("aten::"), named):
                targets.add(f"torch.ops.aten.{name.removeprefix('aten::')}.{overload}")
    targets |= {target for file in files for target in called(file) if "higher_order" not in target}
    return sorted(targets)


def _exists(target: str) -> bool:
    if not target.startswith("torch.ops."):
        return True
    _, _, _, name, overload = target.split(".")
    return hasattr(getattr(torch.ops.aten, name, None), overload)


def _taken(op: torch._ops.OpOverload, name: str, named: set[str]) -> bool:
    tags, arguments = set(op.tags), op._schema.arguments
    if name in DROPOUTS:
        return not any(argument.is_out for argument in arguments)
    strange = tags & {
        torch.Tag.nondeterministic_seeded,
        torch.Tag.dynamic_output_shape,
        torch.Tag.data_dependent_output,
    }
    foreign = any(str(argument.type) in ("Generator", "Optional[Generator]") for argument in arguments)
    # Overloads by the name of an axis are of tensors whose axes have names.
    if strange or foreign or REFUSED.search(name) or "Dimname" in str(op._schema) or any(a.is_out for a in arguments):
        return False
    return bool(tags & {torch.Tag.core, torch.Tag.pointwise}) or name in named


def called(file: Path) -> set[str]:
    """The operators that the graph in ``file`` calls, graphs within it included."""
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if "/models/" in name)
        return set(re.findall(r'"target": "([^"]+)"', json.dumps(json.loads(archive.read(name)))))


if __name__ == "__main__":
    lines = derived(map(Path, sys.argv[1:]))
    sys.stdout.write("# Written by tests/workers/intake/derive_operators.py, which says what is taken.\n")
    sys.stdout.write("\n".join(lines) + "\n")
