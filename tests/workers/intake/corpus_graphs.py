"""Hostile graphs within an export that is fine otherwise."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from corpus_parts import MODEL, Attack, Edit, Parts, edited, pack


def _graph(document: Any) -> Any:
    return document["graph_module"]["graph"]


def graphs(parts: Parts, canary: str) -> Iterator[Attack]:
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
