"""Training steps of ResNet-18 and of its converted form, side by side; writes out/bench/training.json.

On a GPU (`--device cuda`) products may be taken in TF32, or in bfloat16 with `--bf16`, by both networks.

A step is forward, cross entropy, backward and an update by SGD with Nesterov momentum (torch's fused one, the fastest
for both). Every 3x3 convolution is one shifted row a channel and a 1x1; the 7x7 stem, the shortcuts and the classifier
stay. Each network counts in its fastest layout and form. Before anything is timed, the converted network's gradients
are compared with those of an oracle on grid_sample in float64.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernels import build_when_stale, keep_memory  # noqa: TID251  the script beside this one


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench/training.json"))
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16, by autocast")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=64, help="pixels of the square images")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def gradient_errors() -> dict[str, float]:
    """Largest relative error of any parameter's gradient, per type, on a narrow network and small images.

    Raises:
        RuntimeError: one of them is beyond what its type explains.
    """
    import torch
    from resnet import Oracle, ResNet18, converted, rebuilt, shifts_and_rest
    from torch.nn import functional

    exact = converted(ResNet18(width=8, classes=10))
    image, label = torch.randn(4, 3, 64, 64), torch.randint(0, 10, (4,))

    def gradients(model: Any, dtype: Any) -> list[Any]:
        model = model.to(dtype).to(memory_format=torch.channels_last).train()
        functional.cross_entropy(model(image.to(dtype).contiguous(memory_format=torch.channels_last)), label).backward()
        shifts, rest = shifts_and_rest(model)
        return [p.grad.double() for p in (*shifts, *rest)]

    expected = gradients(rebuilt(exact, Oracle), torch.float64)
    errors = {}
    # In float32 a ReLU's input near zero may fall on its other side; that moves a few gradients a little.
    for dtype, allowed in ((torch.float64, 1e-9), (torch.float32, 2e-2)):
        actual = gradients(copy.deepcopy(exact), dtype)
        worst = max(float((a - e).norm() / e.norm()) for a, e in zip(actual, expected, strict=True))
        if not worst < allowed:
            raise RuntimeError(f"gradients in {dtype} are wrong by {worst:.2e} of their size; nothing was timed")
        errors[str(dtype).removeprefix("torch.")] = worst
    return errors


def training_step(model: Any, layout: Any, image: Any, label: Any, *, bf16: bool) -> Callable[[], Any]:
    """One whole step of a copy of the model in a layout, on the device of the image."""
    import torch
    from resnet import shifts_and_rest
    from torch.nn import functional

    model = copy.deepcopy(model).to(device=image.device, memory_format=layout).train()
    image = image.contiguous(memory_format=layout)
    shifts, rest = shifts_and_rest(model)
    groups: list[dict[str, Any]] = [{"params": rest, "weight_decay": 5e-4}]
    if shifts:
        groups.append({"params": shifts, "lr": 1e-3, "weight_decay": 0.0})
    optimiser = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(image.device.type, torch.bfloat16, enabled=bf16):
            loss = functional.cross_entropy(model(image), label)
        loss.backward()
        optimiser.step()

    return step


def measure(threads: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one thread count: every network, form and layout, with its ratio to the original's fastest."""
    import torch
    from resnet import ResNet18, TwoSteps, converted, rebuilt
    from stopwatch import Contest, paired, quartiles

    torch.set_num_threads(threads)
    original = ResNet18()
    block = converted(original)
    networks = {
        ("original", "3x3"): original,
        ("converted", "block"): block,
        ("converted", "block, recomputing"): converted(original, recompute=True),
        ("converted", "two steps"): rebuilt(block, TwoSteps),
    }
    image = torch.randn(options.batch, 3, options.size, options.size, device=options.device)
    label = torch.randint(0, 1000, (options.batch,), device=options.device)
    calls = {
        (network, form, name): training_step(model, layout, image, label, bf16=options.bf16)
        for (network, form), model in networks.items()
        for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last))
    }
    contest = Contest(calls, options.device)
    contest.trial(lambda key: key, min_time=0.01)
    contest.run(options.rounds)
    baseline = contest.fastest(lambda key: key[0], "original")
    rows = []
    for key, samples in contest.samples.items():
        ratios = paired(contest.samples[baseline], samples)
        rows.append(
            {
                "threads": threads,
                "network": key[0],
                "form": key[1],
                "layout": key[2],
                "ms": statistics.median(samples),
                "ms_quartiles": quartiles(samples),
                "speedup": statistics.median(ratios),
                "speedup_quartiles": quartiles(ratios),
            }
        )
    return rows


def main() -> int:
    """Checks, times, prints a table and writes the file; returns the exit code."""
    options = parse()
    build_when_stale()
    import torch

    from aslconvert.kernels import build_info

    keep_memory()
    gc.disable()
    if options.device == "cuda":
        os.environ["ASLCONVERT_TF32"] = "1"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(options.seed)
    errors = gradient_errors()
    print(f"torch {torch.__version__}, {build_info()}, gradients off by {errors}")
    print(f"{'threads':>7}  {'network':9}  {'form':18}  {'layout':13}  {'step [ms]':>9}  {'faster':>6}  quartiles")
    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        rows += (measured := measure(threads, options))
        for row in measured:
            low, high = row["speedup_quartiles"]
            print(
                f"{threads:7}  {row['network']:9}  {row['form']:18}  {row['layout']:13}  {row['ms']:9.1f}  "
                f"{row['speedup']:6.2f}  {low:.2f} .. {high:.2f}",
                flush=True,
            )
    summary = {
        f"speedup_{threads}_threads": max(
            row["speedup"] for row in rows if row["threads"] == threads and row["network"] == "converted"
        )
        for threads in options.threads
    }
    print("\n".join(f"{name} {value:.2f}" for name, value in summary.items()))
    document = {
        "summary": summary,
        "rows": rows,
        "gradient_errors": errors,
        "build": build_info(),
        "torch": torch.__version__,
        "device": options.device if options.device == "cpu" else torch.cuda.get_device_name(),
        "bf16": options.bf16,
        "batch": options.batch,
        "size": options.size,
        "rounds": options.rounds,
        "seed": options.seed,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
