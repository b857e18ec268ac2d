"""Options are checked when they are made, and their written forms read the same everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aslconvert.converter.errors import UsageError
from aslconvert.converter.export.kinds import KINDS, complete
from aslconvert.converter.options import (
    ARTIFACTS,
    DEFAULT_ARTIFACTS,
    ConvertOptions,
    Crop,
    parse_allow,
    parse_artifacts,
    parse_channels,
    parse_crop,
    parse_duration,
    parse_number,
    parse_numbers,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), (" 2M ", 120)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "10x", "-5m", "10m5", "0", "0m", "1e9m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert caught.value.code == "bad_duration"


@given(hours=st.integers(0, 99), minutes=st.integers(0, 59), seconds=st.integers(1, 59))
def test_durations_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


def test_crops_sizes_and_numbers() -> None:
    assert parse_crop("64/2") == Crop(size=64, multiple=2)
    assert parse_crop("48") == Crop(size=48, multiple=1)
    assert parse_size("224") == (224, 224)
    assert parse_size("240x320") == (240, 320)
    assert parse_number("1/255") == 1 / 255
    assert parse_numbers("0.5, 1/4") == (0.5, 0.25)
    assert parse_channels("gray") == "gray"


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_crop, "63/2"),
        (parse_crop, "0"),
        (parse_crop, "64/0"),
        (parse_crop, "64x64"),
        (parse_size, "x3"),
        (parse_number, "1/0"),
        (parse_number, "nan"),
        (parse_numbers, "1,,2"),
        (parse_channels, "cmyk"),
    ],
)
def test_what_cannot_be_read(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises(UsageError):
        parse(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_drop": -1.0},
        {"max_drop": float("nan")},
        {"min_speedup": 0.0},
        {"budget_seconds": 0.0},
        {"device": "tpu"},
        {"threads": 0},
        {"seed": -1},
        {"size": (0, 4)},
        {"scale": 0.0},
        {"std": (1.0, 0.0)},
        {"mean": (float("inf"),)},
        {"channels": "cmyk"},
    ],
)
def test_values_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        ConvertOptions(**wrong)  # type: ignore[arg-type]
    assert caught.value.code == "bad_option"


def test_targets_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        ConvertOptions(max_drop=1.0, min_speedup=2.0)


def test_what_is_allowed_is_read_and_unknown_names_are_told() -> None:
    assert parse_allow("prune") == parse_allow(" Prune,prune ,") == ("prune",)
    assert parse_allow("int8,prune") == parse_allow("prune,INT8") == ("prune", "int8")
    for text in ("", ",", "pruning", "prune,magic"):
        with pytest.raises(UsageError) as caught:
            parse_allow(text)
        assert caught.value.code == "bad_allow"
        assert "prune" in caught.value.hint
    with pytest.raises(UsageError, match="allow"):
        ConvertOptions(allow=("magic",))


def test_kinds_of_artifact_are_read_and_completed() -> None:
    assert parse_artifacts("default") == DEFAULT_ARTIFACTS
    assert parse_artifacts(" all ") == ARTIFACTS == tuple(KINDS)
    assert parse_artifacts("default,int8") == tuple(kind for kind in ARTIFACTS if kind != "aoti")
    assert complete(parse_artifacts("code,onnx,onnx")) == ("onnx", "weights", "code")
    assert tuple(kind.name for kind in KINDS.values() if kind.default) == DEFAULT_ARTIFACTS
    for text in ("", ",", "portable,tensorrt"):
        with pytest.raises(UsageError) as caught:
            parse_artifacts(text)
        assert caught.value.code == "bad_artifacts"


def test_without_16_bits_no_file_in_them_is_written() -> None:
    assert "int16" in ConvertOptions().written
    assert ConvertOptions(int16=False).written == tuple(kind for kind in DEFAULT_ARTIFACTS if kind != "int16")
    with pytest.raises(UsageError, match="int16"):
        ConvertOptions(int16=False, artifacts=("int16",))
