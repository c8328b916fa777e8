"""What a module file may say: the frozen models of `modules.d/NAME.toml` (kmodd.modules.d(5)).

Must not: read files. The registry does.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,63}(\.[A-Za-z0-9_+-]+)*")
#: What the kernel can call a module: MODULE_NAME_LEN (linux/moduleparam.h) holds 55 bytes and a NUL on 64 bits.
OBJECT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,54}")
OBJECT_RULE = "a module's name is of letters, digits, - and _, 55 at most"
SIZE = re.compile(r"(\d{1,18})\s*([KMGT]?)(?:iB|B)?")
SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|sec|min|m|h|)")
PLACEHOLDER = re.compile(r"(?<!\$)\{([a-z_]+)\}")  # ${x} is make's
PLACEHOLDERS = ("kernel", "build_tree", "jobs", "source")
SECONDS = {"ms": 0.001, "s": 1, "sec": 1, "": 1, "min": 60, "m": 60, "h": 3600}


def canonical(name: str) -> str:
    """Return the name the kernel knows a module by: with underscores (kmod's modname_normalize)."""
    return name.replace("-", "_")


def object_name(path: str) -> str:
    """Return the canonical name of the module that a file (name.ko, compressed or not) holds."""
    return canonical(path.rpartition("/")[2].partition(".ko")[0])


def _name(value: str) -> str:
    if not NAME.fullmatch(value) or len(value) > 100:
        raise ValueError("must start with a letter or digit and hold only letters, digits and . _ + -")
    return value


def _object(value: str) -> str:
    if not OBJECT.fullmatch(value):
        raise ValueError(f"cannot be the name of an object: {OBJECT_RULE}")
    return value


def _word(value: str) -> str:
    if not value or any(c.isspace() or not c.isprintable() for c in value):
        raise ValueError("must be one word without spaces")
    return value


def _line(value: str) -> str:
    if any(not c.isprintable() for c in value):
        raise ValueError("must be one line of printable characters")
    if value.endswith("\\"):
        raise ValueError("must not end with a backslash, which would join it to the next line")
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/") or not value.isprintable():
        raise ValueError("must be an absolute path of printable characters")
    return value


def _within(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/") or not value.isprintable():
        raise ValueError("must be a path inside the source, without '..', of printable characters")
    return value


def _conf(value: str) -> str:
    if not value.endswith("/dkms.conf"):
        raise ValueError("must be the path of a file dkms.conf")
    return value


def _filled(value: str) -> str:
    for found in PLACEHOLDER.finditer(value):
        if found[1] not in PLACEHOLDERS:
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"unknown placeholder {found[0]}; there are {known}")
    return value


def _argvs(value: Any) -> Any:
    """Take one argv for a list of one."""
    if not isinstance(value, (list, tuple)):
        return value
    if all(isinstance(item, str) for item in value):
        value = [value] if value else []
    elif not all(isinstance(item, (list, tuple)) for item in value):
        raise ValueError("must be a list of words, or a list of such lists")
    return tuple(tuple(item) for item in value)  # see _patch


def _argv(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or not value[0]:
        raise ValueError("must begin with a program")
    return value


def _below(value: str) -> str:
    if any(part in ("", ".") for part in _within(value).split("/")):
        raise ValueError("must be a path below the kernel's source directory, such as drivers/md/bcache")
    return value


def seconds(value: object) -> object:
    """Return the seconds of a time span such as "30min", "90s", "1h" or a bare number."""
    if isinstance(value, str):
        match = SPAN.fullmatch(value.strip())
        if not match:
            raise ValueError('must be a time span such as "90s", "30min" or "1h"')
        return float(match[1]) * SECONDS[match[2]]
    return value


def size(value: object) -> object:
    """Return the bytes of a size such as "256MiB", "1GiB" or a bare number."""
    if isinstance(value, str):
        match = SIZE.fullmatch(value.strip())
        if not match:
            raise ValueError('must be a size such as "256MiB" or "1GiB"')
        return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]]
    return value


Name = Annotated[str, AfterValidator(_name)]
ObjectName = Annotated[str, AfterValidator(_object)]
Word = Annotated[str, AfterValidator(_word)]
Line = Annotated[str, AfterValidator(_line)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$"), AfterValidator(str.lower)]
Filled = Annotated[str, AfterValidator(_line), AfterValidator(_filled)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
InnerPath = Annotated[str, AfterValidator(_within)]
KernelPath = Annotated[str, AfterValidator(_line), AfterValidator(_below)]
Size = Annotated[int, BeforeValidator(size), Field(gt=0, lt=1 << 63)]
SizeOrNone = Annotated[int, BeforeValidator(size), Field(ge=0, lt=1 << 63)]
TimeSpan = Annotated[float, BeforeValidator(seconds), Field(gt=0, allow_inf_nan=False)]
TimeSpanOrNone = Annotated[float, BeforeValidator(seconds), Field(ge=0, allow_inf_nan=False)]


class Table(BaseModel):
    """A table of a configuration file: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModuleTable(Table):
    name: Optional[Name] = None
    version: Line = ""
    required: bool = True
    enabled: bool = True


class Patch(Table):
    file: Word
    kernels: tuple[Word, ...] = ()
    strip: Annotated[int, Field(ge=0, le=9)] = 1
    fuzz: Annotated[int, Field(ge=0, le=3)] = 0


def _patch(value: Any) -> Any:
    if isinstance(value, dict):  # a validator before it makes pydantic forget that arrays came from JSON
        return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
    return {"file": value} if isinstance(value, str) else value


class Source(Table):
    path: Optional[AbsolutePath] = None
    archive: Optional[AbsolutePath] = None
    sha256: Optional[Digest] = None  # of the archive
    strip: Optional[Annotated[int, Field(ge=0, le=9)]] = None  # leading directories of the archive's names; None: 1
    kernel: tuple[KernelPath, ...] = ()  # directories and .c files of the kernel's own source
    dkms: Optional[Annotated[AbsolutePath, AfterValidator(_conf)]] = None  # a dkms.conf; the source is its directory
    ignore_hooks: Optional[bool] = None  # of the dkms.conf
    trust_owner: bool = False  # what others than root can change is built all the same
    patches: tuple[Annotated[Patch, BeforeValidator(_patch)], ...] = ()

    @model_validator(mode="after")
    def _one(self) -> Source:
        if sum(one is not None for one in (self.path, self.archive, self.dkms, self.kernel or None)) != 1:
            raise ValueError("needs exactly one of path, archive, kernel and dkms")
        if self.dkms is None and self.ignore_hooks is not None:
            raise ValueError("ignore_hooks goes with dkms only")
        for key in ("sha256", "strip"):
            if self.archive is None and getattr(self, key) is not None:
                raise ValueError(f"{key} goes with archive only")
        return self

    @property
    def kind(self) -> str:
        """Return the key that says where the source is."""
        kinds = {"kernel": self.kernel, "archive": self.archive, "dkms": self.dkms}
        return next((name for name, value in kinds.items() if value), "path")

    @property
    def place(self) -> str:
        """Return where the source is."""
        return " ".join(self.kernel) or self.path or self.archive or self.dkms or ""


class Build(Table):
    directory: InnerPath = "."
    config: dict[Annotated[str, Field(pattern=r"^CONFIG_[A-Za-z0-9_]+$")], Union[Line, int]] = {}
    arguments: tuple[Filled, ...] = ()
    command: Annotated[tuple[Annotated[tuple[Filled, ...], AfterValidator(_argv)], ...], BeforeValidator(_argvs)] = ()
    depends: tuple[Name, ...] = ()
    symvers: tuple[AbsolutePath, ...] = ()
    timeout: TimeSpan = 1800.0
    strip: bool = True

    @model_validator(mode="after")
    def _own_way(self) -> Build:
        for key in ("config", "arguments"):
            if self.command and getattr(self, key):
                raise ValueError(f"{key} is for make and goes without command; put it into the command")
        return self


class Object(Table):
    name: ObjectName
    path: InnerPath = "."


class Kernels(Table):
    match: tuple[Word, ...] = ()
    exclude: tuple[Word, ...] = ()
    minimum: Optional[Word] = None
    maximum: Optional[Word] = None
    architectures: tuple[Word, ...] = ()
    config: tuple[Annotated[str, Field(pattern=r"^!?CONFIG_[A-Za-z0-9_]+$")], ...] = ()


class Load(Table):
    at_boot: tuple[Name, ...] = ()
    options: dict[Name, Line] = {}
    softdeps: dict[Name, Line] = {}
    blacklist: tuple[Name, ...] = ()
    aliases: dict[Word, Name] = {}
    debug: tuple[Name, ...] = ()
    reload: Literal["never", "if-unused"] = "never"


class ModuleFile(Table):
    """One module file as written; TOML arrays become tuples."""

    module: ModuleTable = ModuleTable()
    source: Source
    build: Build = Build()
    object: tuple[Object, ...] = ()
    kernels: Kernels = Kernels()
    load: Load = Load()

    @model_validator(mode="after")
    def _built_by_make(self) -> ModuleFile:
        if self.source.kernel and self.build.command:
            raise ValueError("build.command does not go with source.kernel, which its own Makefiles build")
        if self.source.dkms:
            for key in ("directory", "config", "arguments", "command"):
                if key in self.build.model_fields_set:
                    raise ValueError(f"build.{key} does not go with source.dkms, whose MAKE says how to build")
            if self.object:
                raise ValueError("[[object]] does not go with source.dkms, whose BUILT_MODULE_NAME names the objects")
        return self


class Module(Table):
    """A registered module: its file, plus what the file's place decides."""

    name: Name
    file: ModuleFile
    path: str  # of the module file, as seen from inside the root

    @property
    def required(self) -> bool:
        return self.file.module.required

    @property
    def enabled(self) -> bool:
        return self.file.module.enabled

    @property
    def names_objects(self) -> bool:
        """Tell whether somebody named the objects, so that one may take the place of a module of the kernel's own."""
        return bool(self.file.object or self.file.source.kernel or self.file.source.dkms)
