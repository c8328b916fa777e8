"""Who works on single targets: building, installing, and the scripts of a dkms.conf. Must not: decide what is due."""

from __future__ import annotations

from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..deploy.install import Installation
from ..host.store import Store
from .building import Building
from .dkmshooks import HookWork
from .inputprobe import InputProbe
from .installing import Installing
from .keysource import KeySource
from .logkeeping import LogKeeper
from .unexpected import BuildObserver


class TargetWork:
    """The work on single targets of one root."""

    def __init__(
        self,
        sysroot: Sysroot,
        settings: SettingsSource,
        store: Store,
        keys: KeySource,
        inputs: InputProbe,
        installation: Installation,
        observe_build: BuildObserver,
        logs: LogKeeper,
    ) -> None:
        self.hooks = HookWork(sysroot, settings, store)
        self.building = Building(sysroot, settings, store, inputs, observe_build, logs)
        self.installing = Installing(sysroot, settings, store, keys, installation, self.hooks)
