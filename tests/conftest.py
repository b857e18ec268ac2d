"""What holds for every test."""

import os
import signal
import tempfile
from collections.abc import Iterator

import pytest

# A shell that starts the tests in the background has them ignore SIGINT, and so would every process they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache() -> Iterator[None]:
    """Latencies measured by tests stay among them: the user's cache is neither read nor written."""
    with tempfile.TemporaryDirectory(prefix="aslconvert-tests-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "ASLCONVERT_CACHE", folder)
        yield
