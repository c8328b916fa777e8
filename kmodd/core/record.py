"""What is remembered of a target: attempts and provenance, the schema of `targets/<release>/<module>.json`.

Facts that the disk can tell are not here. Must not: read or write files. The store does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .fault import Fault

#: A name that stays in its directory: records may come with a root that others made.
FileName = Annotated[str, Field(pattern=r"^[^/\x00]+$")]


class Part(BaseModel):
    """A part of a state file; fields may be added, so unknown ones of a newer kmodd are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class FirstError(Part):
    """The first error of a failed attempt's log. file and number: of the place in the source, where it names one."""

    line: str
    file: Optional[str] = None
    number: Optional[int] = None
    excerpt: tuple[str, ...] = ()  # the lines around it, with the source that the compiler quotes


class Attempt(Part):
    """One try at a target. Times are seconds since the epoch."""

    began: float
    ended: float
    stage: Literal["build", "install", "release"]
    outcome: Literal["succeeded", "failed"]
    problem: str = ""
    message: str = ""
    hint: str = ""
    transient: bool = False
    failures: int = 0  # in a row, with the same inputs
    inputs: dict[str, str] = {}
    log: str = ""  # in-root path
    error: Optional[FirstError] = None
    warnings: tuple[str, ...] = ()

    @property
    def fault(self) -> Fault:
        return Fault(self.problem, self.message, self.hint)


class BuiltObject(Part):
    """An unsigned object in the store."""

    name: FileName  # without .ko
    sha256: str


class Built(Part):
    """What the last successful build yielded; its objects lie beside the record, unsigned."""

    inputs: dict[str, str]
    objects: tuple[BuiltObject, ...]
    version: str = ""
    compiler: str = ""
    warnings: tuple[str, ...] = ()
    ended: float = 0


class InstalledObject(Part):
    """An object as it was put under extra/: path in-root, sha256 of the final file."""

    name: FileName
    path: str
    sha256: str
    built: str  # sha256 of the unsigned object that it was made from
    signer: str = ""  # certificate's sha256, "" where unsigned
    compressed: str = ""  # "", xz, zst or gz


class Installed(Part):
    objects: tuple[InstalledObject, ...] = ()
    superseded: tuple[str, ...] = ()  # in-root paths that a newer set no longer has, until they are deleted


class Hook(Part):
    """A script of a source: its words, and the in-root directory of the source."""

    line: str
    source: str


class Reload(Part):
    """The last try to put what is installed in place of what the running kernel had in memory.

    A try that "began" was interrupted: what it unloaded is to be loaded again.
    """

    outcome: Literal["began", "succeeded", "failed"]
    began: float
    inputs: dict[str, str]  # "boot", and the sha256 of each object as it was built
    objects: tuple[str, ...]  # canonical names, in the order in which they are unloaded
    absent: bool = False  # one of this target was unloaded and did not come back
    problem: str = ""
    message: str = ""
    hint: str = ""

    @property
    def fault(self) -> Fault:
        return Fault(self.problem, self.message, self.hint)


class TargetRecord(Part):
    schema_: Literal[1] = Field(1, alias="schema")
    module: str
    kernel: str
    module_file: str = ""
    version: str = ""
    attempt: Optional[Attempt] = None
    built: Optional[Built] = None
    installed: Optional[Installed] = None
    reload: Optional[Reload] = None
    after_removal: Optional[Hook] = None  # POST_REMOVE of its dkms.conf, where that is allowed
    asked: bool = False  # somebody wants it built again, whatever came of the last attempt


class InitRefusal(Part):
    """An object whose own init function said, when it was to be loaded at boot, that it found no device."""

    name: str  # canonical
    built: str  # sha256 of the unsigned object
    when: float  # seconds since the epoch


class BootRecord(Part):
    """What came of loading at the last boot of a kernel."""

    schema_: Literal[1] = Field(1, alias="schema")
    kernel: str
    refused: tuple[InitRefusal, ...] = ()
    live: Optional[float] = None  # when all its required modules were seen loaded, seconds since the epoch


class Depmod(Part):
    """The last depmod run by kmodd that succeeded. Sizes are in bytes, times of files (mtime) in ns."""

    inputs: str  # identifies our objects and the configuration that it ran with
    outputs: dict[str, tuple[int, int]] = {}  # what it wrote, as it is on the disk: size and time
    omitted: dict[str, tuple[int, int]] = {}  # files of ours that it did not list: size and time


class KernelRecord(Part):
    """What is remembered of a kernel as a whole. Schema 1 had one step, depmod, whose failure was "attempt"."""

    schema_: Literal[2] = Field(2, alias="schema")
    kernel: str
    steps: dict[str, Attempt] = {}  # by kind of action, such as depmod: the last attempt, where that failed
    depmod: Optional[Depmod] = None  # the last one that ended well

    @model_validator(mode="before")
    @classmethod
    def _from_schema_1(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("schema") != 1:
            return data
        found = {key: value for key, value in data.items() if key not in ("schema", "attempt")}
        return {**found, "steps": {"depmod": data["attempt"]} if data.get("attempt") else {}}
