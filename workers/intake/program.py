"""A `.pt2` file as a new one that holds allow-listed parts only: what torch.export.load may be given."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from aslconvert.workers.intake.examples import Leaf, write_examples
from aslconvert.workers.intake.files import Rebuilt, opened, replacing
from aslconvert.workers.intake.graph import GraphReader
from aslconvert.workers.intake.jsontext import Cursor, parse
from aslconvert.workers.intake.limits import DEFAULT, Limits
from aslconvert.workers.intake.names import is_identifier
from aslconvert.workers.intake.payloads import Payloads, read_payloads
from aslconvert.workers.intake.refusal import Refused, shown
from aslconvert.workers.intake.signature import Signature, parameter_names, read_signature
from aslconvert.workers.intake.symbolic import SYMBOL, parse_expression
from aslconvert.workers.intake.trees import Tree, parse_tree
from aslconvert.workers.intake.zipread import Entry, ZipFile
from aslconvert.workers.intake.zipwrite import LARGEST, ZipWriter

WEIGHTS, CONSTANTS = "data/weights/", "data/constants/"
SCHEMA_MAJOR = 8
_VERSION = re.compile(r"2\.[0-9]{1,3}\.[0-9]{1,3}", re.ASCII)
_CONFIGS = (f"{WEIGHTS}model_weights_config.json", f"{CONSTANTS}model_constants_config.json")
_MODEL, _SAMPLES, _FORMAT, _ARCHIVE_VERSION = (
    "models/model.json", "data/sample_inputs/model.pt", "archive_format", "archive_version",
)  # fmt: skip
_MARKS = ("byteorder", "version", ".data/version", ".data/serialization_id", ".format_version", ".storage_alignment")
_OLD = frozenset(
    {f"{WEIGHTS}model.pt", f"{CONSTANTS}model.pt", "serialized_exported_program.json", "serialized_state_dict.json",
     "serialized_state_dict.pt", "serialized_constants.pt", "serialized_constants.json", "serialized_example_inputs.pt"}
)  # fmt: skip


def rebuild_program(source: Path, target: Path, *, limits: Limits = DEFAULT) -> Rebuilt:
    """Write the exported program in ``source`` anew to ``target``, which appears whole or not at all.

    Weights keep their bits, so that outputs are the same; example inputs are made up, stack traces and guards left out.
    The same file gives the same bytes.

    Raises:
        Refused: with a code of docs/intake.md and the entry that is to blame.
        OSError: ``target`` cannot be written.
    """
    with opened(source, most=limits.file_bytes) as file:
        archive = ZipFile(file, limits=limits, most_entries=limits.entries)
        entries = _layout(archive)
        total = sum(entry.size for name, entry in entries.items() if name.startswith((WEIGHTS, CONSTANTS)))
        most = min(limits.weight_bytes, LARGEST)
        if total > most:
            raise Refused("tensor_too_large", f"{total} bytes of tensors, {most} are the most.")
        weights, constants = (
            read_payloads(_json(archive, entries[config], limits), entries, folder=folder, prefix=prefix, limits=limits)
            for config, folder, prefix in zip(_CONFIGS, (WEIGHTS, CONSTANTS), ("weight_", "tensor_"), strict=True)
        )
        program = _Program(_json(archive, entries[_MODEL], limits), weights, constants, limits)
        with replacing(target) as out:
            _write(out, archive, entries, weights, constants, program)
    tensors = len(weights.by_name) + len(constants.by_name)
    return Rebuilt("pt2", target, target.stat().st_size, tensors, program.operators)


def _layout(archive: ZipFile) -> dict[str, Entry]:
    """Entries by their name below the archive's one folder."""
    if old := sorted(_OLD & archive.entries.keys()):
        raise Refused("layout_old", "The archive is of an exporter from before torch 2.9.", entry=old[0])
    roots = {name.split("/", 1)[0] for name in archive.entries}
    if len(roots) != 1:
        raise Refused("layout_entry_unknown", "All entries lie in one folder of the archive.")
    entries = {name.partition("/")[2]: entry for name, entry in archive.entries.items()}
    for name, entry in entries.items():
        if name in _OLD:
            raise Refused("layout_old", "It is a pickle, or of an exporter from before torch 2.9.", entry=shown(name))
        if name.startswith("data/aotinductor/") or name.endswith((".so", ".dylib", ".dll", ".pyd")):
            raise Refused("layout_library", "It is compiled code, which loading would run.", entry=shown(name))
        if name.startswith((f"{CONSTANTS}custom_obj_", f"{CONSTANTS}opaque_obj_")):
            raise Refused("custom_object", "It is an object of code.", entry=shown(name))
        known = name in (*_CONFIGS, _MODEL, _SAMPLES, _FORMAT, _ARCHIVE_VERSION, *_MARKS)
        record = re.fullmatch(r"data/(weights/weight|constants/tensor)_[0-9]{1,9}", name, re.ASCII)
        if (not known and record is None) or entry.is_folder:
            code = "kind_code" if name == "data.pkl" else "layout_entry_unknown"
            raise Refused(code, "It is no part of an exported program.", entry=shown(name))
    for name in (_MODEL, *_CONFIGS, _FORMAT, _ARCHIVE_VERSION):
        if name not in entries:
            raise Refused("layout_entry_missing", "It is missing.", entry=name)
    for name, wanted in ((_FORMAT, b"pt2"), (_ARCHIVE_VERSION, b"0"), ("byteorder", b"little")):
        if name in entries and archive.read(entries[name], at_most=64).strip() != wanted:
            raise Refused("layout_version", f"It does not say {wanted.decode()}.", entry=name)
    return entries


def _json(archive: ZipFile, entry: Entry, limits: Limits) -> Cursor:
    name = entry.name.partition("/")[2]
    if entry.size > limits.json_bytes:
        raise Refused("json_too_large", f"{entry.size} bytes, {limits.json_bytes} are the most.", entry=name)
    return parse(archive.read(entry, at_most=limits.json_bytes), entry=name, limits=limits)


class _Program:
    """The checked parts of the model's JSON; ``document`` is the new one, ``examples`` the bytes of new inputs."""

    def __init__(self, cursor: Cursor, weights: Payloads, constants: Payloads, limits: Limits) -> None:
        self._limits = limits
        fields = cursor.fields(
            "graph_module opset_version range_constraints schema_version", "verifiers torch_version guards_code"
        )
        module = fields["graph_module"].fields(
            "graph signature module_call_graph", "metadata treespec_namedtuple_fields"
        )
        version = _schema_version(fields["schema_version"])
        specs = module["signature"].fields("input_specs output_specs")["input_specs"]
        graph = GraphReader(module["graph"], limits=limits, keep=parameter_names(specs, limits))
        signature = read_signature(module["signature"], graph, limits=limits)
        _check_stored(signature, graph, weights, constants, module["signature"])
        call, tree = self._call(module["module_call_graph"], signature)
        self.operators = graph.calls
        self.examples = write_examples(tree, _leaves(signature, graph), limits=limits)
        self.document: dict[str, Any] = {
            "graph_module": {
                "graph": graph.document(),
                "signature": signature.document(),
                "module_call_graph": [{"fqn": "", "signature": call}],
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": self._opsets(fields["opset_version"]),
            "range_constraints": self._ranges(fields["range_constraints"], graph.symbols),
            "schema_version": version,
            "verifiers": [each.one_of(("TRAINING", "ATEN")) for each in fields["verifiers"].elements(4)]
            if "verifiers" in fields
            else [],
            "torch_version": _torch_version(fields.get("torch_version")),
            "guards_code": [],
        }

    def _call(self, cursor: Cursor, signature: Signature) -> tuple[dict[str, Any], Tree]:
        """How the whole model is called; what is kept of its submodules is not needed to run it."""
        found: Cursor | None = None
        for each in cursor.elements(self._limits.tensors):
            entry = each.fields("fqn", "signature")
            if entry["fqn"].value == "":
                found = entry.get("signature")
        if found is None:
            raise cursor.refused("signature_invalid", "It is not said how the model is called.")
        fields = found.fields("inputs outputs in_spec out_spec", "forward_arg_names")
        tree, out = (parse_tree(fields[key], limits=self._limits) for key in ("in_spec", "out_spec"))
        if tree.kind != "tuple" or [child.kind for child in tree.children] != ["tuple", "dict"]:
            raise fields["in_spec"].refused("tree_invalid", "Inputs are a tuple of arguments and a dict of named ones.")
        for key in tree.children[1].keys:
            if not is_identifier(key, self._limits.name_chars):
                raise fields["in_spec"].refused("name_invalid", f"the argument {shown(key)} is no plain identifier.")
        if tree.leaves != len(signature.inputs) or out.leaves != signature.outputs:
            raise found.refused("signature_invalid", "The trees do not have the graph's inputs and outputs as leaves.")
        names: list[str] | None = None
        if "forward_arg_names" in fields:
            names = [
                each.text(self._limits.name_chars)
                for each in fields["forward_arg_names"].elements(self._limits.tree_leaves)
            ]
            if not all(is_identifier(name, self._limits.name_chars) for name in names):
                raise fields["forward_arg_names"].refused("name_invalid", "an argument is no plain identifier.")
        document = {"inputs": [], "outputs": [], "in_spec": tree.printed(), "out_spec": out.printed()}
        return {**document, "forward_arg_names": names}, tree

    def _opsets(self, cursor: Cursor) -> dict[str, int]:
        return {"aten": cursor.fields("aten")["aten"].integer(0, 1_000)}

    def _ranges(self, cursor: Cursor, symbols: set[str]) -> dict[str, Any]:
        """Bounds of sizes; those of symbols that no tensor has would only be warned of."""
        ranges: dict[str, Any] = {}
        for text, each in cursor.items(self._limits.tensors):
            expression = parse_expression(text, entry=each.path, limits=self._limits)
            fields = each.fields("", "min_val max_val")
            bounds = {key: fields[key].integer() if key in fields else None for key in ("min_val", "max_val")}
            # torch takes all that begins so for the number of a size found at run time.
            if text.startswith("u") and not SYMBOL.match(text):
                continue
            if expression.symbols() <= symbols:
                ranges[text] = bounds
        return ranges


def _schema_version(cursor: Cursor) -> dict[str, int]:
    fields = cursor.fields("major minor")
    major, minor = fields["major"].integer(0), fields["minor"].integer(0, 1_000)
    if major != SCHEMA_MAJOR:
        raise cursor.refused("layout_version", f"schema {major}.{minor}, {SCHEMA_MAJOR} is read.")
    return {"major": major, "minor": minor}


def _torch_version(cursor: Cursor | None) -> str:
    found = _VERSION.match(cursor.text(64)) if cursor is not None else None
    return found[0] if found else "2.11.0"


def _check_stored(
    signature: Signature, graph: GraphReader, weights: Payloads, constants: Payloads, cursor: Cursor
) -> None:
    """Every stored tensor of the graph is there, and as the graph says it is."""
    for name, (kind, value, persistent) in signature.stored.items():
        source = weights if kind == "parameter" or (kind == "buffer" and persistent) else constants
        payload = source.by_name.get(name)
        if payload is None:
            raise cursor.refused("weights_missing", f"there is no tensor '{name}'.")
        meta = graph.metas[value]
        if (meta.dtype, meta.shape) != (payload.meta.dtype, payload.meta.shape):
            raise cursor.refused("tensor_mismatch", f"'{name}' is stored otherwise than the graph says.")


def _leaves(signature: Signature, graph: GraphReader) -> list[Leaf]:
    leaves: list[Leaf] = []
    for argument in signature.inputs:
        ((kind, value),) = argument.items()
        if kind == "as_tensor":
            leaves.append(graph.metas[value["name"]])
        elif kind == "as_sym_int":
            leaves.append(graph.example_of(value["as_name"]))
        else:
            leaves.append(None if kind == "as_none" else float(value) if kind == "as_float" else value)
    return leaves


def _write(
    out: BinaryIO,
    archive: ZipFile,
    entries: Mapping[str, Entry],
    weights: Payloads,
    constants: Payloads,
    program: _Program,
) -> None:
    writer = ZipWriter(out)

    def add(name: str, content: bytes) -> None:
        writer.write(f"archive/{name}", [content], size=len(content))

    add(_FORMAT, b"pt2")
    for payloads, folder, config in zip((weights, constants), (WEIGHTS, CONSTANTS), _CONFIGS, strict=True):
        for record, number in payloads.records.items():
            name = f"archive/{folder}{payloads.prefix}{number}"
            writer.write(name, archive.blocks(entries[record]), size=entries[record].size)
        add(config, _dumped(payloads.document()))
    add(_MODEL, _dumped(program.document))
    add(_SAMPLES, program.examples)
    add(_ARCHIVE_VERSION, b"0")
    add("byteorder", b"little")
    add(".data/version", b"6\n")
    writer.close()


def _dumped(document: dict[str, Any]) -> bytes:
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode("ascii")
