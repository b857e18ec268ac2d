"""A time of day that a test sets for the processes that it starts."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class WallClock:
    """``environment`` is what a process needs to go by it; ``set`` moves the hands of all of them at once."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._hands = folder / "hands"
        library = folder / "clock.so"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"], check=True, timeout=60
        )
        self.set(0)
        # A database server runs as another user.
        for path, mode in ((folder, 0o755), (library, 0o755), (self._hands, 0o644)):
            path.chmod(mode)
        self.environment = {"LD_PRELOAD": str(library), "ASL_TEST_CLOCK": str(self._hands)}

    def set(self, seconds: int) -> None:
        """So many seconds ahead of the true time; negative is behind."""
        with self._hands.open("r+b" if self._hands.exists() else "wb", buffering=0) as file:
            file.write(struct.pack("q", seconds))
