"""Structured logs: one JSON object a line, or words where somebody looks on."""

from __future__ import annotations

import sys

import structlog


def set_up_logs(*, as_json: bool | None = None) -> None:
    """Log to standard error, with time and level; in JSON unless that is a terminal."""
    as_json = not sys.stderr.isatty() if as_json is None else as_json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(),
        ],
        # Looked up at every line: whoever replaces the stream, as tests do, is heeded.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
