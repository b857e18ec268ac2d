"""Random damage: bits of the whole file, and values, keys and entries of what it is made of."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from random import Random
from typing import Any

import corpus_others
import corpus_parts as corpus

from aslconvert.workers.intake.codes import CODES
from aslconvert.workers.intake.refusal import Refused
from aslconvert.workers.intake.vet import vet

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1 << 31, (1 << 63) - 1, -(1 << 63), 0.5, 1e308, "", "x", "s0", "Infinity", "NaN",
    "__class__", "a\0b", "a\u202eb", "torch.ops.aten.relu.default", "Mul(Integer(2), Symbol('s0'))", [], {}, [[]],
    {"as_int": 1}, {"as_none": True}, {"as_tensor": {"name": "x"}}, {"as_expr": {"expr_str": "s0", "hint": None}},
)  # fmt: skip


def damaged_bytes(content: bytes, draw: Random) -> bytes:
    """A few bytes flipped, cut out, put in or repeated."""
    out = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(out) + 1)
        match draw.randrange(5):
            case 0 if at < len(out):
                out[at] ^= 1 << draw.randrange(8)
            case 1 if at < len(out):
                out[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del out[at : at + draw.randint(1, 64)]
            case 3:
                out[at:at] = draw.randbytes(draw.randint(1, 16))
            case _:
                out[at:at] = out[at : at + draw.randint(1, 64)]
    return bytes(out)


def damaged_json(document: Any, draw: Random) -> Any:
    """A few values replaced, removed, moved or repeated."""
    for _ in range(draw.randint(1, 3)):
        places = list(_places(document))
        if not places:
            return draw.choice(VALUES)
        holder, key = draw.choice(places)
        match draw.randrange(5):
            case 0:
                del holder[key]
            case 1:
                other, name = draw.choice(places)
                holder[key] = json.loads(json.dumps(other[name]))
            case 2 if isinstance(holder, dict):
                holder[str(draw.choice(VALUES))] = holder.pop(key)
            case 3 if isinstance(holder, list):
                holder.insert(draw.randrange(len(holder) + 1), json.loads(json.dumps(holder[key])))
            case _:
                holder[key] = draw.choice(VALUES)
    return document


def _places(value: Any) -> Any:
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from _places(inner)


def mutant(bases: dict[str, bytes], draw: Random) -> tuple[str, bytes]:
    """(kind, content) of a file that once was fine."""
    name = draw.choice(sorted(bases))
    content = bases[name]
    if name.startswith("pt2") and draw.random() < 0.8:
        parts = corpus.unpack(content)
        entry = draw.choice((corpus.MODEL, corpus.MODEL, corpus.WEIGHTS, corpus.CONSTANTS))
        if draw.random() < 0.9:
            parts[entry] = json.dumps(damaged_json(json.loads(parts[entry]), draw)).encode()
        else:
            parts[entry] = damaged_bytes(parts[entry], draw)
        return "model", corpus.pack(parts)
    if name == "safetensors" and draw.random() < 0.7:
        length = int.from_bytes(content[:8], "little")
        header = json.dumps(damaged_json(json.loads(content[8 : 8 + length]), draw)).encode()
        return "model", corpus_others.safetensors(header, content[8 + length :])
    kind = "model" if name.startswith(("pt2", "onnx", "safetensors")) else "data"
    return kind, damaged_bytes(content, draw)


def outcome(kind: str, content: bytes, folder: Path) -> str:
    """The code, or ``rebuilt``; everything else is the caller's to see."""
    source = folder / "mutant"
    source.write_bytes(content)
    try:
        vet(source, folder / f"out-{kind}", kind=kind)
    except Refused as refused:
        if refused.code not in CODES or not str(refused).isascii():
            raise
        return refused.code
    return corpus.REBUILT


def bases(tiny: bytes, *more: bytes) -> dict[str, bytes]:
    """A fine file of every kind."""
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    png = corpus_others.png()
    parts = corpus.unpack(tiny)
    return {
        "pt2": corpus.pack({**parts, corpus.SAMPLES: b""}),
        **{f"pt2-{index}": content for index, content in enumerate(more)},
        "onnx": corpus_others.model(),
        "safetensors": corpus_others.safetensors({"a": tensor, "__metadata__": {"x": "y"}}, bytes(8)),
        "npz": corpus_others.npz(image=[[1.0, 2.0]], label=[1]),
        "zip": corpus_others.zipped({"a/1.png": png, "b/2.png": png, "data.toml": b"size = 4"}),
        "tar": corpus_others.tarred([("a/1.png", png), ("a/1.cls", b"3"), ("b/2.png", png)]),
        "gzip": gzip.compress(corpus_others.tarred([("a/1.png", png)])),
    }
