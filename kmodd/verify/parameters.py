"""Whether a module would take the options that modprobe gives it.

Sources: parse_args() and next_arg() of kernel/params.c and lib/cmdline.c, kstrtox.c, struct kernel_param and what it
points to (include/linux/moduleparam.h), and the `parmtype` entries that module_param() leaves in .modinfo. What only
code of the module's own decides cannot be determined. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from ..core.commandline import split
from ..core.model import Fault
from .elf import Contents, Section
from .loader import Place, Pointers, Shape

#: type -> the least and the greatest value (of a 64-bit kernel).
RANGES = {
    "byte": (0, 2**8 - 1),
    "short": (-(2**15), 2**15 - 1),
    "ushort": (0, 2**16 - 1),
    "int": (-(2**31), 2**31 - 1),
    "uint": (0, 2**32 - 1),
    "hexint": (0, 2**32 - 1),
    "long": (-(2**63), 2**63 - 1),
    "ulong": (0, 2**64 - 1),
    "ullong": (0, 2**64 - 1),
}
BOOLEAN = re.compile(r"[yYtT1nNfF0]|[oO][nNfF]")  # how kstrtobool() begins; t and f since 6.4
NUMBER = re.compile(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))\n?")  # kstrtoull() of base 0
BOOLEANS = ("bool", "bint", "invbool")
WITHOUT_VALUE = ("bool", "bint")  # KERNEL_PARAM_OPS_FL_NOARG
#: The kernel's own operations by the name of their symbol, and by that of the function that sets a value.
KERNELS_OWN = {
    **{f"param_ops_{kind}": kind for kind in (*RANGES, *BOOLEANS, "charp", "string")},
    "param_ops_bool_enable_only": "bool",
    "param_array_ops": "array",
}
SETTERS = {f"param_set_{kind}": kind for kind in (*RANGES, *BOOLEANS, "charp")} | {"param_set_copystring": "string"}
#: Bytes of struct kernel_param, and where in it operations and argument stand; operations in struct kparam_array.
PARAM, OPS, ARGUMENT, ELEMENT_OPS = 40, 16, 32, 16
SETTING = "a file of modprobe.d, or the kernel's command line"
LONGEST = 1024  # characters of a charp
SPECIAL = frozenset({"dyndbg", "async_probe"})  # taken by load_module() itself


@dataclass(frozen=True)
class Parameter:
    """The values that a parameter accepts.

    kind: "int", "array of charp", "string", as in a parmtype of .modinfo; "" where code of the module's own decides.
    most: elements of an array, or bytes of a string's buffer with the NUL at its end; 0 where that is not known.
    bare: whether it takes no value, None where that is not known.
    """

    kind: str
    most: int = 0
    bare: Optional[bool] = None


def read(shape: Shape) -> dict[str, Parameter]:
    """Return the parameters of an object by its table of them, struct kernel_param; names with underscores.

    Empty where it has none, or one of another layout than a 64-bit kernel's.
    """
    table = next((section for section in shape.sections if section.name == "__param"), None)
    if table is None or len(table.data) % PARAM:
        return {}
    found: dict[str, Parameter] = {}
    pointers = Pointers(shape)
    for at in range(0, len(table.data), PARAM):
        name = pointers.text(table, at)
        if name is not None:
            found[name.replace("-", "_")] = _parameter(pointers, table, at)
    return found


def _parameter(pointers: Pointers, table: Section, at: int) -> Parameter:
    ops = pointers.follow(table, at + OPS)
    kind, bare = _kind(pointers, ops)
    argument = pointers.follow(table, at + ARGUMENT)
    if kind not in ("array", "string") or argument is None or argument.section is None:
        return Parameter("" if kind == "array" else kind, bare=bare)
    where = argument.section
    most = pointers.number(where, argument.offset)
    if kind == "string":
        return Parameter(kind, most, bare)
    element, _ = _kind(pointers, pointers.follow(where, argument.offset + ELEMENT_OPS))
    return Parameter(f"array of {element}" if element else "", most, bare=False)


def _kind(pointers: Pointers, ops: Optional[Place]) -> tuple[str, Optional[bool]]:
    """Return what operations take, and whether without a value, by their name or that of the function that sets."""
    if ops is None:
        return "", None
    if ops.symbol in KERNELS_OWN:
        kind = KERNELS_OWN[ops.symbol]
        return kind, kind in WITHOUT_VALUE
    if ops.section is None:
        return "", None
    bare = bool(pointers.number(ops.section, ops.offset) & 1)  # KERNEL_PARAM_OPS_FL_NOARG
    setter = pointers.follow(ops.section, ops.offset + 8)
    return (SETTERS.get(setter.symbol, "") if setter else ""), bare


def is_refused(parameter: Parameter, value: Optional[str]) -> bool:
    """Tell whether a parameter certainly refuses a value."""
    kind = parameter.kind
    if value is None:
        return kind not in WITHOUT_VALUE if parameter.bare is None and kind else parameter.bare is False
    if kind.startswith("array of "):
        parts, element = value.split(","), Parameter(kind[len("array of ") :])
        return 0 < parameter.most < len(parts) or any(is_refused(element, part) for part in parts)
    if kind == "charp":
        return len(value.encode()) > LONGEST
    if kind == "string":
        return 0 < parameter.most <= len(value.encode())
    if kind in BOOLEANS:
        return not BOOLEAN.match(value)
    return kind in RANGES and _is_out_of_range(kind, value)


def _is_out_of_range(kind: str, value: str) -> bool:
    found = NUMBER.fullmatch(value)
    if not found:
        return True
    least, greatest = RANGES[kind]
    if found[1] == "-" and least == 0:
        return True
    number = int(found[2], 16) if found[2] else int(found[3], 8) if found[3] else int(found[4])
    return not least <= (-number if found[1] == "-" else number) <= greatest


def _known(contents: Contents, table: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Return all parameters: what the table says counts before what .modinfo does."""
    kinds = {name: Parameter("") for name in contents.parameters}
    kinds.update({entry.partition(":")[0]: Parameter("") for entry in contents.info.get("parm", ())})
    for entry in contents.info.get("parmtype", ()):
        name, _, kind = entry.partition(":")
        told = kind.rpartition("array of ")[2]
        kinds[name] = Parameter(kind if told in RANGES or told in (*BOOLEANS, "charp") else "")
    return {**{name.replace("-", "_"): parameter for name, parameter in kinds.items()}, **table}


def check(
    name: str, contents: Contents, options: str, table: Mapping[str, Parameter] = {}
) -> tuple[list[Fault], list[Fault]]:
    """Return what makes a load fail, and what the kernel only warns of or what cannot be determined.

    options: as modprobe passes them. table: what `read` found.
    """
    known = _known(contents, table)
    refused, others = [], []
    hint = f"modinfo -p {name} lists its parameters; correct load.options, or what else sets them: {SETTING}"
    for word in split(options):
        if word.name == "--" and word.value is None:
            break
        wanted, value = word.name.replace("-", "_"), word.value
        parameter = known.get(wanted)
        given = f"{wanted}={value}" if value is not None else f"{wanted} without a value"
        if wanted in SPECIAL:
            continue
        if parameter is None:
            text = f"{name} has no parameter {wanted}, so that the kernel passes over it"
            others.append(Fault("parameter-unknown", text, hint))
        elif is_refused(parameter, value):
            takes = parameter.kind or "a value"
            if parameter.most:
                takes += (
                    f" of at most {parameter.most - 1} bytes" if takes == "string" else f", {parameter.most} at most"
                )
            text = f"{name} would not load with the option {given}: it takes {takes}"
            refused.append(Fault("parameter-invalid", text, hint))
        elif not parameter.kind and value is not None:
            text = f"whether {name} takes the option {given} cannot be determined: its own code decides"
            others.append(Fault("parameter-untold", text, "see dmesg when it was loaded"))
    return refused, others
