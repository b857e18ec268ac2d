"""A made-up report, shaped like the demo's."""

from __future__ import annotations

import random

import pytest

from aslconvert.converter.cost.device import DeviceProfile
from aslconvert.converter.report.schema import (
    Agreement,
    Artifact,
    Change,
    Choice,
    DataInfo,
    InputInfo,
    LatencyValue,
    MetricValue,
    ModelInfo,
    Original,
    Report,
    SiteRecord,
    Variant,
)

RUNTIMES = ("torch", "torch_channels_last", "compile", "onnxruntime")


def _latency(ms: float) -> LatencyValue:
    return LatencyValue(p50_ms=ms, p95_ms=ms * 1.2, ci=(ms * 0.97, ms * 1.04))


def _variant(name: str, *, loss: float, speedup: float, rows: int, dominated: bool = False) -> Variant:
    base = 21.0
    latency = {
        "onnxruntime": base / speedup,
        "torch": 1.9 * base / speedup,
        "torch_channels_last": 1.5 * base / speedup,
    }
    return Variant(
        id=name,
        plan={f"main_processor.conv{i}": Choice(action="asl", rows=rows) for i in range(2, 15)}
        | {"main_processor.conv1": Choice(action="keep")},
        metric=MetricValue(name="psnr", value=39.0 - loss, ci=(36.6 - loss, 41.7 - loss), unit="dB"),
        loss=Change(value=loss, ci=(loss * 0.8, loss * 1.25)),
        agreement=Agreement(relative_l2=0.01 * loss, ci=(0.009 * loss, 0.012 * loss)),
        latency={name: _latency(ms) for name, ms in latency.items()},
        speedup={name: base / ms for name, ms in latency.items()},
        params=int(561_000 / speedup),
        macs=int(9.2e9 / speedup),
        bytes=int(2.2e6 / speedup),
        dominated=dominated,
    )


@pytest.fixture
def report() -> Report:
    draw = random.Random(0)
    shift = [-1.0, -0.5, 0.0, 0.5, 1.0]

    def jitter() -> float:
        return draw.choice(shift) + draw.gauss(0, 0.06)

    shifted = [
        SiteRecord(
            name=f"main_processor.conv{i}",
            kind="conv2d 3x3, 64 to 64",
            action="asl",
            reason="planned",
            rows=96,
            shifts=tuple((jitter(), jitter()) for _ in range(96)),
            fit_error=0.01 * i,
            latency_before_ms=1.32,
            latency_after_ms=0.31,
        )
        for i in range(2, 15)
    ]
    kept = [
        SiteRecord(
            name="main_processor.conv1",
            kind="conv2d 3x3, 4 to 64",
            action="keep",
            reason="not_faster",
            message="the rewritten form is not faster here",
            latency_before_ms=0.21,
        ),
        SiteRecord(
            name="upsampler",
            kind="conv_transpose2d 2x2",
            action="keep",
            reason="transposed",
            message="transposed convolutions are not rewritten",
        ),
    ]
    variants = (
        _variant("k192", loss=0.31, speedup=2.0, rows=192),
        _variant("k128", loss=0.52, speedup=2.7, rows=128),
        _variant("k96", loss=0.74, speedup=3.3, rows=96),
        _variant("k96-late", loss=0.95, speedup=3.1, rows=96, dominated=True),
        _variant("k64", loss=1.2, speedup=4.1, rows=64),
        _variant("k64-uniform", loss=1.55, speedup=4.05, rows=64, dominated=True),
        _variant("k48", loss=1.9, speedup=4.9, rows=48),
    )
    original = {name: _latency(ms) for name, ms in zip(RUNTIMES, (44.0, 39.5, 37.0, 21.0), strict=True)}
    return Report(
        created="2025-01-02T03:04:05Z",
        model=ModelInfo(
            name="Demosaicker <bayer>",
            source="demosaicker.pt2",
            sha256="a" * 64,
            inputs=(InputInfo(name="mosaic", shape=(None, 3, 128, 128), dtype="float32"),),
        ),
        device=DeviceProfile(
            cpu="Some Processor 9000",
            isa=("avx2", "fma", "avx512f", "avx512_vnni"),
            torch_isa="AVX512",
            cores=2,
            threads=2,
            memory_gib=15.6,
            system="Linux 6.1 x86_64, Python 3.11.7",
            versions={"torch": "2.13.0", "onnxruntime": "1.32.0"},
            kernels_native=True,
        ),
        data=DataInfo(
            source="photos.npz",
            samples={"calibrate": 36, "heal": 144, "validate": 12, "test": 54},
            groups={"calibrate": 9, "heal": 9, "validate": 2, "test": 4},
            preprocessing="used as stored",
        ),
        seeds={"run": 0},
        versions={"aslconvert": "0.1.0"},
        original=Original(
            metric=MetricValue(name="psnr", value=39.0, ci=(36.6, 41.7), unit="dB"),
            latency=original,
            params=561_000,
            macs=9_200_000_000,
            bytes=2_240_000,
        ),
        sites=(*kept, *shifted),
        variants=variants,
        chosen="k96",
        artifacts=(
            Artifact(
                path="portable.pt2", sha256="b" * 64, kind="pt2", bytes=900_000, max_abs_diff=2.4e-6, reloaded=True
            ),
            Artifact(
                path="model.onnx", sha256="c" * 64, kind="onnx", bytes=880_000, max_abs_diff=3.1e-6, reloaded=True
            ),
        ),
        runtimes_unavailable={"openvino": "not installed"},
        timings={"load": 1.2, "fit": 31.0, "heal": 240.5},
    )
