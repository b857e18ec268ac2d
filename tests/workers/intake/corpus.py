"""Hostile exports, each built by code from a harmless one, with the code that it must be refused with.

``REBUILT`` stands for what is made harmless instead: the attack is left out of the new file.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

from corpus_graphs import graphs
from corpus_parts import (
    CONSTANTS,
    MODEL,
    REBUILT,
    SAMPLES,
    WEIGHTS,
    Attack,
    Edit,
    Evil,
    Parts,
    edited,
    pack,
    unpack,
)
from corpus_zips import zips


def corpus(base: bytes, canary: str) -> Iterator[Attack]:
    """All attacks; ``base`` is an export of one convolution with a batch of dynamic size, then a mean."""
    parts = unpack(base)
    yield from _code(parts, canary)
    yield from graphs(parts, canary)
    yield from _weights(parts)
    yield from _json(parts)
    yield from zips(parts)


def _code(parts: Parts, canary: str) -> Iterator[Attack]:
    """What ran code in torch's loader."""
    evil = pickle.dumps(Evil(canary))
    run = f"__import__('pathlib').Path({canary!r}).touch()"
    yield Attack("pickled-sample-inputs", REBUILT, pack({**parts, SAMPLES: evil}))
    yield Attack("legacy-weights", "layout_old", pack({**parts, "data/weights/model.pt": evil}))
    yield Attack("legacy-constants", "layout_old", pack({**parts, "data/constants/model.pt": evil}))
    old = {"serialized_exported_program.json": b"{}", "serialized_state_dict.pt": evil, "version": b"8.2"}
    yield Attack("before-2.8", "layout_old", pack(old, root=".").replace(b"./s", b"s/s").replace(b"./v", b"s/v"))
    yield Attack("shared-library", "layout_library", pack({**parts, "data/aotinductor/model/a.so": b"\x7fELF"}))
    yield Attack("library-elsewhere", "layout_library", pack({**parts, "extra/x.so": b"\x7fELF"}))
    yield Attack("extra-entry", "layout_entry_unknown", pack({**parts, "extra/readme": b"hello"}))
    yield Attack("second-model", "layout_entry_unknown", pack({**parts, "models/other.json": parts[MODEL]}))
    yield Attack("torch-save", "kind_code", pack({"data.pkl": evil, "version": b"3\n"}))
    yield Attack("torchscript", "kind_code", pack({"code/__torch__.py": b"", "data.pkl": evil}))
    yield Attack("pickle", "kind_code", evil)
    for path in ("custom_obj_0", "opaque_obj_0"):
        entry = {"path_name": path, "is_param": False, "use_pickle": True, "tensor_meta": None}
        bad = edited(parts, CONSTANTS, lambda d, e=entry: d["config"].update(thing=e))
        yield Attack(path, "custom_object", pack({**bad, f"data/constants/{path}": evil}))
        yield Attack(f"{path}-unlisted", "custom_object", pack({**parts, f"data/constants/{path}": evil}))
        yield Attack(f"{path}-listed-only", "custom_object", pack(bad))

    def pickled(document: Any) -> None:
        next(iter(document["config"].values()))["use_pickle"] = True

    yield Attack(
        "weights-pickled", "weights_pickled", pack({**edited(parts, WEIGHTS, pickled), "data/weights/weight_0": evil})
    )
    for name, text in {
        "call": run, "attribute": "s0.__class__", "lambda": "(lambda: 1)()", "string": "'s0'", "index": "s0[0]",
        "name": "Symbol('__import__', integer=True)", "keyword": "Symbol('s0', evil=True)", "brace": "{s0}",
        "unicode": "s\u0660", "statement": "s0; 1", "empty": "", "open": "Add(", "dunder": "__builtins__",
        "function": "exec(1)", "lambdify": "lambdify(s0, s0)", "colon": "s0 if s0 else s0", "sympify": "S(1)",
    }.items():  # fmt: skip
        yield Attack(f"expression-{name}", "expression_invalid", pack(edited(parts, MODEL, _set_expression(text))))
    for name, text in {
        "power": "Pow(Integer(9), Integer(999999999))", "tower": "((s0**9)**9)**9", "digits": "1" * 500,
        "depth": "(" * 100 + "s0" + ")" * 100, "chain": "s0" + "//2" * 300,
        "length": "+".join(["s0"] * 5000), "minus": "-" * 500 + "s0",
        "terms": "+".join(["s0"] * 900), "symbolic": "Pow(Integer(2), Symbol('s0', positive=True, integer=True))",
    }.items():  # fmt: skip
        yield Attack(f"expression-{name}", "expression_too_large", pack(edited(parts, MODEL, _set_expression(text))))

    def ranged(document: Any) -> None:
        document["range_constraints"][run] = {"min_val": 0, "max_val": 1}

    yield Attack("range-constraint", "expression_invalid", pack(edited(parts, MODEL, ranged)))

    def guards(document: Any) -> None:
        document["guards_code"] = [run]
        document["graph_module"]["metadata"] = {"custom": json.dumps({"x": run})}
        for node in document["graph_module"]["graph"]["nodes"]:
            node["metadata"]["stack_trace"] = "File /home/someone/secret.py, line 1"
            node["metadata"]["from_node"] = "[]"

    yield Attack("guards-and-traces", REBUILT, pack(edited(parts, MODEL, guards)))


def _set_expression(text: str) -> Edit:
    def edit(document: Any) -> None:
        for meta in document["graph_module"]["graph"]["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = text

    return edit


def _weights(parts: Parts) -> Iterator[Attack]:
    def attack(name: str, code: str, edit: Callable[[Any], None]) -> Attack:
        def first(document: Any) -> None:
            edit(next(iter(document["config"].values())))

        return Attack(name, code, pack(edited(parts, WEIGHTS, first)))

    def ints(*values: int) -> list[Any]:
        return [{"as_int": value} for value in values]

    rank = len(next(iter(json.loads(parts[WEIGHTS])["config"].values()))["tensor_meta"]["sizes"])
    yield attack("stride-zero", "weights_overlap", lambda p: p["tensor_meta"].update(strides=ints(*[0] * rank)))
    yield attack("stride-one", "weights_overlap", lambda p: p["tensor_meta"].update(strides=ints(*[1] * rank)))
    view = {"sizes": ints(1 << 14, 1 << 14), "strides": ints(0, 0)}
    yield attack("giant-view", "weights_overlap", lambda p: p["tensor_meta"].update(view))
    yield attack("weight-out", "weights_out_of_bounds", lambda p: p["tensor_meta"].update(storage_offset={"as_int": 1}))
    yield attack(
        "weight-far", "weights_out_of_bounds", lambda p: p["tensor_meta"].update(storage_offset={"as_int": 1 << 62})
    )
    yield attack(
        "weight-negative", "number_too_large", lambda p: p["tensor_meta"].update(storage_offset={"as_int": -1})
    )
    yield attack("weight-type", "weights_out_of_bounds", lambda p: p["tensor_meta"].update(dtype=8))
    yield attack("weight-other", "tensor_mismatch", lambda p: p["tensor_meta"].update(dtype=4))
    yield attack("weight-up", "weights_missing", lambda p: p.update(path_name="../weight_0"))
    yield attack("weight-nowhere", "weights_missing", lambda p: p.update(path_name="weight_99"))
    yield attack("weight-no-meta", "field_missing", lambda p: p.update(tensor_meta=None))
    sym = {"as_expr": {"expr_str": "s0", "hint": {"as_int": 1}}}
    yield attack("weight-symbolic", "field_invalid", lambda p: p["tensor_meta"].update(storage_offset=sym))
    yield Attack("weights-gone", "weights_missing", pack(edited(parts, WEIGHTS, lambda d: d["config"].clear())))
    for name in ("a.__class__", "forward", "a..b", "", "../x", "a b", "a\u202eb", "_parameters.x"):

        def rename(document: Any, new: str = name) -> None:
            document["config"][new] = document["config"].pop(next(iter(document["config"])))

        yield Attack(f"weight-name-{name!r}", "name_invalid", pack(edited(parts, WEIGHTS, rename)))


def _json(parts: Parts) -> Iterator[Attack]:
    def attack(name: str, code: str, text: bytes) -> Attack:
        return Attack(f"json-{name}", code, pack({**parts, MODEL: text}))

    model = parts[MODEL]
    yield attack("deep", "json_too_deep", b"[" * 1_000_000)
    yield attack("deep-objects", "json_too_deep", b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    yield attack("wide", "json_too_large", b"[" + b"[]," * 3_000_000 + b"[]]")
    yield attack("large", "json_too_large", b'"' + b"x" * (33 << 20) + b'"')
    yield attack("digits", "number_too_large", b'{"a": ' + b"9" * 1_000_000 + b"}")
    yield attack("real", "number_too_large", b'{"a": 1e999}')
    yield attack("nan", "json_damaged", b'{"a": NaN}')
    yield attack("infinity", "json_damaged", b'{"a": -Infinity}')
    yield attack("repeated", "json_damaged", model[:-1] + b', "schema_version": {"major": 8, "minor": 1}}')
    yield attack("quotes", "json_damaged", b'"' + b'\\"' * 1_000_000)
    yield attack("empty", "json_damaged", b"")
    yield attack("not-utf8", "json_damaged", b'{"a": "\xff"}')
    yield attack("bom", "json_damaged", b"\xef\xbb\xbf" + model)
    yield attack("cut", "json_damaged", model[: len(model) // 2])
    yield attack("more", "json_damaged", model + b"{}")
    yield attack("array", "field_invalid", b"[]")
    yield attack("unknown", "field_unknown", model[:-1] + b', "evil": 1}')
    yield attack("surrogate-key", "field_unknown", model[:-1] + b', "\\ud800": 1}')
    yield attack("missing", "field_missing", b"{}")
    for key, value, code in (
        ("schema_version", {"major": 9, "minor": 0}, "layout_version"), ("verifiers", ["EVIL"], "field_invalid"),
        ("opset_version", {"aten": 10, "evil": 1}, "field_unknown"), ("torch_version", ["2"], "field_invalid"),
        ("range_constraints", {"s0": {"min_val": 0.5, "max_val": None}}, "field_invalid"),
    ):  # fmt: skip
        yield Attack(f"json-{key}", code, pack(edited(parts, MODEL, lambda d, k=key, v=value: d.update({k: v}))))
