"""Uploads of gigabytes: memory of the API process, what a kill costs, throughput against a plain copy; table and JSON.

    .venv/bin/python benchmarks/uploads.py --bytes 2000000000 --repeats 3 --out out/bench/uploads.json

The file is a .safetensors of random bytes, so that nothing on the way can be sparse or compressed; it is uploaded as a
data set and vetted. A plain copy is the least that could be done: the same file by `sendfile` over the loopback to a
process that writes it in blocks of a megabyte and syncs it at the end. It goes up in one request by `sendfile`, in
pieces of 64 MiB with checksums likewise, and by the Python client, which hashes the file before it sends it. Copy and
uploads take turns, and each upload is compared with the copy of its own turn. The clock of an upload stops at the
answer to its last request, when its bytes are on the disk; vetting, which comes after, is told apart. Memory
is the peak of resident bytes (VmHWM) above what the process had after one small upload. Limits: client,
server and disk are of one machine, and the upload is hashed on the way, which the copy is not.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import mmap
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upload_service import BLOCK, Service

from aslconvert.service.client import Client

PIECE = 64 << 20
KILLS = (0.2, 0.5, 0.8)


def random_tensors(path: Path, size: int) -> str:
    """Writes a .safetensors of about ``size`` random bytes; its SHA-256."""
    rows = max(1, size // 4 // 12288)
    each = rows * 12288
    header = {
        f"input{n}": {"dtype": "U8", "shape": [rows, 3, 64, 64], "data_offsets": [n * each, (n + 1) * each]}
        for n in range(4)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    left = 4 * each
    with path.open("wb") as file:
        for block in _blocks(len(text).to_bytes(8, "little") + text, left):
            digest.update(block)
            file.write(block)
        os.fsync(file.fileno())
    return digest.hexdigest()


def _blocks(start: bytes, left: int) -> Iterator[bytes]:
    yield start
    while left:
        block = os.urandom(min(BLOCK, left))
        left -= len(block)
        yield block


def copied(path: Path, target: Path) -> float:
    """Seconds of a plain copy over the loopback."""
    code = (
        "import os, socket, sys\n"
        "door = socket.create_server(('127.0.0.1', 0)); print(door.getsockname()[1], flush=True)\n"
        "line, _ = door.accept(); block = memoryview(bytearray(1 << 20))\n"
        "with open(sys.argv[1], 'wb', buffering=0) as file:\n"
        "    while count := line.recv_into(block): file.write(block[:count])\n"
        "    os.fsync(file.fileno())\n"
        "line.sendall(b'done')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True) as receiver:
        if receiver.stdout is None:
            raise RuntimeError("no pipe")
        port = int(receiver.stdout.readline())
        started = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port)) as line, path.open("rb") as file:
            line.sendfile(file)
            line.shutdown(socket.SHUT_WR)
            line.recv(4)
        seconds = time.perf_counter() - started
    target.unlink()
    return seconds


def whole(service: Service, path: Path) -> tuple[float, str]:
    """Seconds of an upload in one request, and its place."""
    place = service.announce(path)
    started = time.perf_counter()
    service.send(path, place, 0, path.stat().st_size)
    return time.perf_counter() - started, place


def in_pieces(service: Service, path: Path) -> tuple[float, str]:
    """Seconds of an upload in pieces of 64 MiB with checksums, the client's own hashing left out, and its place."""
    place, size, seconds = service.announce(path), path.stat().st_size, 0.0
    for start in range(0, size, PIECE):
        end = min(size, start + PIECE)
        promise = base64.b64encode(_digest(path, start, end)).decode()
        started = time.perf_counter()
        service.send(path, place, start, end, promise=promise)
        seconds += time.perf_counter() - started
    return seconds, place


def by_client(service: Service, path: Path) -> tuple[float, str]:
    """Seconds of an upload by the Python client from its start to its last byte's answer, and its place."""
    seconds: list[float] = []
    with Client(str(service.client.base_url), service.key, sent=service.folder / "sent") as client:
        started = time.perf_counter()

        def told(safe: int, size: int) -> None:
            if safe == size:
                seconds.append(time.perf_counter() - started)

        found = client.upload_dataset(path, progress=told)
    return seconds[0], f"/v1/datasets/{found.id}"


def _digest(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return hashlib.sha256(memoryview(mapped)[start:end]).digest()


WAYS: dict[str, tuple[str, Callable[[Service, Path], tuple[float, str]]]] = {
    "whole": ("upload, one request", whole),
    "pieces": ("upload, 64 MiB, checksums", in_pieces),
    "client": ("upload, the Python client", by_client),
}


def killed(service: Service, path: Path) -> tuple[list[dict[str, Any]], str, int]:
    """Kills the service at three points of an upload: what was kept each time, the place, and the most memory."""
    place, size = service.announce(path), path.stat().st_size
    kept, most = [], 0
    for part in KILLS:
        start, at = service.offset(place), int(part * size)
        sender = threading.Thread(target=_quietly(lambda start=start: service.send(path, place, start, size)))
        sender.start()
        file = service.folder / "uploads" / f"{place.rpartition('/')[2]}.part"
        while file.stat().st_size < at and sender.is_alive():
            time.sleep(0.005)
        most = max(most, service.growth())
        service.kill()
        sender.join()
        service.start()
        kept.append({"killed_at": at, "received": service.offset(place)})
    service.send(path, place, service.offset(place), size)
    return kept, place, max(most, service.growth())


def _quietly(work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except (OSError, RuntimeError):
            return  # the service was killed under it, as is meant

    return run


@contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    made = Path(tempfile.mkdtemp(prefix="aslconvert-uploads-", dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def main() -> None:
    parser = argparse.ArgumentParser(description="Uploads of gigabytes.")
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="On whose disk; by default the temporary folder's.")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with workplace(given.folder) as folder:
        path = folder / "random.safetensors"
        digest = random_tensors(path, given.bytes)
        service = Service(folder / "service-data")
        figures: dict[str, Any] = {"bytes": path.stat().st_size, "copy_s": []} | {f"{name}_s": [] for name in WAYS}
        vetting = []
        for _ in range(given.repeats):
            figures["copy_s"].append(copied(path, folder / "copy"))
            for name, (_, upload) in WAYS.items():
                seconds, place = upload(service, path)
                figures[f"{name}_s"].append(seconds)
                if name != "client":
                    started = time.perf_counter()
                    place = service.became(place)
                    vetting.append(time.perf_counter() - started)
                if service.sha256(place) != digest:
                    raise RuntimeError("other bytes arrived")
                # Else the next one is found to be there, and not vetted.
                service.client.delete(place).raise_for_status()
        figures["memory_growth_bytes"] = service.growth()
        figures["kills"], place, growth = killed(service, path)
        figures["memory_growth_bytes"] = max(growth, figures["memory_growth_bytes"])
        figures["same_bytes_after_kills"] = service.sha256(service.became(place)) == digest
        service.stop()
    for name in WAYS:
        figures[f"{name}_of_copy"] = [a / b for a, b in zip(figures["copy_s"], figures[f"{name}_s"], strict=True)]
    figures["vetting_s"] = statistics.median(vetting)
    print(f"{'':28}{'s':>8}{'MB/s':>8}  of the copy of its turn: median (least .. most)")
    for name, told in {"copy": "plain copy", **{name: told for name, (told, _) in WAYS.items()}}.items():
        seconds = statistics.median(figures[f"{name}_s"])
        ratios = figures.get(f"{name}_of_copy", [1.0])
        print(
            f"{told:28}{seconds:8.2f}{figures['bytes'] / seconds / 1e6:8.0f}"
            f"{statistics.median(ratios):10.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
        )
    print(f"vetting {figures['vetting_s']:.1f} s; memory grew by {figures['memory_growth_bytes'] / 1e6:.1f} MB at most")
    print(f"killed at {[round(kill['killed_at'] / 1e6) for kill in figures['kills']]} MB: same bytes "
          f"{figures['same_bytes_after_kills']}")  # fmt: skip
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
