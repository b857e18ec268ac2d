"""`python -m aslconvert.service`: serves a folder, for tests and for containers; people use `aslconvert serve`."""

from __future__ import annotations

import argparse
from pathlib import Path

from aslconvert.service.running import serve
from aslconvert.service.settings import Settings


def main() -> None:
    """Serve until SIGTERM; whatever is not given comes from the environment."""
    parser = argparse.ArgumentParser(prog="python -m aslconvert.service")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--embedded", action="store_true", default=None)
    parser.add_argument("--metrics", action="store_true", default=None)
    given = vars(parser.parse_args())
    host, port = given.pop("host"), given.pop("port")
    serve(Settings(**{name: value for name, value in given.items() if value is not None}), host=host, port=port)


if __name__ == "__main__":
    main()
