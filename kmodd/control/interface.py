"""What can be asked: the interfaces' texts (https://varlink.org/Interface-Definition), and the parameters' models.

Must not: answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Optional

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from ..core.errors import Problem
from ..core.modulefile import Name

MANAGER = "io.kmodd.Manager"
SERVICE = "org.varlink.service"

#: The status, kmoddctl(8): `kmoddctl status --json` prints the same.
_DOCUMENT = """\
(
  schema: int,
  looked: ?float,
  holder: ?string,
  activity: ?string,
  kernels: []Kernel,
  modules: []Module,
  targets: []Target,
  leftovers: []string,
  behind: ?(running: string, newer: string, held: ?float, problem: string, message: string, hint: string),
  problems: []BrokenFile,
  warnings: []Warning
)"""

TEXTS = {
    MANAGER: f"""\
# Out-of-tree kernel modules, kept built for every installed kernel: kmodd(8).
# Times are seconds since the epoch. Fields are added, never renamed.
interface {MANAGER}

type Verdict (excluded, ready, building, waiting, blocked, failed)

# problem: a code of kmodd.problems(7), or "". hint: what to do about it. bootable: null where it cannot be told.
# held: since when it is kept from the boot loader. fit: ready and bootable. proven: fit, and ran with its modules.
type Kernel (
  release: string,
  verdict: Verdict,
  running: bool,
  default_boot: ?bool,
  build_tree: bool,
  reason: string,
  problem: string,
  hint: string,
  flavour: string,
  architecture: string,
  kernel_devel: string,
  bootable: ?bool,
  held: ?float,
  fit: bool,
  proven: bool
)

# source: the table of the module file. A module that is not registered is remembered, since some of it is installed.
type Module (
  name: string,
  version: string,
  registered: bool,
  required: bool,
  enabled: bool,
  file: string,
  source: object,
  depends: []string
)

# An installed file. signer: sha256 of the certificate, or "".
# in_memory: what the running kernel has of it: current, stale, absent or unknown.
type InstalledObject (
  name: string,
  path: string,
  sha256: string,
  signer: string,
  compressed: string,
  in_memory: string
)

# stage: build or install. outcome: succeeded or failed. failures: so many in a row. log: a file.
type Attempt (
  began: float,
  ended: float,
  stage: string,
  outcome: string,
  problem: string,
  message: string,
  transient: bool,
  failures: int,
  log: string
)

# A module on a kernel.
# next_try: when what failed is tried again by itself, or looked at again; null: not before something changes.
# init_refused: objects whose own init function found no device at the kernel's last boot; when, since the epoch.
type Target (
  module: string,
  version: string,
  required: bool,
  kernel: string,
  verdict: Verdict,
  reason: string,
  problem: string,
  hint: string,
  objects: []InstalledObject,
  init_refused: ?(objects: []string, reason: string, when: float),
  stale_in_memory: ?(reason: string, hint: string),
  fingerprint: string,
  warnings: []string,
  last_attempt: ?Attempt,
  next_try: ?float
)

type BrokenFile (file: string, problem: string, message: string, hint: string)

# A rule that matches no kernel, a file that is not read, a key that cannot sign. module, file: "" where of none.
type Warning (module: string, file: string, problem: string, message: string, hint: string)

# looked: when that was found. holder: who keeps the root, such as "kmodd (pid 12)".
# activity: what that one does, such as idle or building.
type Document {_DOCUMENT}

# activity: what the daemon does now is text.
# started, ended: of a build; the outcome is succeeded, failed, stopped or discarded; seconds is what it took.
# compiled: how many files of a build are; total is an estimate, and null where there is none.
# verdict: a target's, or a kernel's where module is ""; null: it is gone.
type EventKind (activity, started, compiled, ended, verdict)

type Event (
  event: EventKind,
  time: float,
  text: ?string,
  module: ?string,
  kernel: ?string,
  log: ?string,
  outcome: ?string,
  seconds: ?float,
  compiled: ?int,
  total: ?int,
  before: ?Verdict,
  verdict: ?Verdict,
  reason: ?string,
  problem: ?string,
  hint: ?string
)

# What the last pass found, on all targets or some.
method Status(module: ?string, kernel: ?string) -> {_DOCUMENT}

# What is due by that.
method Plan() -> (schema: int, actions: []object)

# The whole story of a module, as kmoddctl explain --json prints it.
method Explain(module: string, kernel: ?string) -> (schema: int, module: ?object, targets: []object)

# The text of the last build's log. Without "more" only its end, and truncated tells whether that is not all.
# With "more" all of it, in pieces. Only for who may read logs.
method Logs(module: string, kernel: ?string) -> (schema: int, log: string, text: string, truncated: bool)

# Live events; the first ones tell of what is under way. Wants "more".
method Subscribe() -> (event: Event)

# What a step came to that failed. kernel, module: "" where it is of none.
type Failure (module: string, kernel: string, problem: string, message: string, hint: string)

# Look again, and wait (the default) until nothing is left to do. What failed for a passing reason is tried again at
# once. failures: of steps, since the call. With "more", events come meanwhile. For root.
method Sync(wait: ?bool) -> (event: ?Event, status: ?Document, failures: ?[]Failure)

# Build a module again although nothing changed, or, without a name, whatever failed; targets are those. For root.
method Rebuild(module: ?string, kernel: ?string) -> (targets: [](module: string, kernel: string))

# Look again, check everything that is installed anew, and return what was found. For root.
method Verify() -> {_DOCUMENT}

# Read the settings again. For root.
method Reload() -> ()

# problem: a code of kmodd.problems(7).
error Problem (problem: string, message: string, hint: string)

# Events came faster than they were taken.
error TooSlow ()

error TooManyConnections ()
""",
    SERVICE: f"""\
# What every Varlink service answers.
interface {SERVICE}

method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)

method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)

error MethodNotFound (method: string)

error MethodNotImplemented (method: string)

error InvalidParameter (parameter: string)

error PermissionDenied ()

error ExpectedMore ()
""",
}

Release = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^/\s.][^/\s]*$")]


class Parameters(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Selection(Parameters):
    module: Optional[Name] = None
    kernel: Optional[Release] = None


class OfModule(Parameters):
    module: Name
    kernel: Optional[Release] = None


class Waiting(Parameters):
    wait: Optional[bool] = None


class OfInterface(Parameters):
    interface: str


class Method(NamedTuple):
    """A method. changes: only for root. reads_logs: only for who may read logs, too. streams: wants "more"."""

    parameters: type[Parameters] = Parameters
    changes: bool = False
    reads_logs: bool = False
    streams: bool = False


METHODS = {
    f"{MANAGER}.Status": Method(Selection),
    f"{MANAGER}.Plan": Method(),
    f"{MANAGER}.Explain": Method(OfModule),
    f"{MANAGER}.Logs": Method(OfModule, reads_logs=True),
    f"{MANAGER}.Subscribe": Method(streams=True),
    f"{MANAGER}.Sync": Method(Waiting, changes=True),
    f"{MANAGER}.Rebuild": Method(Selection, changes=True),
    f"{MANAGER}.Verify": Method(changes=True),
    f"{MANAGER}.Reload": Method(changes=True),
    f"{SERVICE}.GetInfo": Method(),
    f"{SERVICE}.GetInterfaceDescription": Method(OfInterface),
}


class Refusal(Exception):
    """An error reply. error: its full name."""

    def __init__(self, error: str, **parameters: Any) -> None:
        super().__init__(error)
        self.error = error
        self.parameters = parameters


def refusal_of(problem: Problem) -> Refusal:
    return Refusal(f"{MANAGER}.Problem", problem=problem.code, message=problem.message, hint=problem.hint)


def find_method(name: str) -> Method:
    """Return the method of a full name. Raises Refusal."""
    interface = name.rpartition(".")[0]
    if interface not in TEXTS:
        raise Refusal(f"{SERVICE}.InterfaceNotFound", interface=interface)
    if name not in METHODS:
        raise Refusal(f"{SERVICE}.MethodNotFound", method=name)
    return METHODS[name]


def read_parameters(method: Method, given: Mapping[str, Any]) -> Parameters:
    """Return a call's parameters. Raises Refusal that names the first one that is wrong."""
    try:
        return method.parameters.model_validate(given)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Refusal(f"{SERVICE}.InvalidParameter", parameter=where) from error


def describe(interface: str) -> str:
    """Return an interface's text. Raises Refusal."""
    if interface not in TEXTS:
        raise Refusal(f"{SERVICE}.InterfaceNotFound", interface=interface)
    return TEXTS[interface]
