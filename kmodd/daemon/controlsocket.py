"""The control socket of the daemon, opened again where it was lost. Must not: answer calls, which the server does."""

from __future__ import annotations

from ..control.listener import Listener
from ..control.server import Server
from ..core.sysroot import Sysroot
from ..reconcile.unexpected import as_problem
from ..system.log import get_logger


class ControlSocket:
    """The control socket of one root."""

    def __init__(self, sysroot: Sysroot, server: Server) -> None:
        self.server = server
        self.listener = Listener(sysroot)
        self.fault = ""  # why there is none, as logged

    async def open(self) -> None:
        """Open the control socket, unless it is there; without one kmodd still does what it is for."""
        if not self.listener.is_lost():
            return
        try:
            await self.server.start(self.listener.open())
            self.fault = ""
        except Exception as error:
            problem = as_problem(error, "opening the control socket", again=bool(self.fault))
            if problem.message != self.fault:
                get_logger().error("no control socket", problem=problem.code, reason=problem.message, hint=problem.hint)
            self.fault = problem.message
