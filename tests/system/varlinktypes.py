"""Compares values with the types of a Varlink interface, as PyPI's varlink parses them, strictly."""

from __future__ import annotations

from typing import Any

from varlink import scanner


def find_faults(interface: scanner.Interface, kind: Any, value: Any, where: str = "") -> list[str]:
    """Return what in a value is not as its type says: wrong types, unknown and missing fields."""
    if isinstance(kind, scanner._Maybe):
        return [] if value is None else find_faults(interface, kind.element_type, value, where)
    if isinstance(kind, scanner._CustomType):
        return find_faults(interface, interface.members[kind.name].type, value, where)
    if isinstance(kind, scanner._Object):
        return []
    if isinstance(kind, scanner._Enum):
        return [] if value in kind.fields else [f"{where}: {value!r} is none of {list(kind.fields)}"]
    if isinstance(kind, scanner._Array):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        found = (find_faults(interface, kind.element_type, item, f"{where}[]") for item in value)
        return [fault for faults in found for fault in faults]
    if isinstance(kind, scanner._Struct):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no object"]
        faults = [f"{where}.{name} is unknown" for name in value if name not in kind.fields]
        for name, inner in kind.fields.items():
            if name in value or not isinstance(inner, scanner._Maybe):
                faults += find_faults(interface, inner, value.get(name), f"{where}.{name}")
        return faults
    wanted = (int, float) if isinstance(kind, float) else type(kind)
    is_right = isinstance(value, wanted) and (isinstance(kind, bool) or not isinstance(value, bool))
    return [] if is_right else [f"{where}: {value!r} is no {type(kind).__name__}"]
