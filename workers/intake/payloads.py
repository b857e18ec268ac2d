"""The stored tensors of an exported program: each a view into a record of raw bytes, and never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aslconvert.workers.intake.jsontext import Cursor
from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.names import is_dotted
from aslconvert.workers.intake.tensors import TensorMeta, check_stored, extent, read_tensor
from aslconvert.workers.intake.zipread import Entry

Document = dict[str, Any]


@dataclass(frozen=True)
class Payload:
    """A tensor in ``record``, the name of an entry."""

    record: str
    is_param: bool
    meta: TensorMeta


@dataclass
class Payloads:
    """Stored tensors by name. ``records`` numbers the entries as they are first used: tensors may share one."""

    prefix: str
    by_name: dict[str, Payload] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)

    def document(self) -> Document:
        """As the exporter writes it."""
        return {
            "config": {
                name: {
                    "path_name": f"{self.prefix}{self.records[payload.record]}",
                    "is_param": payload.is_param,
                    "use_pickle": False,
                    "tensor_meta": payload.meta.document(),
                }
                for name, payload in self.by_name.items()
            }
        }


def read_payloads(
    cursor: Cursor, entries: Mapping[str, Entry], *, folder: str, prefix: str, limits: Limits
) -> Payloads:
    """The tensors that ``cursor`` lists, whose records are ``entries`` below ``folder``.

    Raises Refused: ``weights_pickled``, ``custom_object``, ``weights_missing``, ``weights_out_of_bounds``,
    ``weights_overlap``, ``tensor_type``, ``name_invalid`` and the codes of fields.
    """
    payloads = Payloads(prefix)
    types: dict[str, int] = {}
    for name, each in cursor.fields("config")["config"].items(limits.tensors):
        if not is_dotted(name, limits.name_chars):
            raise each.refused("name_invalid", "it is no plain dotted name.")
        fields = each.fields("path_name is_param use_pickle", "tensor_meta")
        path = fields["path_name"].text(limits.name_chars)
        if path.startswith(("custom_obj_", "opaque_obj_")):
            raise each.refused("custom_object", "Only tensors are constants.")
        if fields["use_pickle"].boolean():
            raise each.refused("weights_pickled", "Loading it would run what is in it.")
        if "tensor_meta" not in fields:
            raise each.refused("field_missing", "nothing is said of the tensor.")
        record = f"{folder}{path}"
        if not path.startswith(prefix) or not path.removeprefix(prefix).isdigit() or record not in entries:
            raise fields["path_name"].refused("weights_missing", "there is no such record.")
        meta = read_tensor(fields["tensor_meta"], limits=limits)
        check_stored(meta, entries[record].size, each)
        if types.setdefault(record, meta.dtype) != meta.dtype:
            raise each.refused("tensor_type", "Two tensors of different types share a record.")
        if entries[record].size == 0 and extent(meta.shape) > limits.repeats:
            raise each.refused("tensor_too_large", "An empty tensor of a huge shape.")
        payloads.records.setdefault(record, len(payloads.records))
        payloads.by_name[name] = Payload(record, fields["is_param"].boolean(), meta)
    return payloads
