"""A throwaway PostgreSQL cluster in a folder, reached over a socket in it, and over addresses where asked."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, the newest if there are several."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "pg_ctl").exists()), None)


class Cluster:
    """A running server that syncs only if it must be ``durable``; nobody outside this machine can reach it, but whoever
    is in a network of one of its ``addresses``."""

    def __init__(
        self,
        folder: Path,
        binaries: Path,
        *,
        durable: bool = False,
        environment: Mapping[str, str] | None = None,
        addresses: Sequence[str] = (),
    ) -> None:
        self._environment = {**os.environ, **(environment or {})}
        self.options = "" if durable else "-c fsync=off -c autovacuum=off"
        self.addresses = addresses
        self.port = _free_port(addresses[0]) if addresses else 5432  # that of a socket is a name only
        self.folder = folder
        self.binaries = binaries
        # The server refuses to run as root.
        self.user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:
            entry = pwd.getpwnam(self.user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        command = ["initdb", "--pgdata", f"{folder}/data", "--username", "test", "--auth", "trust", "--no-sync"]
        # Else by the locale of whoever tests.
        self._run(*command, "--encoding", "UTF8")
        if addresses:
            with (folder / "data" / "pg_hba.conf").open("a") as file:
                file.write("host all all samenet trust\n")

    def start(self) -> None:
        where = f"-c listen_addresses='{','.join(self.addresses)}' -c port={self.port}"
        options = f"{where} -c unix_socket_directories='{self.folder}' {self.options}"
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-l", f"{self.folder}/log", "-o", options, "start")

    def stop(self, *, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-m", mode, "stop")

    def url(self, database: str = "postgres", *, address: str | None = None) -> str:
        if address is not None:
            return f"postgresql://test@{address}:{self.port}/{database}"
        return f"postgresql://test@/{database}?host={self.folder}&port={self.port}"

    def execute(self, statement: str) -> None:
        engine = create_engine(self.url().replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def _run(self, program: str, *arguments: str) -> None:
        other = {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid} if os.getuid() == 0 else {}
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            cwd=self.folder,
            env=self._environment,
            **other,  # type: ignore[call-overload]  # one of the two forms of subprocess.run's options
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed, see {self.folder}")


@contextmanager
def cluster(
    binaries: Path,
    *,
    durable: bool = False,
    environment: Mapping[str, str] | None = None,
    addresses: Sequence[str] = (),
) -> Iterator[Cluster]:
    """A running server that is gone afterwards; ``environment`` is added to this process's."""
    # A socket's path has at most 107 characters, which pytest's own folders exceed.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        server = Cluster(folder, binaries, durable=durable, environment=environment, addresses=addresses)
        server.start()
        try:
            yield server
        finally:
            server.stop(mode="immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
