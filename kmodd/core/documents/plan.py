"""A plan: the actions that are due, in their order. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from ..actions import Action


def plan_document(actions: Sequence[Action]) -> dict[str, Any]:
    """Return schema 1 of a plan: each action's kind, and what it holds."""
    plain = [{"action": action.name, "kind": action.kind, **asdict(cast("Any", action))} for action in actions]
    return {"schema": 1, "actions": json.loads(json.dumps(plain))}  # its tuples become lists
