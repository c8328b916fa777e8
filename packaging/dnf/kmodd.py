"""Keeps dnf from removing the newest kernel that is proven to work: a plugin of dnf(8), and a program for dnf5.

dnf removes the oldest kernels above installonly_limit, the running one alone excepted. Where the kernel that kmodd
names would be among them, the limit is raised for this run. Nothing of kmodd's is imported, one file is read, and
whatever goes wrong leaves dnf as it is. dnf5's actions plugin runs this with the limit and takes the line that it
prints.
"""

import json
import os
import sys

FILE = "/var/lib/kmodd/boot/dnf.json"
LARGEST = 65536  # bytes that are read
MODULES = "/lib/modules"
FEWEST = 2  # a smaller limit is for dnf to refuse, and 0 means none


def split(release):
    """Return a kernel release as rpm compares it: epoch, version, release."""
    version, _, rest = release.partition("-")
    return ("0", version, rest)


def find_limit(limit, path=FILE, modules=MODULES):
    """Return the installonly_limit with which the kernel stays that kmodd names; the same one where it does anyway."""
    import rpm

    with open(path, encoding="utf-8") as stream:
        found = json.loads(stream.read(LARGEST))
    keep = found["keep"] if found["schema"] == 1 else ""
    if limit < FEWEST or not isinstance(keep, str) or not keep or "/" in keep:
        return limit
    installed = [name for name in os.listdir(modules) if os.path.exists(os.path.join(modules, name, "vmlinuz"))]
    if keep not in installed:
        return limit
    newer = [name for name in installed if rpm.labelCompare(split(name), split(keep)) > 0]
    return max(limit, len(newer) + 2)  # they, the one to keep, and one that comes


try:
    import dnf
except ImportError:  # a program of its own
    dnf = None

if dnf is not None:

    class Kmodd(dnf.Plugin):
        """The plugin of dnf 4."""

        name = "kmodd"

        def config(self):
            """Raise the limit for this run, where that is needed."""
            try:
                conf = self.base.conf
                wanted = find_limit(int(conf.installonly_limit))
                if os.path.realpath(conf.installroot) == "/" and wanted != conf.installonly_limit:
                    conf.installonly_limit = wanted
                    dnf.logging.logging.getLogger("dnf").info("kmodd: installonly_limit is %d in this run", wanted)
            except Exception:  # dnf is not to fail for want of this
                return


if __name__ == "__main__":
    try:
        before = int(sys.argv[1])
        after = find_limit(before)
        if after != before:
            print(f"conf.installonly_limit={after}")
    except Exception:
        sys.exit(0)
