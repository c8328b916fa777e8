"""What modules said when they were loaded at boot: read from systemd-modules-load, kept, and told."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from kmodd.core.documents.status import status_document
from kmodd.core.model import Judgement, Kernel, Loaded, Presence, Snapshot, Target, TargetState, Verdict
from kmodd.core.record import BootRecord, InitRefusal, Installed, InstalledObject, TargetRecord
from kmodd.core.sysroot import Sysroot
from kmodd.ctl.load import find_refused
from kmodd.host.store import Store
from kmodd.reconcile import installedprobe

SAID = """\
Inserted module 'fine'
Failed to insert module 'no-card': No such device
Failed to insert 'older': No such device
Failed to insert module 'other': Invalid argument
Failed to insert module 'absent': No such device or address
Failed to find module 'nowhere'
"""


def test_only_what_found_no_device_is_kept() -> None:
    assert find_refused(SAID) == {"no_card", "older"}


TARGET = Target("driver", "6.1")
REFUSED = InitRefusal(name="no_card", built="b", when=5.0)


def record(built: str) -> TargetRecord:
    item = InstalledObject(name="no-card", path="/lib/modules/6.1/extra/driver/no-card.ko", sha256="s", built=built)
    return TargetRecord(module="driver", kernel="6.1", installed=Installed(objects=(item,)))


@pytest.mark.parametrize(
    ("built", "presence", "told"),
    [
        ("b", None, True),
        ("b", Presence.ABSENT, True),
        ("b", Presence.CURRENT, False),
        ("another", None, False),
    ],
    ids=["another kernel runs", "not in memory", "loaded since", "built anew"],
)
def test_refusal_is_told_as_long_as_it_holds(
    tmp_path: Path, built: str, presence: Optional[Presence], told: bool
) -> None:
    store = Store(Sysroot(tmp_path))
    store.write_boot(BootRecord(kernel="6.1", refused=(REFUSED,)))
    row = TargetState(record=record(built), loaded=(Loaded("no_card", presence),) if presence else ())
    assert row.record is not None and row.record.installed is not None
    row.init_refused = installedprobe.find_refused(store.boot_records()["6.1"], row.record.installed, row)
    assert row.init_refused == ((REFUSED,) if told else ())
    snapshot = Snapshot(kernels={"6.1": Kernel("6.1")}, targets={TARGET: row})
    judgements = {TARGET: Judgement(Verdict.READY, "is installed")}
    (document,) = status_document(snapshot, judgements)["targets"]
    assert document["verdict"] == "ready"
    text = "init refused: no such device (not a fault of the module): no_card"
    assert document["init_refused"] == ({"objects": ["no_card"], "reason": text, "when": 5.0} if told else None)
    store.forget_kernel("6.1")
    assert store.boot_records() == {}
