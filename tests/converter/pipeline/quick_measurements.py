"""Few and short samples of every latency, for tests of what a conversion gives rather than of how fast that runs.

``python quick_measurements.py ARGUMENTS`` is the command ``aslconvert`` with them, for tests that interrupt or kill it.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

ROUNDS = 3
SECONDS = 0.004

PIPELINE = "aslconvert.converter.pipeline"
COUNTS = {
    f"{PIPELINE}.convert": ("QUICK_ROUNDS",),
    f"{PIPELINE}.plan_search": ("QUICK_ROUNDS",),
    f"{PIPELINE}.predict": ("QUICK_ROUNDS",),
    f"{PIPELINE}.pruned": ("QUICK_ROUNDS",),
    f"{PIPELINE}.style": ("ROUNDS",),
    f"{PIPELINE}.timing": ("FORM_ROUNDS",),
    "aslconvert.converter.cost.runtimes": ("LAYOUT_ROUNDS",),
}
"""How many rounds are measured where, by the module that counts them."""


def quicken(put: Callable[[Any, str, Any], object] = setattr, item: Callable[..., object] = dict.__setitem__) -> None:
    """Measure less in this process; ``put`` and ``item`` are a monkeypatch's where it is to end."""
    for name, constants in COUNTS.items():
        module = importlib.import_module(name)
        for constant in constants:
            if not hasattr(module, constant):
                raise AttributeError(f"{name} has no {constant} any more")
            put(module, constant, ROUNDS)
    timing = importlib.import_module(f"{PIPELINE}.timing")
    latency = importlib.import_module("aslconvert.converter.cost.latency")
    item(timing.Timer.measure.__kwdefaults__, "rounds", ROUNDS)
    item(latency.measure.__kwdefaults__, "min_time", SECONDS)


if __name__ == "__main__":
    from aslconvert.cli.main import main

    quicken()
    sys.exit(main(sys.argv[1:]))
