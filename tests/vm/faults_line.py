"""Faults of class A, and what looks like them: the kernel's command line, what it does, and where it is written.

Sources: kernel/params.c, kernel/module/main.c and init/main.c, kernel-parameters.txt; grub2's blscfg and grubenv.
"""

from __future__ import annotations

from fault import Case, Fault, Loader, Words, needing, of
from server import Server

ENFORCE = "module.sig_enforce=1"
ON = ("y", "Y", "t", "T", "on", "On", "ON", "oN", "yes", "Yes", "true", "1x")
OFF = ("0", "n", "N", "no", "off", "OFF", "f", "false")
SCALARS = ("int=many", "int=", "byte=256", "bool=maybe", "uint=-1", "ulong=0x", "short=32768", "hexint=g")
FINE = ("int=-7", "byte=255", "bool=On", "uint=0x10", "invbool=n", "nothing=1", "ullong=18446744073709551615")


# -- words -------------------------------------------------------------------------------------------------------------
def line(*choices: str) -> Words:
    """Return one of several command lines, as the case's random numbers choose."""
    return lambda case: (case.random.choice(choices),)


def about(form: str, *choices: str) -> Words:
    """Return a word about the case's own modules. form: {name}, {provider}, {dashed}, {choice} are filled in."""

    def words(case: Case) -> tuple[str, ...]:
        provider = case.provider if case.kind.needs else ""
        choice = case.random.choice(choices) if choices else ""
        return (form.format(name=case.name, provider=provider, dashed=case.name.replace("_", "-"), choice=choice),)

    return words


def in_tree(form: str) -> Words:
    """Return a word about the kernel's own module that the case needs."""
    return lambda case: (form.format(name=case.kind.in_tree),)


# -- where they are written --------------------------------------------------------------------------------------------
def environment(server: Server, **variables: str) -> None:
    """Write grub's environment block."""
    lines = "".join(f"{name}={value}\n" for name, value in variables.items())
    directory = server.root / "boot/grub2"
    directory.mkdir(exist_ok=True)
    (directory / "grubenv").write_text(f"# GRUB Environment Block\n{lines}".ljust(1024, "#"))


def entry(server: Server, name: str, release: str, options: str) -> None:
    """Write an entry under a name of its own."""
    directory = server.root / "boot/loader/entries"
    directory.mkdir(parents=True, exist_ok=True)
    text = f"title {name}\nversion {release}\nlinux /vmlinuz-{release}\noptions root=/dev/vda ro {options}\n"
    (directory / f"{name}.conf").write_text(text)


def saved_second(server: Server, release: str, words: str) -> None:
    """Write two entries of a release, of which the saved one has the words."""
    entry(server, f"aaaa-{release}", release, "quiet")
    entry(server, f"bbbb-{release}", release, words)
    environment(server, saved_entry=f"bbbb-{release}")


def saved_first(server: Server, release: str, words: str) -> None:
    """Write two entries of a release, of which the one that is not saved enforces signatures."""
    entry(server, f"aaaa-{release}", release, ENFORCE)
    entry(server, f"bbbb-{release}", release, words)
    environment(server, saved_entry=f"bbbb-{release}")


def by_variable(name: str) -> Loader:
    """Write an entry whose words are in a variable of grub's environment block."""

    def load(server: Server, release: str, words: str) -> None:
        entry(server, f"aaaa-{release}", release, f"quiet ${name}")
        environment(server, saved_entry=f"aaaa-{release}", **{name: words})

    return load


def by_grub_cfg(server: Server, release: str, words: str) -> None:
    """Write a grub.cfg that names the kernel, as grub2-mkconfig does without blscfg, and no entry."""
    environment(server)
    (server.root / "boot/grub2/grub.cfg").write_text(
        f"set default=\"0\"\nmenuentry 'Linux {release}' --class gnu-linux --id 'gnulinux-{release}' {{\n"
        f"\tload_video\n\tinsmod gzio\n\tlinux\t/vmlinuz-{release} root=/dev/vda ro {words}\n"
        f"\tinitrd\t/initramfs-{release}.img\n}}\n"
    )


ONE = of("plain")
SOME = of("plain", "library", "consumer", "pcidriver", "enodev", "closed")
AT_BOOT = 'at_boot = ["{name}"]\n'

FAULTS = (
    # A1: spelled otherwise
    Fault("A1", "sig_enforce spelled as on", fits=SOME, alone=True,
          words=line(*(f"module.sig_enforce={on}" for on in ON))),
    Fault("A1", "sig-enforce with a dash", fits=ONE, alone=True,
          words=line("module.sig-enforce=1", "module.sig-enforce")),
    Fault("A1", "sig_enforce in quotes", fits=ONE, alone=True,
          words=line('"module.sig_enforce=1"', 'module.sig_enforce="1"', '"module.sig-enforce=Y"')),
    Fault("A1", "sig_enforce without a value", fits=ONE, words=line("module.sig_enforce"), alone=True),
    Fault("A1", "sig_enforce twice, the last one off", fits=ONE, alone=True,
          words=line("module.sig_enforce=on module.sig_enforce=0")),
    Fault("A1", "sig_enforce switched off", fits=ONE, alone=True,
          words=line(*(f"module.sig_enforce={off}" for off in OFF))),
    Fault("A1", "only similar to sig_enforce", fits=ONE, alone=True,
          words=line("sig_enforce=1", "Module.sig_enforce=1", "xmodule.sig_enforce=1", "module.sig_enforced=1")),
    Fault("A1", "sig_enforce inside another's quotes", fits=ONE, alone=True,
          words=line('local="a module.sig_enforce=1 b"', '"local=module.sig_enforce=1"')),
    Fault("A1", "lockdown", fits=ONE, words=line("lockdown=integrity", "lockdown=confidentiality"), alone=True),
    Fault("A1", "lockdown that is none", fits=ONE, words=line("lockdown=none", "lockdown=Integrity"), alone=True),
    # A2: what refuses by name, or everything
    Fault("A2", "module_blacklist", words=about("module_blacklist={name}")),
    Fault("A2", "module_blacklist of the provider", fits=needing, words=about("module_blacklist={provider}")),
    Fault("A2", "module_blacklist of the kernel's own provider", fits=of("ccitt", "checksum"), alone=True,
          words=in_tree("module_blacklist=loop,{name}")),
    Fault("A2", "module-blacklist in quotes", fits=ONE, words=about('module-blacklist="x,{name}"'), alone=True),
    Fault("A2", "module_blacklist overruled by a second one", fits=ONE, alone=True,
          words=about("module_blacklist={name} module_blacklist=x")),
    Fault("A2", "module_blacklist with a dash in the name", fits=ONE, words=about("module_blacklist={dashed}")),
    Fault("A2", "initcall_blacklist", fits=of("plain", "consumer", "chardev", "enodev", "machine"),
          words=about("initcall_blacklist={name}_init")),
    Fault("A2", "initcall_blacklist of the provider", fits=needing, words=about("initcall_blacklist={provider}_init")),
    Fault("A2", "initcall_blacklist of another function", fits=ONE, words=about("initcall_blacklist={name}_exit")),
    Fault("A2", "modules_disabled", fits=SOME, alone=True,
          words=line("sysctl.kernel.modules_disabled=1", "sysctl/kernel/modules_disabled=1")),
    # A3
    Fault("A3", "modprobe.blacklist of what at_boot wants", words=about("modprobe.blacklist={name}"), options="-b",
          load=AT_BOOT),
    Fault("A3", "modprobe.blacklist with a dash", fits=ONE, words=about("modprobe.blacklist={dashed}"), options="-b",
          load=AT_BOOT),
    Fault("A3", "modprobe.blacklist, not at boot", words=about("modprobe.blacklist={name}")),
    Fault("A3", "modprobe.blacklist of the provider", fits=needing, words=about("modprobe.blacklist={provider}"),
          options="-b", load=AT_BOOT),
    # A4
    Fault("A4", "parameter on the command line", fits=of("scalars"), words=about("{name}.a_{choice}", *SCALARS)),
    Fault("A4", "parameter on the command line, fine", fits=of("scalars"), words=about("{name}.a_{choice}", *FINE)),
    Fault("A4", "parameter with dashes", fits=of("scalars"), words=about("{dashed}.a-{choice}", *SCALARS)),
    Fault("A4", "parameter of any kind", words=about("{name}.number=many")),
    Fault("A4", "parameter of the provider", fits=needing, words=about("{provider}.number=many")),
    Fault("A4", "parameter of the kernel's own provider", fits=of("bitbang"), alone=True,
          words=in_tree("{name}.bit_test=many")),
    Fault("A4", "parameter in quotes", fits=of("scalars"), words=about('{name}.a_int="1 2"')),
    # A5: where the command line is written
    Fault("A5", "saved_entry names the second entry", fits=ONE, words=line(ENFORCE), alone=True, loader=saved_second),
    Fault("A5", "saved_entry names the harmless entry", fits=ONE, words=line("quiet"), alone=True, loader=saved_first),
    Fault("A5", "$kernelopts", fits=ONE, words=line(ENFORCE), alone=True, loader=by_variable("kernelopts")),
    Fault("A5", "$tuned_params", fits=ONE, words=line(ENFORCE), alone=True, loader=by_variable("tuned_params")),
    Fault("A5", "only grub.cfg has them", fits=ONE, words=line(ENFORCE), alone=True, loader=by_grub_cfg),
    Fault("A5", "only grub.cfg, nothing in it", fits=ONE, words=line("quiet"), alone=True, loader=by_grub_cfg),
    # what was in order
    Fault("O", "enforced", fits=SOME, words=line(ENFORCE), alone=True),
    # false alarm 2: what stands behind -- is for init
    Fault("FA2", "module_blacklist behind --", fits=SOME, words=about("-- module_blacklist={name}")),
    Fault("FA2", "initcall_blacklist behind --", fits=ONE, words=about("-- initcall_blacklist={name}_init")),
    Fault("FA2", "parameter behind --", fits=of("scalars"), words=about("-- {name}.a_{choice}", *SCALARS)),
    Fault("FA2", "sig_enforce behind --", fits=ONE, words=line("quiet -- module.sig_enforce=1"), alone=True),
)  # fmt: skip
