"""What is sent to a server: files as they are, folders packed the same each time, options under the service's names."""

import dataclasses
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted import Answer, scripted

from aslconvert.cli.progress import RichProgress
from aslconvert.cli.remote.convert import job_options, require_sendable
from aslconvert.cli.remote.fetching import fetch
from aslconvert.cli.remote.packing import declared_beside, sendable_data, sendable_model
from aslconvert.converter.data import images
from aslconvert.converter.errors import InternalError, ModelRefused, UsageError
from aslconvert.converter.options import ConvertOptions, Crop
from aslconvert.service.client import Client, Job
from aslconvert.service.jobs.options import Options
from aslconvert.workers.intake import images as taken
from aslconvert.workers.intake.datasets import Summary
from aslconvert.workers.intake.vet import vet


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("cats/a.png", "cats/b.JPG", "dogs/c.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 2, 3)).save(path, format="PNG")
    (folder / "data.toml").write_text("size = [8, 8]\n")
    (folder / "notes.txt").write_text("not sent")
    return folder


def test_a_folder_is_packed_as_the_intake_takes_it(pictures: Path, tmp_path: Path) -> None:
    with sendable_data(str(pictures)) as file:
        assert file.name == "photos"
        with tarfile.open(file.path) as tar:
            entries = tar.getmembers()
        assert [entry.name for entry in entries] == ["cats/a.png", "cats/b.JPG", "data.toml", "dogs/c.png"]
        assert {(entry.uid, entry.uname, entry.mtime) for entry in entries} == {(0, "", 0)}
        summary = vet(file.path, tmp_path / "unpacked", kind="data")
        assert isinstance(summary, Summary)
        assert (summary.images, summary.left_out, summary.broken) == (3, 0, 0)
        assert (tmp_path / "unpacked" / "cats" / "a.png").is_file()
        kept = file.path
    assert not kept.exists()


def test_a_pack_is_kept_until_it_was_sent_and_made_anew_for_other_files(pictures: Path) -> None:
    with pytest.raises(KeyboardInterrupt), sendable_data(str(pictures)) as file:
        raise KeyboardInterrupt
    before = file.path.stat().st_mtime_ns, file.path.read_bytes()
    with sendable_data(str(pictures)) as again:
        # The same file with the same time: the client finds what it has sent of it.
        assert (again.path.stat().st_mtime_ns, again.path.read_bytes()) == before
    Image.new("RGB", (8, 8)).save(pictures / "dogs" / "d.png")
    with sendable_data(str(pictures)) as other:
        assert other.path != file.path


def test_what_is_packed_is_what_readers_take() -> None:
    assert set(taken.EXTENSIONS) == set(images.EXTENSIONS)


def test_files_go_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"m")
    (tmp_path / "w.safetensors").write_bytes(b"w")
    with sendable_model(str(tmp_path / "m.pt2")) as file:
        assert (file.path, file.name, file.architecture) == (tmp_path / "m.pt2", "m", None)
    with sendable_model(f"arch:resnet-18@{tmp_path / 'w.safetensors'}") as file:
        assert (file.path, file.name, file.architecture) == (tmp_path / "w.safetensors", "resnet-18", "resnet-18")
    with sendable_data(str(tmp_path / "w.safetensors")) as file:
        assert file.path == tmp_path / "w.safetensors"


def test_code_is_run_here_and_its_export_sent(tmp_path: Path) -> None:
    (tmp_path / "sent_net.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Conv2d(3, 4, 3), (torch.zeros(1, 3, 8, 8),)\n"
    )
    with sendable_model(f"{tmp_path / 'sent_net.py'}:make") as file:
        assert (file.path.name, file.architecture) == ("make.pt2", None)
        assert vet(file.path, tmp_path / "rebuilt", kind="model").kind == "pt2"
        kept = file.path
    assert not kept.exists()


@pytest.mark.parametrize(
    ("spec", "code"),
    [("none.pt2", "not_found"), (".", "not_a_model"), ("arch:x@none.safetensors", "weights_not_found")],
)
def test_models_that_are_not_there_are_refused(spec: str, code: str) -> None:
    with pytest.raises(ModelRefused) as caught, sendable_model(spec):
        pass
    assert caught.value.code == code


def test_code_is_not_sent_for_want_of_a_factorys_name(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("secret = 1")
    with pytest.raises(ModelRefused, match="never sent") as caught, sendable_model(str(tmp_path / "net.py")):
        pass
    assert "net.py:factory" in caught.value.hint


@pytest.mark.parametrize(
    ("spec", "code"), [("none.npz", "data_not_found"), ("none", "data_is_code"), ("module:factory", "data_is_code")]
)
def test_data_that_cannot_be_sent_is_told(spec: str, code: str) -> None:
    with pytest.raises(UsageError) as caught, sendable_data(spec):
        pass
    assert caught.value.code == code


def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught, sendable_data(str(tmp_path)):
        pass
    assert caught.value.code == "data_empty"


def test_what_is_declared_beside_a_file_goes_with_the_options(tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(b"d")
    (tmp_path / "data.toml").write_text('size = [8, 16]\nmean = [0.5]\nchannels = "bgr"\n')
    found = declared_beside(str(tmp_path / "d.npz"), ConvertOptions(mean=(0.25,)))
    assert (found.size, found.mean, found.channels) == ((8, 16), (0.25,), "bgr")
    # Of a folder it is packed with the images.
    assert declared_beside(str(tmp_path), ConvertOptions()) == ConvertOptions()


OTHERS: dict[str, Any] = {
    "max_drop": 0.5, "max_params_mb": 2.0, "max_macs": 1e6, "metric": "psnr", "budget_seconds": 30.0,
    "keep": ("head*",), "seed": 3, "threads": 2, "batch": 4, "size": (8, 16), "scale": 0.5, "mean": (0.1, 0.2),
    "std": (1.0, 2.0), "channels": "bgr", "heal_crop": Crop(size=8, multiple=2), "artifacts": ("portable", "onnx"),
    "heal_steps": 5, "heal_batch": 4, "accumulate": 2, "task_loss": 0.5, "int16": False, "allow": ("prune",),
}  # fmt: skip


def test_options_reach_the_service_under_their_names() -> None:
    assert job_options(ConvertOptions()) == {}
    sent = job_options(ConvertOptions(**OTHERS))
    assert set(sent) == set(OTHERS)
    taken = Options.model_validate(sent).model_dump(mode="json", exclude_unset=True)
    assert taken == sent
    assert job_options(ConvertOptions(min_speedup=2)) == {"min_speedup": 2}
    # Whatever a conversion can be asked is either sent or refused.
    left = {field.name for field in dataclasses.fields(ConvertOptions)} - set(OTHERS) - {"min_speedup"}
    assert left == {"device", "resume", "cache", "dry_run", "plan", "dump_passes", "processes"}


@pytest.mark.parametrize(
    "options",
    [
        {"dry_run": True},
        {"plan": Path("plan.json")},
        {"dump_passes": Path("passes")},
        {"processes": 2},
        {"metric": "own.py:score"},
    ],
)
def test_what_only_a_run_here_can_do_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        require_sendable(ConvertOptions(**options))
    assert caught.value.code == "server_option"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", ".hidden", "a/.x", "a\\x", "a\nb", ""])
def test_a_server_cannot_name_files_outside_the_folder(name: str, tmp_path: Path) -> None:
    listed = {"items": [{"id": "a", "name": name, "bytes": 1, "sha256": "0" * 64}], "next": None}
    job = Job.model_validate({"id": "j", "kind": "convert", "state": "succeeded", "created": "2026-01-01T00:00:00Z"})
    with (
        scripted(lambda asked: Answer(200, json.dumps(listed).encode())) as server,
        Client(server.url, "asl_a_b") as client,
        RichProgress() as progress,
        pytest.raises(InternalError) as caught,
    ):
        fetch(client, job, tmp_path / "out", progress=progress)
    assert caught.value.code == "bad_name"
    assert not (tmp_path / "out").exists()
