"""What holds for every test."""

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator

import pytest

# A shell that starts the tests in the background has them ignore SIGINT, and so would every process they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of processes of the tests import torch. Without its bytecode beside it each compiles it anew, for seconds.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files marked ``long`` come first, in the random order: a file that is begun last leaves the other cores idle."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Collections leave out what the imports made, which stays: every measurement begins with a whole one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache() -> Iterator[None]:
    """Latencies measured by tests stay among them: the user's cache is neither read nor written."""
    with tempfile.TemporaryDirectory(prefix="aslconvert-tests-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "ASLCONVERT_CACHE", folder)
        yield
