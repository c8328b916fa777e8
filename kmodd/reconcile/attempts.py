"""The outcomes of tries at targets that failed: stored, and reported. Must not: decide whether to try again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal, Optional

from ..core.errors import Problem
from ..core.model import CHANGED, Target, fingerprint
from ..core.record import Attempt, FirstError
from ..host.store import Store
from ..system.files import explain
from ..system.log import get_logger


class Attempts:
    """Stores and reports the attempts of one root that failed."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def fail(
        self,
        target: Target,
        stage: Literal["build", "install"],
        inputs: Mapping[str, str],
        problem: Problem,
        began: float,
        where: str,
        error: Optional[FirstError] = None,
    ) -> None:
        """Store and report a failed attempt. where: in-root path of its log. error: the first one in it."""
        record = self.store.record(target)
        last = record.attempt
        again = last is not None and last.outcome == "failed" and fingerprint(last.inputs) == fingerprint(inputs)
        again = again or (last is not None and last.problem == problem.code == CHANGED)
        attempt = Attempt(
            began=began,
            ended=time.time(),
            stage=stage,
            outcome="failed",
            problem=problem.code,
            message=problem.message,
            hint=problem.hint,
            transient=problem.transient,
            failures=(last.failures + 1) if last and again else 1,
            inputs=dict(inputs),
            log=where,
            error=error,
        )
        get_logger().warning(  # the verdict that follows from it is what is logged as an error
            f"{stage} failed",
            module=target.module,
            kernel=target.kernel,
            problem=problem.code,
            reason=problem.message,
            hint=problem.hint,
            log=where,
        )
        try:
            self.store.write(record.model_copy(update={"attempt": attempt, "asked": record.asked and stage != "build"}))
        except OSError as error:
            # Nothing can be remembered on a full or read-only disk; the reconciler pauses, and the verdict stays open.
            raise explain(error, f"storing the outcome of {target}") from error
