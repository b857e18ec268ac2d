"""Hostile files, each built by code from a harmless one, with the code that it must be refused with.

``REBUILT`` stands for what is made harmless instead: the attack is left out of the new file.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

REBUILT = "rebuilt"
MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"

Parts = dict[str, bytes]
Edit = Callable[[Any], None]


@dataclass(frozen=True)
class Attack:
    """``content`` is the whole file."""

    name: str
    code: str
    content: bytes
    kind: str = "model"


class Evil:
    """Unpickling it makes the canary."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.canary, "w")


def pack(parts: Parts, *, root: str = "archive", method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip as torch would read it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(f"{root}/{name}"), content, method)
    return file.getvalue()


def unpack(content: bytes) -> Parts:
    """The parts of an export."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def edited(parts: Parts, name: str, edit: Edit) -> Parts:
    """With one JSON file changed."""
    document = json.loads(parts[name])
    edit(document)
    return {**parts, name: json.dumps(document).encode()}


def corpus(base: bytes, canary: str) -> Iterator[Attack]:
    """All attacks; ``base`` is an export of one convolution with a batch of dynamic size, then a mean."""
    parts = unpack(base)
    yield from _code(parts, canary)
    yield from _graphs(parts, canary)
    yield from _weights(parts)
    yield from _json(parts)
    yield from _zips(parts)


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


def _graph(document: Any) -> Any:
    return document["graph_module"]["graph"]


def _graphs(parts: Parts, canary: str) -> Iterator[Attack]:
    run = f"__import__('pathlib').Path({canary!r}).touch()"

    def attack(name: str, code: str, edit: Edit) -> Attack:
        return Attack(name, code, pack(edited(parts, MODEL, edit)))

    def node(document: Any, target: str, *arguments: Any) -> None:
        """Replaces the last node's operator; the graph stays whole."""
        last = _graph(document)["nodes"][-1]
        last["target"] = target
        last["inputs"] = [{"name": n, "arg": a, "kind": 1} for n, a in arguments]

    for target in (
        "torch.ops.aten.from_file.default", "torch.load", "torch.hub.load", "torch.ops.aten.set_.source_Storage",
        "_operator.attrgetter", "_operator.methodcaller", "#custom:op", "builtins.eval", "torch.ops.asl.nothing",
        "torch.ops.aten.empty.memory_format", "torch.ops.aten.as_strided.default", "torch.ops.higher_order.map_impl",
        "torch.ops.aten.relu", "torch._C._jit_get_all_schemas", "math.factorial", "torch.ops.aten.relu.default\n", 7,
        "torch.ops.higher_order.triton_kernel_wrapper_functional", "torch.ops.aten.resize_.default",
    ):  # fmt: skip
        yield attack(f"operator-{str(target).strip()}", "operator_not_allowed", lambda d, t=target: node(d, t))
    big = 1 << 40
    for name, target, arguments in (
        ("zeros", "torch.ops.aten.zeros.default", [("size", {"as_ints": [big]})]),
        ("zeros-2d", "torch.ops.aten.zeros.default", [("size", {"as_ints": [1 << 20, 1 << 20]})]),
        ("zeros-sym", "torch.ops.aten.zeros.default", [("size", {"as_sym_ints": [{"as_int": big}]})]),
        ("full", "torch.ops.aten.full.default", [("size", {"as_ints": [big]}), ("fill_value", {"as_int": 1})]),
        ("arange", "torch.ops.aten.arange.default", [("end", {"as_int": big})]),
        ("arange-fine", "torch.ops.aten.arange.start_step",
         [("start", {"as_int": 0}), ("end", {"as_int": 10}), ("step", {"as_float": 1e-12})]),
        ("arange-sym", "torch.ops.aten.arange.default", [("end", {"as_sym_int": {"as_int": big}})]),
        ("interleave-sym", "torch.ops.aten.repeat_interleave.self_int", [("repeats", {"as_sym_int": {"as_int": big}})]),
        ("arange-inf", "torch.ops.aten.arange.default", [("end", {"as_float": "Infinity"})]),
        ("linspace", "torch.ops.aten.linspace.default", [("steps", {"as_int": big})]),
        ("eye", "torch.ops.aten.eye.m", [("n", {"as_int": 1 << 20}), ("m", {"as_int": 1 << 20})]),
        ("eye-square", "torch.ops.aten.eye.default", [("n", {"as_int": 1 << 20})]),
        ("repeat", "torch.ops.aten.repeat.default", [("repeats", {"as_ints": [1 << 20, 1]})]),
        ("expand", "torch.ops.aten.expand.default", [("size", {"as_ints": [big, 1]})]),
        ("pad", "torch.ops.aten.pad.default", [("pad", {"as_ints": [big, big]})]),
        ("pad-one-side", "torch.ops.aten.constant_pad_nd.default", [("pad", {"as_ints": [0, big]})]),
        ("upsample", "torch.ops.aten.upsample_nearest2d.vec", [("scale_factors", {"as_floats": [1e9, 1e9]})]),
        ("upsample-size", "torch.ops.aten.upsample_nearest2d.vec", [("output_size", {"as_ints": [1 << 20, 1 << 20]})]),
        ("interleave", "torch.ops.aten.repeat_interleave.self_int", [("repeats", {"as_int": big})]),
    ):  # fmt: skip
        yield attack(f"huge-{name}", "operator_too_large", lambda d, t=target, a=arguments: node(d, t, *a))

    def renamed(new: Any) -> Edit:
        """Gives the caller's input another name wherever it stands."""

        def edit(document: Any) -> None:
            old = next(
                s["user_input"]["arg"]["as_tensor"]["name"]
                for s in document["graph_module"]["signature"]["input_specs"]
                if "user_input" in s
            )
            graph = _graph(document)
            graph["tensor_values"][str(new)] = graph["tensor_values"].pop(old)

            def walk(value: Any) -> None:
                for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                    if key == "name" and inner == old:
                        value["name"] = new
                    elif isinstance(inner, (dict, list)):
                        walk(inner)

            walk(document["graph_module"])

        return edit

    for name, new in {
        "code": f"x=({run})", "newline": "x\n    import os", "default": "x = 1", "keyword": "class",
        "dunder": "__class__",
        "torch": "torch", "bidi": "a\u202eb", "nul": "a\0b", "surrogate": "a\ud800b", "long": "a" * 5000, "empty": "",
        "lookalike": "\u0430bc", "number": 3, "null": None, "star": "*args", "hash": "x#",
    }.items():  # fmt: skip
        yield attack(f"input-name-{name}", "name_invalid", renamed(new))

    def constant(document: Any) -> None:
        _graph(document)["inputs"].append({"as_int": 3})
        spec = {"constant_input": {"name": f"x={run}", "value": {"as_int": 3}}}
        document["graph_module"]["signature"]["input_specs"].append(spec)

    yield attack("constant-input-name", "name_invalid", constant)

    def forward(document: Any) -> None:
        document["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [f"x={run}"]

    yield attack("forward-name", "name_invalid", forward)

    def tree(key: str, kind: Any, context: Any, children: int = 1) -> Edit:
        def edit(document: Any) -> None:
            leaf = {"type": None, "context": None, "children_spec": []}
            spec = {"type": kind, "context": context, "children_spec": [leaf] * children}
            document["graph_module"]["module_call_graph"][0]["signature"][key] = json.dumps([1, spec])

        return edit

    enum = json.dumps([{"__enum__": True, "fqn": "antigravity:x", "name": "x"}])
    for name, kind, context in (
        ("enum", "builtins.dict", enum), ("enum-list", "builtins.list", enum),
        ("defaultdict", "collections.defaultdict", json.dumps({"default_factory_module": "os"})),
        ("namedtuple", "collections.namedtuple", json.dumps("os.path")), ("deque", "collections.deque", "null"),
        ("ordered", "collections.OrderedDict", "[]"), ("key-code", "builtins.dict", json.dumps([run])),
        ("key-number", "builtins.dict", "[1]"), ("type-list", [], None), ("leaf-content", None, "x"),
    ):  # fmt: skip
        yield attack(f"tree-{name}", "tree_invalid", tree("out_spec", kind, context))
        yield attack(f"tree-in-{name}", "tree_invalid", tree("in_spec", kind, context))
    yield attack("tree-size", "signature_invalid", tree("out_spec", "builtins.tuple", "null", 3))

    def deep_tree(document: Any) -> None:
        text = '{"type": "builtins.tuple", "context": "null", "children_spec": [' * 500 + "]}" * 500
        document["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = f"[1, {text}]"

    yield attack("tree-deep", "json_too_deep", deep_tree)
    yield attack("no-signature", "signature_invalid", lambda d: d["graph_module"].update(module_call_graph=[]))
    yield from _wiring(attack)


def _wiring(attack: Callable[[str, str, Edit], Attack]) -> Iterator[Attack]:
    def argument(value: Any) -> Edit:
        return lambda d: _graph(d)["nodes"][-1]["inputs"][0].update(arg=value)

    yield attack("undefined", "name_undefined", argument({"as_tensor": {"name": "nowhere"}}))
    yield attack(
        "custom-argument", "custom_object", argument({"as_custom_obj": {"name": "a", "class_fqn": "os.system"}})
    )
    yield attack("operator-argument", "custom_object", argument({"as_operator": "torch.load"}))
    yield attack("unknown-argument", "field_unknown", argument({"as_code": "x"}))
    yield attack("two-arguments", "field_invalid", argument({"as_int": 1, "as_bool": True}))
    yield attack("int-as-bool", "field_invalid", argument({"as_int": True}))
    yield attack("huge-int", "number_too_large", argument({"as_int": 1 << 70}))
    yield attack("complex-type", "tensor_type", argument({"as_scalar_type": 10}))
    yield attack("device-meta", "tensor_type", argument({"as_device": {"type": "meta", "index": None}}))
    yield attack("text-long", "field_invalid", argument({"as_string": "x" * 10_000}))
    yield attack("text-bidi", "field_invalid", argument({"as_string": "a\u202eb"}))
    yield attack("sparse-layout", "field_invalid", argument({"as_layout": 1}))

    def inner(depth: int) -> Edit:
        def edit(document: Any) -> None:
            graph = _graph(document)
            node = {
                "target": "torch.ops.higher_order.wrap_with_set_grad_enabled", "inputs": [], "outputs": [],
                "metadata": {}, "is_hop_single_tensor_return": None, "name": "wrap",
            }  # fmt: skip
            empty = {key: type(value)() for key, value in graph.items()}
            for _ in range(depth):
                nested = copy.copy(node)
                nested["inputs"] = [{"name": "", "arg": {"as_graph": {"name": "g", "graph": empty}}, "kind": 1}]
                empty = {**empty, "nodes": [nested]}
            graph["nodes"][:0] = empty["nodes"]

        return edit

    yield attack("graphs-deep", "json_too_deep", inner(5))
    yield attack("graphs-very-deep", "json_too_deep", inner(40))
    graph = {"as_graph": {"name": "g", "graph": {}}}
    yield attack("graph-argument", "operator_not_allowed", argument(graph))

    def objects(document: Any) -> None:
        _graph(document)["custom_obj_values"] = {n: {"name": n, "class_fqn": "os.system"} for n in "xy"}

    yield attack("custom-values", "custom_object", objects)

    def twice(document: Any) -> None:
        nodes = _graph(document)["nodes"]
        nodes.append(copy.deepcopy(nodes[-1]))

    yield attack("node-twice", "name_duplicate", twice)
    yield attack("nodes-reversed", "name_undefined", lambda d: _graph(d)["nodes"].reverse())
    yield attack("input-missing", "signature_invalid", lambda d: d["graph_module"]["signature"]["input_specs"].pop())
    yield attack("output-missing", "signature_invalid", lambda d: d["graph_module"]["signature"]["output_specs"].pop())
    yield attack(
        "token",
        "custom_object",
        lambda d: d["graph_module"]["signature"]["input_specs"].__setitem__(-1, {"token": {"arg": {"name": "x"}}}),
    )
    yield attack("nothing-said", "field_missing", lambda d: _graph(d)["tensor_values"].popitem())

    def meta(**changes: Any) -> Edit:
        return lambda d: [m.update(changes) for m in _graph(d)["tensor_values"].values()]

    huge = [{"as_int": 1 << 40}]
    yield attack("shape-huge", "tensor_too_large", meta(sizes=huge, strides=[{"as_int": 1}]))
    yield attack(
        "shape-huge-empty", "tensor_too_large", meta(sizes=[{"as_int": 0}, *huge], strides=[{"as_int": 1}] * 2)
    )
    yield attack("shape-negative", "number_too_large", meta(sizes=[{"as_int": -1}], strides=[{"as_int": 1}]))
    yield attack("rank-huge", "tensor_too_large", meta(sizes=[{"as_int": 1}] * 60, strides=[{"as_int": 1}] * 60))
    yield attack("rank-over-64", "json_too_large", meta(sizes=[{"as_int": 1}] * 1000, strides=[]))
    yield attack("shape-other", "tensor_mismatch", meta(sizes=[{"as_int": 3}], strides=[{"as_int": 1}]))
    yield attack("sparse", "tensor_type", meta(layout=1))
    yield attack("complex", "tensor_type", meta(dtype=10))
    yield attack("float8", "tensor_type", meta(dtype=29))


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


def _zips(parts: Parts) -> Iterator[Attack]:
    # The sample inputs are a zip of their own, in which headers would be found as well.
    parts = {**parts, SAMPLES: b""}
    whole = pack(parts)
    yield Attack("deflated", "archive_compressed", pack(parts, method=zipfile.ZIP_DEFLATED))
    yield Attack("bzipped", "archive_compressed", pack(parts, method=zipfile.ZIP_BZIP2))
    yield Attack("prefix", "kind_unknown", b"#!/bin/sh\n" + whole)
    yield Attack("prefix-zip", "archive_hidden_data", pack({"a": b"x"})[:-22] + whole)
    yield Attack("suffix", "archive_damaged", whole + b"\0")
    yield Attack("comment", "archive_damaged", whole[:-2] + b"\x04\0evil")
    yield Attack("format", "layout_version", pack({**parts, "archive_format": b"pt3"}))
    yield Attack("version", "layout_version", pack({**parts, "archive_version": b"1"}))
    yield Attack("big-endian", "layout_version", pack({**parts, "byteorder": b"big"}))
    yield Attack("no-model", "layout_entry_missing", pack({k: v for k, v in parts.items() if k != WEIGHTS}))
    yield Attack("root-bidi", "json_too_large", pack({**parts, MODEL: b" " * (33 << 20)}, root="\u00e4"))
    yield Attack("two-roots", "layout_entry_unknown", merged(whole, pack({"x": b"y"}, root="other")))
    yield Attack("twice", "archive_duplicate_entry", merged(whole, pack({MODEL: b"{}"})))
    yield Attack(
        "twice-by-case", "archive_duplicate_entry", merged(whole, pack({MODEL.upper(): b"{}"}, root="ARCHIVE"))
    )
    for name in ("../x", "/x", "a/../../x", "a\\x", "a/./x", "a//x", "C:/x", "a\nx", "a\u202ex", "a/ x"):
        yield Attack(f"path-{name!r}", "archive_path", with_name(whole, name))
    for name, offset, value, code in (
        ("encrypted", 8, b"\x01\x00", "archive_encrypted"), ("strong", 8, b"\x40\x00", "archive_encrypted"),
        ("patched", 8, b"\x20\x00", "archive_compressed"), ("method", 10, b"\x5f\x00", "archive_compressed"),
        ("crc", 16, b"\1\2\3\4", "archive_mismatch"), ("stored", 20, b"\xff\xff\xff\x7f", "archive_mismatch"),
        ("size", 24, b"\xff\xff\xff\x7f", "archive_mismatch"), ("disk", 34, b"\x01\x00", "archive_multi_disk"),
        ("link", 38, struct.pack("<L", 0o120777 << 16), "archive_link"),
        ("device", 38, struct.pack("<L", 0o020666 << 16), "archive_link"),
        ("offset", 42, b"\xff\xff\xff\x7f", "archive_hidden_data"),
    ):  # fmt: skip
        yield Attack(f"central-{name}", code, patched(whole, b"PK\x01\x02", offset, value))
    for name, offset, value in (
        ("method", 8, b"\x08\x00"), ("flags", 6, b"\x08\x00"), ("crc", 14, b"\1\2\3\4"), ("size", 22, b"\1\0\0\0"),
        ("name", 30, b"b"), ("magic", 0, b"PK\x07\x08"),
    ):  # fmt: skip
        yield Attack(f"local-{name}", "archive_mismatch", patched(whole, b"PK\x03\x04", offset, value, which=1))
    for name, offset, value, code in (
        ("disks", 4, b"\x01\x00", "archive_multi_disk"), ("count", 10, b"\x01\x00", "archive_multi_disk"),
        ("entries", 8, b"\xff\xff\xff\xff", "archive_damaged"), ("start", 16, b"\0\0\0\0", "archive_hidden_data"),
        ("fewer", 8, b"\x01\x00\x01\x00", "archive_hidden_data"),
    ):  # fmt: skip
        yield Attack(f"end-{name}", code, patched(whole, b"PK\x05\x06", offset, value))
    yield Attack("same-record", "archive_overlap", patched(whole, b"PK\x01\x02", 42, b"\0\0\0\0", which=1))
    content = bytearray(whole)
    content[whole.index(parts[MODEL][:50]) + 20] ^= 1
    yield Attack("bit-flipped", "archive_checksum", bytes(content))
    yield Attack("many", "archive_entries", many([f"archive/models/{i}.json" for i in range(20_001)]))


def many(names: list[str]) -> bytes:
    """A zip of empty files, with a long end record: by hand, as the library takes its time for so many."""
    records, directory = bytearray(), bytearray()
    for name in map(str.encode, names):
        common = struct.pack("<5H3L2H", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0)
        directory += b"PK\x01\x02\x14\0" + common + struct.pack("<3H2L", 0, 0, 0, 0, len(records)) + name
        records += b"PK\x03\x04" + common + name
    count, size, start, end = len(names), len(directory), len(records), len(records) + len(directory)
    long = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    short = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, size, start, 0)
    return bytes(records + directory) + long + locator + short


def merged(one: bytes, other: bytes) -> bytes:
    """Two zips as one, of which Python's reader warns where names are there twice."""
    file = io.BytesIO()
    contents = []
    for content in (one, other):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            contents += [(info.filename, archive.read(info)) for info in archive.infolist()]
    records, directory = b"", b""
    for name, content in contents:
        single = io.BytesIO()
        with zipfile.ZipFile(single, "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), content)
        raw = single.getvalue()
        start = raw.index(b"PK\x01\x02")
        header = bytearray(raw[start : raw.rindex(b"PK\x05\x06")])
        struct.pack_into("<L", header, 42, len(records))
        records, directory = records + raw[:start], directory + bytes(header)
    count = len(contents)
    file.write(records + directory)
    file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(records), 0))
    return file.getvalue()


def with_name(whole: bytes, name: str) -> bytes:
    """One more entry, of this name."""
    placeholder = "p" * len(name.encode())
    extra = merged(whole, pack({placeholder: b"x"}, root="q"))
    return extra.replace(f"q/{placeholder}".encode(), name.encode() + b"zz")


def patched(whole: bytes, magic: bytes, offset: int, value: bytes, *, which: int = 0) -> bytes:
    """With bytes of the header number ``which`` replaced."""
    at = -1
    for _ in range(which + 1):
        at = whole.index(magic, at + 1)
    return whole[: at + offset] + value + whole[at + offset + len(value) :]
