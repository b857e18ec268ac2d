"""The pretrained demosaicker on a real service, from its .pt2 to proved files: embedded, and distributed."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cluster import Redis, redis_server
from cutting import Cutting, cutting
from postgres import cluster, programs
from scripted import free_port
from test_convert_on_server import answering, place, process, run

from aslconvert.service.client import Client, Event

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))

import photos

pytestmark = [pytest.mark.deep, pytest.mark.timeout(2400)]

__all__ = ["place"]  # the fixture of the other file

FACTORY = str(Path(photos.__file__).with_name("demosaicker.py")) + ":pretrained"
TILES = {photos.CALIBRATE: 24, photos.HEAL: 24, photos.VALIDATE: 8, photos.TEST: 12}
OPTIONS = {
    "min_speedup": 1.5, "metric": "psnr", "heal_crop": {"size": 64, "multiple": 2}, "heal_steps": 5, "threads": 1,
    "artifacts": ["portable", "onnx", "weights"],
}  # fmt: skip


@pytest.fixture
def files(place: Path) -> tuple[Path, Path]:
    """The exported network, and a few tiles of every split."""
    model, data = place / "demosaicker.pt2", place / "photos.npz"
    run("export", FACTORY, "-o", str(model))
    every = photos.OUT if photos.OUT.is_file() else photos.prepare(place / "every.npz")
    with np.load(every) as arrays:
        split = arrays["split"]
        # Spread over the photos of a split, as tiles of one are alike.
        taken = [
            at
            for number, count in TILES.items()
            for at in np.flatnonzero(split == number)[:: int((split == number).sum()) // count][:count]
        ]
        np.savez(data, **{name: arrays[name][taken] for name in arrays.files})
    return model, data


@contextlib.contextmanager
def embedded(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Path]]:
    """`serve` alone; its port and its key file."""
    port = free_port()
    with process("serve", "--port", str(port), "--folder", str(place / "deployed"), log=place / "log"):
        answering(f"http://127.0.0.1:{port}")
        yield port, place / "deployed" / "key"


@contextlib.contextmanager
def distributed(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Path]]:
    """`serve` over PostgreSQL, and a worker that hears of jobs over Redis and Celery."""
    binaries = programs()
    if binaries is None or redis_server() is None:
        pytest.skip("NO POSTGRESQL OR NO REDIS HERE: the distributed deployment is not tested")
    port, redis = free_port(), Redis(place / "redis", free_port())
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(cluster(binaries))
        redis.start()
        stack.callback(redis.kill)
        monkeypatch.setenv("ASLCONVERT_DATABASE_URL", database.url())
        monkeypatch.setenv("ASLCONVERT_REDIS", redis.url)
        monkeypatch.setenv("ASLCONVERT_STORAGE", str(place / "blobs"))
        run("keys", "bootstrap", "-o", str(place / "key"))
        stack.enter_context(process("serve", "--port", str(port), log=place / "log"))
        stack.enter_context(process("worker", "--folder", str(place / "works"), log=place / "worker.log"))
        answering(f"http://127.0.0.1:{port}")
        yield port, place / "key"


def converted(proxy: Cutting, key: Path, model: Path, data: Path, out: Path) -> None:
    """Every step by the Python client, over a line that is cut in the middle of the upload and of the events."""
    with Client(proxy.url, key_file=key, sent=out.with_name("sent")) as client:
        proxy.after = data.stat().st_size // 2
        sent = client.upload_dataset(data)
        assert proxy.after is None
        assert proxy.cuts == 1
        network = client.upload_model(model)

        inspected = client.wait(client.submit(kind="inspect", model=network.id, dataset=sent.id).id)
        assert inspected.forecast is not None
        assert inspected.forecast["sites"] >= 14, inspected.forecast
        assert max(point["speedup"] for point in inspected.forecast["points"]) > 1.5

        job = client.submit(model=network.id, dataset=sent.id, options=OPTIONS)
        events: list[Event] = []
        for event in client.follow(job.id):
            events.append(event)
            if event.kind == "stage" and proxy.cuts < 4:
                proxy.cut()
        assert proxy.cuts == 4
        # Each once and in order, though the stream was cut three times.
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        ended = client.job(job.id)
        assert (ended.state, ended.missed) == ("succeeded", None), ended
        assert ended.attempt == 1

        for artifact in client.artifacts(job.id):
            client.download(artifact, out / artifact.name)
        report = client.report(job.id)
    chosen = next(variant for variant in report["variants"] if variant["id"] == report["chosen"])
    assert max(chosen["speedup"].values()) >= 1.5, chosen
    proved = run("verify", str(out))["artifacts"]
    assert {one["kind"] for one in proved} >= {"portable", "onnx", "weights"}
    assert all(one["reloaded"] for one in proved)


@pytest.mark.parametrize("deployment", [embedded, distributed])
def test_the_demosaicker_goes_the_whole_way(
    deployment: Callable[..., contextlib.AbstractContextManager[tuple[int, Path]]],
    place: Path,
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = place / "out"
    with deployment(place, monkeypatch) as (port, key), cutting(port) as proxy:
        converted(proxy, key, *files, out)
    shutil.rmtree(out)
