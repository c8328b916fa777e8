"""The only place that configures structlog: events with fields, in the past tense.

On a terminal or in a file they are readable lines. Where stderr is the journal, they are entries with native fields:
MESSAGE is that line, KMODD_MODULE and others are its facts, MESSAGE_ID is that of the event. Where the journal
receives no entries, lines carry its priority prefix (sd-daemon(3)). Must not: decide what is worth logging.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Optional, TextIO

import structlog

from ..core.messages import MESSAGE_IDS
from ..core.sysroot import JOURNAL_SOCKET
from ..core.visible import visible
from .journal import Journal, send_line

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31;1m"}
EMPTY = ("", None, ())


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


def _line(event: Mapping[str, Any]) -> str:
    facts = (f"{key}={_value(value)}" for key, value in event.items() if key != "event" and value not in EMPTY)
    # a reason may quote what a compiler printed of others' code: nothing of it may steer a terminal
    return visible(" ".join((str(event["event"]), *facts)))


def _fields(severity: str, event: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a journal entry, systemd.journal-fields(7)."""
    fields = {"MESSAGE": _line(event), "PRIORITY": str(PRIORITIES.get(severity, 6)), "SYSLOG_IDENTIFIER": "kmodd"}
    identity = MESSAGE_IDS.get(event["event"], "")
    if identity:
        fields["MESSAGE_ID"] = identity
    for key, value in event.items():
        # where a catalog's text is to be filled in, "" has to be said: it prints the name of a field that is missing
        if key != "event" and (value not in EMPTY or (identity and value == "")):
            fields[f"KMODD_{key.upper()}"] = str(value)
    return fields


#: One for the whole process: what waits for space must outlive a change of the level.
_open_journal = functools.lru_cache(maxsize=1)(Journal)


def _send(path: str, fields: Mapping[str, str]) -> bool:
    """Send an entry to the journal; False where that is not there, or this process has no descriptor left for it."""
    try:
        return _open_journal(path).send(fields)
    except OSError:
        return False


class Lines:
    """Writes lines to a stream. One that cannot be written, as on a full disk, stops nobody."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            self._write(f"{line}\n")

    log = debug = info = warn = warning = error = exception = critical = fatal = err = failure = msg

    def _write(self, text: str) -> None:
        try:
            descriptor = self.stream.fileno()
        except (OSError, ValueError, AttributeError):  # such as a StringIO
            self.stream.write(text)
            return
        self.stream.flush()
        data = text.encode(errors="backslashreplace")
        while data:  # not by the stream, which would keep what it could not write, and fail with it again at the end
            data = data[os.write(descriptor, data) :]


def _bare(stream: Any) -> Any:
    """Return what is behind a stream that cleans all that is written (ctl.terminal): lines are clean here already."""
    return getattr(stream, "bare", stream)


def configure(level: str = "info", stream: Optional[TextIO] = None, journal_socket: str = JOURNAL_SOCKET) -> None:
    """Set the lowest level that is written and where to (default: stderr)."""
    out: TextIO = stream if stream is not None else _bare(sys.stderr)
    journal, colour = is_journal(out), out.isatty() and "NO_COLOR" not in os.environ

    def render(logger: object, name: str, event: MutableMapping[str, Any]) -> str:
        severity = "info" if name in ("msg", "notset") else name
        line = _line(event)
        if journal:
            if not _send(journal_socket, _fields(severity, event)):
                send_line(out.fileno(), f"<{PRIORITIES.get(severity, 6)}>{line}")
            raise structlog.DropEvent
        stamp = structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False)(logger, name, {})["timestamp"]
        paint = COLOURS.get(severity, "") if colour else ""
        return f"{stamp} {paint}{severity:<7}{chr(27) + '[0m' if paint else ''} {line}"

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, render],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: Lines(out),
        cache_logger_on_first_use=False,
    )


def get_logger() -> Any:
    """Return the logger; every event gets its facts as fields, never in the text."""
    return structlog.get_logger()
