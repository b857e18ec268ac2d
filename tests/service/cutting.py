"""A TCP proxy that cuts what goes through it, as networks do."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Cutting:
    """Forwards to ``port`` of this machine; ``cut`` resets every connection, ``after`` cuts one by itself."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.cuts = 0
        self.after: int | None = None
        """Bytes towards the server after which the next connection is cut."""
        self.damage: int | None = None
        """Bytes towards the server after which the next connection has one bit of a byte wrong."""
        self.refusing = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break all connections off at once, in both directions."""
        with self._lock:
            gone, self._open = self._open, set()
            self.cuts += bool(gone)
        for one in gone:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._to), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, upwards: bool) -> None:
        seen = 0
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                seen += len(piece)
                if upwards and self.after is not None and seen >= self.after:
                    self.after = None
                    self.cuts += 1
                    break
                if upwards and self.damage is not None and seen >= self.damage:
                    self.damage = None
                    piece = piece[:-1] + bytes([piece[-1] ^ 1])
                target.sendall(piece)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
        source.close()


@contextlib.contextmanager
def cutting(port: int) -> Iterator[Cutting]:
    """The proxy while it runs."""
    proxy = Cutting(port)
    try:
        yield proxy
    finally:
        proxy.close()
