"""Two workers on machines of their own: network namespaces, each on a line that is cut without an end being told."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import postgres
from cluster import Cluster, Reach

_HARDWARE = "02:00:c6:12:00:01"


@dataclass(frozen=True)
class Lines:
    """A bridge of this machine, where the stores are, and a line from it to each namespace. Needs root."""

    names: tuple[str, ...] = ("one", "two")
    # Both fit the 15 characters that a name of an interface has.
    bridge: str = f"asl{os.getpid()}"
    # Of the networks that are set aside for measurements of devices, which nobody routes.
    network: str = f"198.18.{os.getpid() % 250}"

    @property
    def address(self) -> str:
        """Where the namespaces find this machine."""
        return f"{self.network}.1"

    def namespace(self, name: str) -> str:
        return f"{self.bridge}-{name}"

    def lay(self) -> None:
        """Raises CalledProcessError where the kernel does not let us."""
        _ip("link", "add", self.bridge, "address", _HARDWARE, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        for number, name in enumerate(self.names):
            inside = self.namespace(name)
            _ip("netns", "add", inside)
            _ip("link", "add", self._end(name), "type", "veth", "peer", "name", "line", "netns", inside)
            _ip("link", "set", self._end(name), "master", self.bridge, "up")
            for link in ("lo", "line"):
                _ip("-n", inside, "link", "set", link, "up")
            _ip("-n", inside, "address", "add", f"{self.network}.{number + 2}/24", "dev", "line")
            # Known for good: whoever asks for it and gets no answer would say so, as no router between two sites does.
            _ip("-n", inside, "neighbour", "add", self.address, "lladdr", _HARDWARE, "dev", "line", "nud", "permanent")

    def cut(self, name: str) -> None:
        """From now on nothing passes; connections stay open at both ends, as when a cable is pulled."""
        _ip("link", "set", self._end(name), "nomaster")

    def mend(self, name: str) -> None:
        _ip("link", "set", self._end(name), "master", self.bridge)

    def remove(self) -> None:
        """With its namespace a line goes too."""
        for words in (
            *(("netns", "delete", self.namespace(name)) for name in self.names),
            ("link", "delete", self.bridge),
        ):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*words)

    def _end(self, name: str) -> str:
        return f"{self.bridge}{name[0]}"


@dataclass
class Hosts(Cluster):
    """Workers that reach database and Redis by their lines alone, and have folders of their own."""

    lines: Lines = field(default_factory=Lines)

    def reach(self, name: str) -> Reach:
        assert self.server is not None
        enter = ("ip", "netns", "exec", self.lines.namespace(name))
        redis = f"redis://{self.lines.address}:{self.redis.port}/0"
        return Reach(enter, self.place / name, self.server.url(address=self.lines.address), redis)

    def log(self, name: str) -> str:
        """What the worker of this name has said."""
        return (self.place / f"{name}.log").read_text()


@contextlib.contextmanager
def lines() -> Iterator[Lines | None]:
    """None where no namespaces can be made."""
    laid = Lines()
    try:
        try:
            laid.lay()
        except (OSError, subprocess.CalledProcessError):
            yield None
        else:
            yield laid
    finally:
        with contextlib.suppress(OSError):
            laid.remove()


@contextlib.contextmanager
def hosts(place: Path, binaries: Path, laid: Lines) -> Iterator[Hosts]:
    """The stores on this machine, and a worker at the end of each line."""
    with postgres.cluster(binaries, addresses=(laid.address,)) as server:
        made = Hosts(place, names=laid.names, url=server.url(), server=server, lines=laid)
        try:
            yield made
        finally:
            made.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
