"""Heals fitted variants on a GPU, larger batches than the CPU's; writes out/bench/gpu_healing.json.

Where the converter's own packages are, `--prepare` fits the variants of some tasks and writes what healing needs. Where
the GPU is, torch, Accelerate and NumPy are enough to heal them, side by side in processes of their own, and to score
them on the test split. `benchmarks/gpu.py` builds the kernels there.

    PYTHONPATH=benchmarks python benchmarks/gpu_healing.py --prepare animals:4 digits:2
    python benchmarks/gpu_healing.py --seconds 120
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing

ROOT = Path(__file__).resolve().parent.parent
SCORE_BATCH = 64
NO_GPU = 3


def prepare(names: list[str], seeds: list[int], most: int, out: Path) -> None:
    """Fits one variant a task ("name:speedup") and seed; inputs travel in half precision, of a pool ``most`` MiB."""
    from peers.context import Settings, open_context
    from peers.methods import variants
    from peers.tasks import load_task

    from aslconvert.converter.pipeline.judge import metric_for

    tasks: dict[str, dict[str, Any]] = {}
    records = []
    for name in names:
        task_name, speedup = name.split(":")
        task = load_task(task_name, quick=False)
        for seed in seeds:
            settings = Settings(budget=60, processor_time=True, speedups=(float(speedup),))
            with tempfile.TemporaryDirectory() as folder:
                context = open_context(task, settings, seed=seed, folder=Path(folder))
                points = list(variants("asl", context))
            test = context.subject.data.split("test")
            metric = metric_for(test, task.metric)
            whole = test.batch(range(len(test)))
            wanted = None if metric is None else metric.of_batch(whole)
            if metric is None or wanted is None:
                raise RuntimeError(f"{task_name} has nothing that a score is held against")
            tasks.setdefault(task_name, {
                "teacher": context.subject.gm, "metric": metric.name, "test": [_half(x) for x in whole.inputs],
                "inputs": _within(context.pool.inputs, most), "wanted": wanted[0], "groups": whole.groups,
                "pixels_are_classes": context.pool.pixels_are_classes,
            })  # fmt: skip
            for point, gm in points:
                records.append({
                    "task": task_name, "seed": seed, "point": point, "gm": gm, "in_order": context.in_order
                })  # fmt: skip
                print(f"{task_name} seed {seed}: {point}", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(out, "wb", compresslevel=6) as file:
        torch.save({"tasks": tasks, "records": records}, file)
    print(f"wrote {out}, {out.stat().st_size >> 20} MiB")


def read(path: Path) -> dict[str, Any]:
    """What ``prepare`` wrote."""
    import aslconvert.kernels  # noqa: F401  the graphs name its ops

    with gzip.open(path, "rb") as file:
        payload: dict[str, Any] = torch.load(io.BytesIO(file.read()), weights_only=False)
    return payload


def _within(inputs: tuple[Tensor, ...], mib: int) -> list[Tensor]:
    halves = [_half(x) for x in inputs]
    each = sum(x[0].numel() * x.element_size() for x in halves)
    return [x[: (mib << 20) // each].clone() for x in halves]


def _half(x: Tensor) -> Tensor:
    return x.half() if x.is_floating_point() else x


def _float(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


def _answers(net: Any, inputs: list[Tensor]) -> Tensor:
    with torch.no_grad():
        parts = zip(*(x.split(SCORE_BATCH) for x in inputs), strict=True)
        return torch.cat([net(*part) for part in parts])


def heal_one(path: Path, number: int, options: argparse.Namespace, out: Path) -> None:
    """Heals record ``number`` and writes its row."""
    from aslconvert.converter.data.metrics import METRICS, Tally, drop
    from aslconvert.converter.heal.distil import heal
    from aslconvert.converter.heal.pool import Pool

    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    payload = read(path)
    record = payload["records"][number]
    task = payload["tasks"][record["task"]]
    device = torch.device(options.device)
    gm, teacher = record["gm"].to(device), task["teacher"].to(device)
    inputs, test = ([_float(x).to(device) for x in task[kind]] for kind in ("inputs", "test"))
    pool = Pool(
        inputs=tuple(inputs), outputs=(_answers(teacher, inputs),), pixels_are_classes=task["pixels_are_classes"]
    )
    started = time.monotonic()
    healing = heal(
        gm,
        pool,
        seconds=options.seconds,
        seed=record["seed"],
        batch=options.batch,
        keep_window=record["in_order"],
        half=options.bf16,
    )
    took = time.monotonic() - started
    metric = METRICS[task["metric"]]
    tallies = []
    for net in (teacher, gm):
        tally = Tally(metric)
        tally.add(_answers(net, test).cpu(), task["wanted"], task["groups"])
        tallies.append(tally)
    lost = drop(tallies[0], tallies[1], seed=record["seed"])
    row = {
        "task": record["task"], "seed": record["seed"], "point": record["point"], "metric": metric.name,
        "loss": lost.value, "loss_ci": [lost.ci_low, lost.ci_high], "steps": healing.steps, "seconds": took,
        "batch": options.batch, "bf16": options.bf16, "samples_per_s": healing.steps * options.batch / took,
        "start_loss": healing.start_loss, "best_loss": healing.best_loss, "kept": healing.kept,
    }  # fmt: skip
    out.write_text(json.dumps(row))


def run(options: argparse.Namespace) -> int:
    """Heals all records side by side; prints a table and writes the file."""
    records = read(options.variants)["records"]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.json" for number in range(len(records))]
        workers = [
            context.Process(target=heal_one, args=(options.variants, number, options, file))
            for number, file in enumerate(files)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        rows: list[dict[str, Any]] = [json.loads(file.read_text()) for file in files if file.is_file()]
    print(f"{'task':12} seed  {'point':>7}  {'loss':>8}  {'interval':>18}  steps  samples/s")
    for row in rows:
        low, high = row["loss_ci"]
        print(
            f"{row['task']:12} {row['seed']:4}  {row['point']:>7}  {row['loss']:8.4f}  {low:8.4f} .. {high:6.4f}  "
            f"{row['steps']:5}  {row['samples_per_s']:9.0f}"
        )
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    document = {"device": device, "torch": torch.__version__, "together": len(records), "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    print(f"wrote {options.out}")
    return 0 if len(rows) == len(records) else 1


def main() -> int:
    """Prepares, or heals; 3 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", nargs="+", metavar="TASK:SPEEDUP", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pool-mib", type=int, default=24, help="of a task's healing inputs, at most")
    parser.add_argument("--variants", type=Path, default=ROOT / "build" / "carried" / "healing.pt.gz")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16 instead of TF32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare, options.seeds, options.pool_mib, options.out or options.variants)
        return 0
    options.out = options.out or ROOT / "out" / "bench" / "gpu_healing.json"
    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here, or this torch cannot use it; nothing was run")
        return NO_GPU
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
