"""The only place that configures structlog: events with fields, in the past tense.

On a terminal or in a file they are readable lines; where stderr is the journal, lines carry its priority prefix
(sd-daemon(3)) so that `journalctl -p` works. Must not: decide what is worth logging.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, Optional, TextIO

import structlog

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31;1m"}


def is_journal(stream: TextIO) -> bool:
    """Tell whether a stream is connected to the journal, by JOURNAL_STREAM (systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
        return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    except (OSError, ValueError):
        return False


def _value(value: object) -> str:
    text = str(value)
    return f'"{text}"' if not text or any(c in text for c in ' ="') else text


def _line(_logger: object, level: str, event: MutableMapping[str, Any]) -> str:
    words = [str(event.pop("event"))]
    event.pop("level", None)
    words += [f"{key}={_value(value)}" for key, value in event.items() if value not in ("", None, ())]
    return " ".join(words).replace("\n", "\\n")


def configure(level: str = "info", stream: Optional[TextIO] = None) -> None:
    """Set the lowest level that is written and where to (default: stderr)."""
    out = stream or sys.stderr
    journal, colour = is_journal(out), out.isatty() and "NO_COLOR" not in os.environ

    def render(logger: object, name: str, event: MutableMapping[str, Any]) -> str:
        severity = "info" if name in ("msg", "notset") else name
        line = _line(logger, severity, event)
        if journal:
            return f"<{PRIORITIES.get(severity, 6)}>{line}"
        stamp = structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False)(logger, name, {})["timestamp"]
        paint = COLOURS.get(severity, "") if colour else ""
        return f"{stamp} {paint}{severity:<7}{chr(27) + '[0m' if paint else ''} {line}"

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, render],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )


def get_logger() -> Any:
    """Return the logger; every event gets its facts as fields, never in the text."""
    return structlog.get_logger()
