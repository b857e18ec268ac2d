import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aslconvert.converter.errors import ModelRefused
from aslconvert.converter.ir.dims import dynamic_axes, shape_notes
from aslconvert.converter.ir.load import export_factory, export_model, load_program

FACTORY = """
import torch
from torch import nn
from neighbour import CHANNELS

def make():
    return nn.Conv2d(CHANNELS, 4, 3, padding=1), (torch.zeros(1, CHANNELS, 8, 8),)

def bare():
    return nn.Conv2d(3, 4, 3)

def lazy():
    raise RuntimeError("no weights here")

def text():
    return "a model"

def wrong_shape():
    return nn.Conv2d(3, 4, 3), (torch.zeros(2, 5, 8, 8),)

class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

def branch():
    return Branch(), (torch.zeros(2, 3, 8, 8),)

number = 3
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("CHANNELS = 3\n")
    path = tmp_path / "user_model.py"
    path.write_text(FACTORY)
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt2"
    program = torch.export.export(nn.Conv2d(3, 4, 3).eval(), (torch.zeros(2, 3, 8, 8),))
    torch.export.save(program, path)
    return path


def test_a_factory_in_a_file_gives_a_program_with_dynamic_sizes(factory: Path) -> None:
    path = list(sys.path)
    program = export_factory(f"{factory}:make")
    assert dynamic_axes(program) == {"input": (0, 2, 3)}
    assert shape_notes(program) == []
    assert program.module()(torch.zeros(1, 3, 5, 11)).shape == (1, 4, 5, 11)
    assert sys.path == path


def test_a_factory_without_inputs_takes_the_given_example(factory: Path) -> None:
    program = load_program(f"{factory}:bare", example=(torch.zeros(2, 3, 9, 9),))
    assert dynamic_axes(program) == {"input": (0, 2, 3)}


@pytest.mark.parametrize(
    ("attribute", "code", "says"),
    [
        ("bare", "no_example", "example inputs"),
        ("lazy", "factory_failed", "no weights here"),
        ("text", "factory_failed", "type str"),
        ("number", "factory_failed", "no callable 'number'"),
        ("absent", "factory_failed", "no callable 'absent'"),
        ("wrong_shape", "export_failed", "expected input"),
        ("branch", "export_failed", "data-dependent"),
    ],
)
def test_a_factory_that_gives_no_model_is_refused_quietly(
    factory: Path, attribute: str, code: str, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelRefused) as refused:
        load_program(f"{factory}:{attribute}")
    assert refused.value.code == code
    assert says in str(refused.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("no_such_module_here:make", "factory_failed"),
        ("no_such_file.py:make", "not_found"),
        ("no_such_file.pt2", "not_found"),
        (":make", "bad_spec"),
        (".", "not_a_model"),
    ],
)
def test_a_name_of_nothing_is_refused(spec: str, code: str) -> None:
    with pytest.raises(ModelRefused) as refused:
        load_program(spec)
    assert refused.value.code == code


def test_a_file_with_an_error_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def make(:\n")
    with pytest.raises(ModelRefused) as refused:
        load_program(f"{path}:make")
    assert refused.value.code == "factory_failed"


def test_a_saved_program_is_loaded(saved: Path) -> None:
    program = load_program(str(saved))
    assert program.module()(torch.zeros(2, 3, 8, 8)).shape == (2, 4, 6, 6)
    assert shape_notes(program) == [
        "Input 'input' has a fixed batch size of 2.",
        "Input 'input' has a fixed image size of 8x8.",
    ]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_program_is_refused_quietly(saved: Path, share: float, capfd: pytest.CaptureFixture[str]) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelRefused) as refused:
        load_program(str(saved))
    assert refused.value.code == "truncated"
    assert capfd.readouterr() == ("", "")


def test_a_program_with_a_damaged_weight_is_refused(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 0xFF
    saved.write_bytes(bytes(data))
    with pytest.raises(ModelRefused) as refused:
        load_program(str(saved))
    assert refused.value.code in ("truncated", "not_a_model")


@pytest.mark.parametrize("content", ["text", "weights", "zip"])
def test_another_kind_of_file_is_refused_quietly(
    tmp_path: Path, content: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pt2"
    if content == "text":
        path.write_text("not a model at all, but long enough to look at\n" * 20)
    elif content == "weights":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelRefused) as refused:
        load_program(str(path))
    assert refused.value.code == "not_a_model"
    assert "aslconvert export" in refused.value.hint
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.Dropout(),
        nn.Dropout(inplace=True),
        nn.Dropout2d(),
        nn.AlphaDropout(),
        nn.FeatureAlphaDropout(inplace=True),
        nn.RReLU(),
        nn.RReLU(inplace=True),
    ],
    ids=repr,
)
def test_a_program_exported_in_training_mode_is_refused(layer: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "training.pt2"
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layer)
    torch.export.save(torch.export.export(copy.deepcopy(model).eval(), (torch.zeros(2, 3, 8, 8),)), path)
    load_program(str(path))
    model.train()
    torch.export.save(torch.export.export(model, (torch.zeros(2, 3, 8, 8),)), path)
    with pytest.raises(ModelRefused) as refused:
        load_program(str(path))
    assert refused.value.code == "train_mode"


def test_exporting_leaves_the_model_in_its_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[0].eval()
    export_model(model, (torch.zeros(2, 3, 8, 8),))
    assert [model.training, model[0].training, model[1].training] == [True, False, True]


class Flat(nn.Module):
    """Takes one image size only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * 6 * 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))


def test_a_model_of_one_image_size_keeps_its_batch_dynamic_and_says_so() -> None:
    program = export_model(Flat(), (torch.zeros(1, 3, 8, 8),))
    assert dynamic_axes(program) == {"x": (0,)}
    assert shape_notes(program) == ["Input 'x' has a fixed image size of 8x8."]


def test_a_module_factory_is_imported_from_the_working_folder(factory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(factory.parent)
    for name in ("user_model", "neighbour"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert sorted(load_program("user_model:make").state_dict) == ["bias", "weight"]
