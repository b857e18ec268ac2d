"""Hostile files of the other kinds: archives of images, arrays, safetensors and ONNX."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from corpus_parts import REBUILT, Attack, Evil, many, merged, pack, patched
from onnx import TensorProto, helper
from PIL import Image


def others(canary: str) -> Iterator[Attack]:
    """All attacks but those on exported programs."""
    evil = pickle.dumps(Evil(canary))
    yield from _nothing(evil)
    yield from _zips(evil)
    yield from _tars(evil)
    yield from _arrays(evil)
    yield from _safetensors()
    yield from _onnx()


def png(width: int = 4, height: int = 4) -> bytes:
    """A small picture."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (10, 20, 30)).save(file, "PNG")
    return file.getvalue()


def huge_png(side: int) -> bytes:
    """A picture whose header alone is huge."""
    content = bytearray(png())
    content[16:24] = struct.pack(">2L", side, side)
    content[29:33] = struct.pack(">L", zlib.crc32(content[12:29]))
    return bytes(content)


def zipped(parts: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of data."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


def tarred(members: list[tuple[str, bytes]], **changes: Any) -> bytes:
    """A tar whose last member has fields changed."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=changes.pop("format", tarfile.GNU_FORMAT)) as archive:
        for index, (name, content) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if index == len(members) - 1:
                for key, value in changes.items():
                    setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _nothing(evil: bytes) -> Iterator[Attack]:
    for kind in ("model", "data"):
        for name, content in (("nothing", b""), ("zeros", bytes(4096)), ("text", b"hello"), ("html", b"<html></html>")):
            yield Attack(f"{kind}-{name}", "kind_unknown", content, kind)
        yield Attack(f"{kind}-pickle", "kind_code", evil, kind)
    yield Attack("images-as-model", "kind_mismatch", zipped({"a.png": png()}))
    yield Attack("onnx-as-data", "kind_mismatch", model(), "data")
    yield Attack("gzip-of-nothing", "kind_unknown", gzip.compress(b"hello"), "data")


def _zips(evil: bytes) -> Iterator[Attack]:
    def attack(name: str, code: str, content: bytes) -> Attack:
        return Attack(f"zip-{name}", code, content, "data")

    whole = zipped({"a/1.png": png(), "b/2.png": png()})
    yield attack("fine", REBUILT, whole)
    yield attack("one-broken", REBUILT, zipped({"1.png": png(), "2.png": b"no", "3.png": huge_png(60_000)}))
    yield attack("all-broken", "data_all_broken", zipped({"1.png": b"no", "2.png": huge_png(60_000), "3.jpg": evil}))
    yield attack(
        "others-left-out", REBUILT, zipped({"1.png": png(), "evil.py": b"import os", "data.toml": b"size = 4"})
    )
    yield attack("no-image", "kind_unknown", zipped({"evil.py": b"import os"}))
    yield attack("bomb", "archive_ratio", zipped({"1.png": bytes(64 << 20)}))
    yield attack("bomb-lies", "archive_mismatch", _lying(zipped({"1.png": bytes(8 << 20)})))
    yield attack("bzip", "archive_compressed", zipped({"1.png": png()}, zipfile.ZIP_BZIP2))
    yield attack("lzma", "archive_compressed", zipped({"1.png": png()}, zipfile.ZIP_LZMA))
    yield attack("file-as-folder", "archive_duplicate_entry", zipped({"a.png": png(), "a.png/b.png": png()}))
    yield attack("folder-as-file", "archive_duplicate_entry", zipped({"a.png/b.png": png(), "a.png": png()}))
    yield attack("twice", "archive_duplicate_entry", merged(whole, zipped({"A/1.PNG": png()})))
    yield attack("up", "archive_path", zipped({"../1.png": png()}))
    yield attack("deep", "archive_path", zipped({"a/" * 50 + "1.png": png()}))
    yield attack("long", "archive_path", zipped({"a" * 300 + ".png": png()}))
    yield attack("link", "archive_link", patched(whole, b"PK\x01\x02", 38, struct.pack("<L", 0o120777 << 16)))
    yield attack("cut", "archive_damaged", whole[:-30])
    yield attack("many", "archive_entries", many([f"{i}.png" for i in range(200_001)]))


def _lying(content: bytes) -> bytes:
    """Says of its one entry that it unpacks to a hundred bytes."""
    size = struct.pack("<L", 100)
    return patched(patched(content, b"PK\x01\x02", 24, size), b"PK\x03\x04", 22, size)


def _tars(evil: bytes) -> Iterator[Attack]:
    def attack(name: str, code: str, content: bytes) -> Attack:
        return Attack(f"tar-{name}", code, content, "data")

    whole = tarred([("a/1.png", png()), ("a/1.cls", b"7"), ("b/2.png", png())])
    yield attack("fine", REBUILT, whole)
    yield attack("gzip", REBUILT, gzip.compress(whole, mtime=0))
    yield attack("xz", REBUILT, lzma.compress(whole))
    yield attack("bz2", REBUILT, bz2.compress(whole))
    yield attack("bomb-bz2", "archive_ratio", bz2.compress(tarred([("1.png", bytes(20 << 20))])))
    yield attack("below-dot", REBUILT, tarred([("./1.png", png()), (".", b"")], type=b"5"))
    yield attack("dot-dot", "archive_path", tarred([("./../1.png", png())]))
    yield attack("pax", REBUILT, tarred([("\u00e4" * 80 + ".png", png())], format=tarfile.PAX_FORMAT))
    yield attack("long-name", REBUILT, tarred([("a" * 120 + "/1.png", png())]))
    for name, kind in (("symlink", b"2"), ("hardlink", b"1"), ("device", b"3"), ("fifo", b"6"), ("sparse", b"S")):
        yield attack(name, "archive_link", tarred([("1.png", b"")], type=kind, linkname="/etc/passwd"))
    yield attack("up", "archive_path", tarred([("../../1.png", png())]))
    yield attack("absolute", "archive_path", tarred([("/etc/1.png", png())]))
    yield attack("twice", "archive_duplicate_entry", tarred([("1.png", png()), ("1.PNG", png())]))
    yield attack("bomb", "archive_ratio", gzip.compress(tarred([("1.png", bytes(40 << 20))]), 9))
    yield attack("bomb-xz", "archive_ratio", lzma.compress(tarred([("1.png", bytes(20 << 20))]), preset=0))
    yield attack("name-bomb", "archive_path", tarred([("1.png", bytes(1 << 20))], type=b"L"))
    yield attack("pax-bomb", "archive_path", tarred([("1.png", bytes(1 << 20))], type=b"x"))
    yield attack("pax-size", "archive_mismatch", _pax(b"size=0"))
    yield attack("pax-damaged", "archive_damaged", tarred([("x", b"9999 path=x\n"), ("1.png", png())][:1], type=b"x"))
    yield attack("sum", "archive_damaged", whole[:150] + b"7" + whole[151:])
    yield attack("cut", "archive_damaged", whole[:700])
    yield attack("gzip-cut", "archive_damaged", gzip.compress(whole)[:-20])
    yield attack("gzip-more", "archive_hidden_data", gzip.compress(whole) + gzip.compress(whole))
    yield attack("more", "archive_hidden_data", whole + b"evil")
    yield attack("no-image", "data_empty", tarred([("x.py", b"import os")]))
    yield attack("no-class", REBUILT, tarred([("1.png", png()), ("1.cls", b"__import__('os')")]))


def _pax(text: bytes) -> bytes:
    record = b"%d %s\n" % (len(text) + 4, text)
    return tarred([("x", record)], type=b"x")[:1024] + tarred([("1.png", png())])


def npz(**arrays: Any) -> bytes:
    """As numpy writes it."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _arrays(evil: bytes) -> Iterator[Attack]:
    def attack(name: str, code: str, header: bytes | str, data: bytes = b"") -> Attack:
        text = header.encode() if isinstance(header, str) else header
        array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data
        return Attack(f"npy-{name}", code, zipped({"image.npy": array}), "data")

    image = np.zeros((2, 3, 4, 4), np.float32)
    yield Attack("npz-fine", REBUILT, npz(image=image, label=np.arange(2)), "data")
    yield Attack("npz-objects", "array_pickled", npz(image=np.array([{}], dtype=object)), "data")
    yield Attack("npz-long-strings", "tensor_type", npz(image=np.array(["a" * 100])), "data")
    yield Attack("npz-no-characters", "array_damaged", npz(group=np.array([0x110000], "<u4").view("<U1")), "data")
    yield Attack("npz-name", "name_invalid", zipped({"a b.npy": b""}), "data")
    yield Attack("npz-mixed", "kind_unknown", zipped({"image.npy": b"", "evil.pkl": evil}), "data")
    plain = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }\n"
    yield attack("huge", "tensor_too_large", plain % "9999999999, 9999999999")
    yield attack("missing", "array_damaged", plain % "100,")
    yield attack("more", "array_damaged", plain % "1,", bytes(8))
    yield attack("digits", "array_damaged", plain % ("9" * 300))
    yield attack("rank", "tensor_too_large", plain % "1, 1, 1, 1, 1, 1, 1, 1, 1,", bytes(4))
    yield attack("negative", "array_damaged", plain % "-1,")
    yield attack("code", "array_damaged", "{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os'),), }")
    yield attack("object", "array_pickled", "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", evil)
    yield attack("record", "array_damaged", "{'descr': [('a', 'O')], 'fortran_order': False, 'shape': (1,), }")
    yield attack("type", "tensor_type", "{'descr': '<c16', 'fortran_order': False, 'shape': (0,), }")
    yield attack("big-endian", "tensor_type", "{'descr': '>f4', 'fortran_order': False, 'shape': (0,), }")
    yield attack("nested", "array_damaged", "{'descr': " + "[" * 60_000)
    yield attack("not-ascii", "array_damaged", b"\xff" * 100)
    yield Attack("npy-magic", "array_damaged", zipped({"image.npy": b"evil"}), "data")
    longer = b"\x93NUMPY\x02\x00" + struct.pack("<L", 1 << 30) + b"x"
    yield Attack("npy-header-length", "array_damaged", zipped({"image.npy": longer}), "data")
    bomb = zipped({"image.npy": bytes(64 << 20)})
    yield Attack("npz-bomb", "archive_ratio", bomb, "data")


def safetensors(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _safetensors() -> Iterator[Attack]:
    def attack(name: str, code: str, content: bytes) -> Attack:
        return Attack(f"safetensors-{name}", code, content)

    def tensor(begin: int, end: int, *shape: int, dtype: str = "F32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}

    fine = {"a.b": tensor(0, 8, 2), "c": tensor(8, 12, 1), "__metadata__": {"format": "pt"}}
    yield attack("fine", REBUILT, safetensors(fine, bytes(12)))
    yield attack("empty", REBUILT, safetensors({}))
    yield attack("cut", "safetensors_offsets", safetensors(fine, bytes(11)))
    yield attack("more", "safetensors_offsets", safetensors(fine, bytes(13)))
    yield attack("header-long", "kind_unknown", safetensors(fine, length=1 << 40))
    yield attack("header-cut", "json_damaged", safetensors(fine, bytes(12), length=20))
    yield attack("header-large", "json_too_large", safetensors(b'{"a":"' + b"x" * (33 << 20) + b'"}'))
    yield attack("header-deep", "json_too_deep", safetensors(b'{"a":' * 10_000))
    yield attack(
        "overlap", "safetensors_offsets", safetensors({"a": tensor(0, 8, 2), "b": tensor(4, 12, 2)}, bytes(12))
    )
    yield attack("gap", "safetensors_offsets", safetensors({"a": tensor(4, 12, 2)}, bytes(12)))
    yield attack("shape", "safetensors_offsets", safetensors({"a": tensor(0, 8, 3)}, bytes(8)))
    yield attack("huge", "tensor_too_large", safetensors({"a": tensor(0, 8, 1 << 40)}, bytes(8)))
    yield attack("huge-empty", "tensor_too_large", safetensors({"a": tensor(0, 0, 0, 1 << 40)}))
    yield attack("negative", "number_too_large", safetensors({"a": tensor(0, 8, -2)}, bytes(8)))
    yield attack("type", "tensor_type", safetensors({"a": tensor(0, 8, 2, dtype="F8_E4M3")}, bytes(8)))
    yield attack("name", "name_invalid", safetensors({"../a": tensor(0, 8, 2)}, bytes(8)))
    yield attack("nul", "name_invalid", safetensors({"a\0b": tensor(0, 8, 2)}, bytes(8)))
    yield attack("field", "field_unknown", safetensors({"a": {**tensor(0, 8, 2), "x": 1}}, bytes(8)))
    yield attack("many", "json_too_large", safetensors({f"a{i}": tensor(0, 0, 0) for i in range(20_100)}))


def model(change: Callable[[Any], None] | None = None) -> bytes:
    """A convolution, changed."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 3, 1, 1], [0.5] * 6)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="/conv/Conv"), helper.make_node("Relu", ["y"], ["z"])]
    shape = ["n", 3, 8, 8]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 2, 8, 8])], [weight],
    )  # fmt: skip
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if change is not None:
        change(whole)
    return bytes(whole.SerializeToString())


def _onnx() -> Iterator[Attack]:
    def attack(name: str, code: str, change: Callable[[Any], Any]) -> Attack:
        return Attack(f"onnx-{name}", code, model(change))

    def external(m: Any) -> None:
        m.graph.initializer[0].data_location = TensorProto.EXTERNAL
        m.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")

    yield Attack("onnx-fine", REBUILT, model())
    yield attack("external", "onnx_external_data", external)
    yield attack("operator", "operator_not_allowed", lambda m: setattr(m.graph.node[0], "op_type", "Loop"))
    yield attack("domain", "onnx_domain", lambda m: setattr(m.graph.node[0], "domain", "com.evil"))
    yield attack("function", "onnx_function", lambda m: m.functions.add(name="f", domain="x"))
    yield attack("training", "onnx_function", lambda m: m.training_info.add())
    yield attack("sparse", "onnx_function", lambda m: m.graph.sparse_initializer.add())
    yield attack("opset", "onnx_opset", lambda m: setattr(m.opset_import[0], "version", 99))
    yield attack("opset-none", "onnx_opset", lambda m: m.ClearField("opset_import"))
    yield attack("no-graph", "onnx_damaged", lambda m: m.ClearField("graph"))
    yield attack("subgraph", "onnx_function", lambda m: m.graph.node[0].attribute.add(name="body", type=5))
    yield attack("attribute", "field_unknown", lambda m: m.graph.node[0].attribute.add(name="tp", type=13))
    yield attack(
        "reference", "onnx_function", lambda m: m.graph.node[0].attribute.add(name="a", type=2, ref_attr_name="b")
    )
    yield attack("text", "field_invalid", lambda m: m.graph.node[0].attribute.add(name="a", type=3, s=b"\xff"))
    yield attack("twice", "name_duplicate", lambda m: m.graph.node[1].output.__setitem__(0, "y"))
    yield attack("undefined", "name_undefined", lambda m: m.graph.node[1].input.__setitem__(0, "q"))
    yield attack("cycle", "name_undefined", lambda m: m.graph.node[0].input.__setitem__(0, "z"))
    yield attack("no-output", "name_undefined", lambda m: setattr(m.graph.output[0], "name", "q"))
    yield attack("name-bidi", "name_invalid", lambda m: setattr(m.graph.node[0], "name", "a\u202eb"))
    yield attack("name-nul", "name_invalid", lambda m: setattr(m.graph.node[0], "name", "a\0b"))
    yield attack("name-long", "name_invalid", lambda m: setattr(m.graph.node[0], "name", "a" * 5000))
    yield attack("dims", "onnx_damaged", lambda m: m.graph.initializer[0].dims.__setitem__(0, 3))
    yield attack("dims-huge", "tensor_too_large", lambda m: m.graph.initializer[0].dims.__setitem__(0, 1 << 50))
    yield attack("dims-negative", "onnx_damaged", lambda m: m.graph.initializer[0].dims.__setitem__(0, -2))
    yield attack("raw", "onnx_damaged", lambda m: setattr(m.graph.initializer[0], "raw_data", b"x"))
    yield attack("strings", "tensor_type", lambda m: setattr(m.graph.initializer[0], "data_type", 8))
    yield attack("complex", "tensor_type", lambda m: setattr(m.graph.initializer[0], "data_type", 14))
    dim = "tensor_too_large"
    yield attack(
        "input-huge", dim, lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1 << 50)
    )
    yield attack("sequence", "tensor_type", lambda m: m.graph.input[0].type.sequence_type.SetInParent())
    yield attack("many-nodes", "onnx_too_large", lambda m: m.graph.node.extend([onnx.NodeProto()] * 60_000))
    empty_nodes = b"\x3a" + _varint(6_000_000) + b"\x0a\x00" * 3_000_000
    yield Attack("onnx-objects", "onnx_too_large", b"\x08\x09" + empty_nodes)
    yield Attack("onnx-length", "onnx_damaged", b"\x08\x09\x3a\xff\xff\xff\xff\x0f")
    yield Attack("onnx-varint", "onnx_damaged", b"\x08" + b"\xff" * 100)
    yield Attack("onnx-groups", "onnx_damaged", b"\x08\x09" + b"\x0b" * 1000)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


__all__ = ["model", "npz", "others", "pack", "png", "safetensors", "tarred", "zipped"]
