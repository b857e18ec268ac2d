"""Exports whose archive is hostile: two readers would see two files in it."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator

from corpus_parts import MODEL, SAMPLES, WEIGHTS, Attack, Parts, many, merged, pack, patched, with_name


def zips(parts: Parts) -> Iterator[Attack]:
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
