"""Faults of class E: how a module is called. Sources: kernel/params.c, kstrtox.c, lib/cmdline.c, modprobe.d(5)."""

from __future__ import annotations

from fault import Fault, Place, Spoil, of

#: Of each type of module_param() what lies at the edges of what it takes, and beyond.
VALUES = {
    "byte": ("0", "255", "256", "-1", "0xff", "0x100", "010", "1k", ""),
    "short": ("32767", "32768", "-32768", "-32769", "0x7fff"),
    "ushort": ("65535", "65536", "-1", "+1"),
    "int": ("2147483647", "2147483648", "-2147483648", "-2147483649", "many", "1.5", "1 ", "08", "0x", "''"),
    "uint": ("4294967295", "4294967296", "-0", "-1"),
    "long": ("9223372036854775807", "9223372036854775808", "-9223372036854775809"),
    "ulong": ("18446744073709551615", "18446744073709551616", "-1"),
    "ullong": ("0xffffffffffffffff", "0x10000000000000000", "1e3"),
    "hexint": ("0xff", "ff", "16", "g"),
    "bool": ("y", "N", "1", "on", "oN", "of", "off", "true", "t", "maybe", "2", "o", ""),
    "invbool": ("Y", "0", "no", "x"),
}
ARRAYS = {
    "ints": ("1", "1,2,3,4", "1,2,3,4,5", "1,,2", "1,2,", ",1", "", "1,many", "1;2", '"1,2"'),
    "bytes": ("1,2,3", "1,2,3,4", "256", "0,255", "-1"),
    "texts": ("a", "a,b", "a,b,c", ",", '"a b,c"'),
    "flags": ("y,n", "y,n,y", "1,maybe", "y,"),
    "renamed": ("1,2", "1,2,3"),
    "inner": ("1,2,3",),
}
STRINGS = {
    "buffer": ("", "1234567", "12345678", "123456789", '"12 4567"', '"12345678"', "x" * 100),
    "word": ("", "x" * 1023, "x" * 1024, "x" * 1025, '"a b"', "a=b", "'", '"'),
}
BARE = ("flag", "bint", "word", "buffer", "ints", "flags", "risky", "number", "texts")
CALLED = ("called=good", "called=bad", "called", "bare", "bare=1", "sized=5", "sized=-5", "sized=many", "called=")
ODD = (
    "number=1 -- number=many",
    'number="1"',
    "number=1 number=many",
    "num-ber=many",
    "Number=many",
    "number = 1",
    "dyndbg=+p",
    "async_probe",
    "nothing=1 number=2",
    "number=1\\\n number=many",
    "number=0x7fffffff word",
    '"number=many"',
    "number=1,",
)


def option(*choices: str) -> Spoil:
    """Return the spoiling by one of several options."""
    return lambda place: place.configure("options {name} " + place.random.choice(choices).replace("{", "{{"))


def of_types(values: dict[str, tuple[str, ...]], prefix: str = "") -> Spoil:
    """Return the spoiling by a value of a parameter. prefix: of the parameters' names."""
    return option(*(f"{prefix}{name}={value}" for name, each in values.items() for value in each))


def two_files(place: Place) -> None:
    """Let a file of the same name in /etc mask another: only one of the options counts."""
    place.configure("options {name} number=many", "usr/lib/modprobe.d")
    place.configure("options {name} number=" + place.choose(("1", "many")), "etc/modprobe.d")


def two_directories(place: Place) -> None:
    """Let files of two directories add up."""
    place.configure("options {name} number=1", place.choose(("run/modprobe.d", "usr/lib/modprobe.d")))


FAULTS = (
    Fault("O", "an option of a scalar type", of_types(VALUES, "a_"), of("scalars")),
    Fault("O", "an option of any kind", option("number=7", "number=many", "number", "nmber=7")),
    Fault("O", "an odd line of options", option(*ODD)),
    Fault("O", "a file that masks another", two_files),
    Fault("O", "a file in another directory", two_directories),
    Fault("E17", "array", of_types(ARRAYS), of("arrays")),
    Fault("E17", "array longer than the module's", option("ints=1,2,3,4,5", "bytes=1,2,3,4", "flags=y,n,y"),
          of("arrays")),
    Fault("E17", "string", of_types(STRINGS), of("arrays")),
    Fault("E17", "string longer than its buffer", option("buffer=12345678"), of("arrays")),
    Fault("E17", "flag without a value", option(*BARE), of("arrays")),
    Fault("E17", "what only a callback decides", option(*CALLED), of("callbacks")),
)  # fmt: skip
