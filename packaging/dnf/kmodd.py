"""dnf plugin: lets dnf keep one more kernel in a run that would else delete the newest proven one.

dnf deletes the oldest kernel beyond installonly_limit, whether or not the others have their modules. kmodd writes the
release that a server can fall back on to one JSON file; this plugin reads that, counts what rpm's database has, and
raises installonly_limit for this run alone. Nothing is refused. Whatever goes wrong, dnf goes on as if the plugin were
not there. It imports nothing of kmodd, and runs on the Python 3.6 of EL 8's dnf.

dnf 4 imports it as a plugin; for dnf5 it is the program of kmodd.actions, with the limit in force as its argument.
"""

import json
import logging
import os
import sys

import rpm

KEPT = "var/lib/kmodd/boot/dnf.json"  # {"schema": 1, "keep": "5.14.0-503.el9.x86_64"}; "" for none
LARGEST = 65536  # bytes
NAMES = ("kernel-core", "kernel-modules-core", "kernel-modules", "kernel-modules-extra", "kernel")
ENTRIES = 200  # versions of one package beyond which nothing is counted: no server has as many kernels

logger = logging.getLogger("dnf.plugin")


def read_kept(root: str) -> str:
    """Return the release that is to stay, "" for none. Raises OSError, ValueError and KeyError."""
    with open(os.path.join(root, KEPT), encoding="utf-8") as file:
        found = json.loads(file.read(LARGEST))
    release = found["keep"] if found["schema"] == 1 else ""
    if not isinstance(release, str):
        raise ValueError("keep is no text")
    return release


def count_needed(root: str, proven: str, running: str) -> int:
    """Return the limit by which dnf leaves a release installed while one more kernel comes, 0 where it is not there.

    dnf counts the versions of each package name, and deletes the oldest first, the running kernel's last: that one has
    a place even where it is older.
    """
    transaction = rpm.TransactionSet(root)
    needed = 0
    for flavour in ("", "-rt", "-64k", "-debug", "-rt-debug", "-64k-debug"):
        for name in NAMES:
            versions = _versions(transaction, name.replace("kernel", f"kernel{flavour}", 1))
            kept = _find(versions, proven)
            if kept is not None:
                newer = sum(rpm.labelCompare(_evr(header), _evr(kept)) >= 0 for header in versions)
                older = _find(versions, running)
                has_place = older is not None and rpm.labelCompare(_evr(older), _evr(kept)) < 0
                needed = max(needed, newer + has_place + 1)
    return needed


def _versions(transaction, name):
    found = []
    for header in transaction.dbMatch("name", name):
        found.append(header)
        if len(found) > ENTRIES:
            raise ValueError(f"more than {ENTRIES} versions of {name}")
    return found


def _evr(header):
    epoch = header[rpm.RPMTAG_EPOCH]
    return (str(epoch or 0), header[rpm.RPMTAG_VERSION], header[rpm.RPMTAG_RELEASE])


def _find(versions, release: str):
    """Return the header of a kernel release: what uname -r says may have the flavour behind a plus."""
    plain = release.partition("+")[0]
    for header in versions:
        words = (header[rpm.RPMTAG_VERSION], header[rpm.RPMTAG_RELEASE])
        if plain in ("{}-{}".format(*words), "{}-{}.{}".format(*words, header[rpm.RPMTAG_ARCH])):
            return header
    return None


def find_limit(root: str, limit: int):
    """Return the limit that keeps the proven release, and that release; (limit, "") where nothing is to be changed.

    limit: dnf's own; 0 and less: without limit. Never raises.
    """
    try:
        proven = read_kept(root)
        needed = count_needed(root, proven, os.uname().release) if proven and limit > 0 else 0
    except Exception as error:  # a kernel update never fails for this
        if not isinstance(error, FileNotFoundError):
            logger.debug("kmodd: %s", error)
        return limit, ""
    return (needed, proven) if needed > limit else (limit, "")


if __name__ == "__main__":
    try:
        root, told = sys.argv[1], int(sys.argv[2])
    except (IndexError, ValueError):
        sys.exit(0)
    found, release = find_limit(root, told)
    if release:
        print(f"conf.installonly_limit={found}")
        print(f"log.INFO=kmodd: keeps {found} kernels so that {release}, the newest proven one, stays")
else:
    import dnf

    class Kmodd(dnf.Plugin):
        """Raises installonly_limit where the newest proven kernel would go."""

        name = "kmodd"

        def __init__(self, base, cli) -> None:
            super().__init__(base, cli)
            self.base = base

        def config(self) -> None:
            """Called when dnf has read its settings, before it looks at packages."""
            try:
                conf = self.base.conf
                limit = conf.installonly_limit
                found, release = find_limit(conf.installroot, limit)
                if release:
                    conf.installonly_limit = found
                    text = "kmodd: keeps %d kernels in this run instead of %d: %s is the newest that is proven"
                    logger.info(text, found, limit, release)
            except Exception as error:
                logger.debug("kmodd: %s", error)
