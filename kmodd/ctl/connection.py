"""The running daemon as the commands see it. Imports nothing heavy. Must not: print, or read the root itself."""

from __future__ import annotations

from typing import Any, Optional

from ..control.address import socket_of
from ..control.client import Client
from ..core.errors import Problem

PATIENCE = 3.0  # seconds; reading the root in this process is quicker than waiting longer
#: Problems after which a command reads the root itself instead of asking the daemon.
HELPLESS = ("daemon-unreachable", "not-observed", "call-refused", "internal-error")


def connect(root: str, patience: Optional[float] = None) -> Client:
    """Return a connection to a root's daemon. patience: seconds for each answer. Raises Problem daemon-unreachable."""
    return Client(socket_of(root), patience)


def ask(root: str, method: str, **parameters: Any) -> Optional[dict[str, Any]]:
    """Return what the daemon answers, None where it does not run or does not answer in time. Raises its Problem."""
    try:
        with connect(root, PATIENCE) as client:
            return client.call(method, **parameters)
    except Problem as problem:
        if problem.code in HELPLESS:
            return None
        raise
