"""A journal of one's own: a real systemd-journald in a mount namespace whose /run and /var/log are empty."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from patience import LIMIT, wait_until

NAME = "kmoddtest"  # the journal's namespace, in which journald reads neither kernel nor audit messages
SET_UP = f"""\
set -e
for directory in /run /var/log /var/lib/systemd/catalog /usr/lib/systemd/catalog; do
    mount -t tmpfs tmpfs $directory
done
[ -s /etc/machine-id ] || {{ echo 0123456789abcdef0123456789abcdef > /run/id; mount --bind /run/id /etc/machine-id; }}
mkdir -p /run/systemd/journal.{NAME} /run/systemd/journal
mount --bind /run/systemd/journal.{NAME} /run/systemd/journal
cp "$1" /usr/lib/systemd/catalog/
journalctl --update-catalog
exec /lib/systemd/systemd-journald {NAME}
"""


class Journald:
    """journald with kmodd's catalog."""

    def __init__(self, catalog: Path) -> None:
        argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", SET_UP, "sh", catalog]
        self.child = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        self.inside = ["nsenter", "-t", str(self.child.pid), "-m"]
        wait_until(self.listens, "journald's start", over=lambda: self.child.poll() is not None)

    def listens(self) -> bool:
        return self.run("test", "-S", "/run/systemd/journal/stdout", check=False).returncode == 0

    @property
    def stderr(self) -> list[str]:
        """Return the words before a command that make the journal its stderr, as a unit's is."""
        told = 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"'  # systemd-cat does not before systemd 256
        return [*self.inside, "systemd-cat", "-t", "kmodd", "sh", "-c", told, "sh"]

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command beside journald."""
        return subprocess.run([*self.inside, *words], check=check, capture_output=True, text=True)

    def read(self, *words: str) -> str:
        """Return what journalctl prints."""
        self.run("journalctl", f"--namespace={NAME}", "--sync")
        return self.run("journalctl", f"--namespace={NAME}", "--no-pager", "-q", *words).stdout

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read("-o", "json", "--all", *matches).splitlines()]

    def stop(self) -> None:
        self.child.terminate()
        self.child.wait(LIMIT)
