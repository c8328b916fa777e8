"""What the running kernel has in memory: told truly, and exchanged only where that is asked for and nothing uses it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ground import privateroot
from ground.command import run
from guest import Ran, run_inside
from server import Server, modinfo, write_source

pytestmark = pytest.mark.vm

CODE = """\
#include <linux/module.h>
#include <linux/delay.h>
#include <linux/etherdevice.h>
#include <linux/miscdevice.h>
#include <linux/platform_device.h>
static int number;
module_param(number, int, 0444);
{body}
static int __init start(void)
{{
	pr_info("{name}: {about}, number %d\\n", number);
	{start}
}}
module_init(start);
{leave}
{version}
MODULE_LICENSE("GPL");
"""
LEAVE = "static void __exit leave(void) {{ {} }}\nmodule_exit(leave);"
DEVICE = """\
static const struct file_operations operations = { .owner = THIS_MODULE };
static struct miscdevice device = { .minor = MISC_DYNAMIC_MINOR, .name = KBUILD_MODNAME, .fops = &operations };
"""
INTERFACE = """\
static struct platform_device *device;
static netdev_tx_t transmit(struct sk_buff *skb, struct net_device *dev)
{
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}
static const struct net_device_ops operations = { .ndo_start_xmit = transmit };
static int probe(struct platform_device *pdev)
{
	struct net_device *dev = alloc_etherdev(0);

	dev->netdev_ops = &operations;
	strcpy(dev->name, "net0");
	eth_hw_addr_random(dev);
	SET_NETDEV_DEV(dev, &pdev->dev);
	platform_set_drvdata(pdev, dev);
	return register_netdev(dev);
}
static int leave_device(struct platform_device *pdev)
{
	unregister_netdev(platform_get_drvdata(pdev));
	free_netdev(platform_get_drvdata(pdev));
	return 0;
}
static struct platform_driver driver = { .probe = probe, .remove = leave_device, .driver.name = KBUILD_MODNAME };
"""
SIZED = "static char sized[CONFIG_SIZE];\nmodule_param_string(sized, sized, sizeof(sized), 0444);"
JOIN = """\
device = platform_device_register_simple(KBUILD_MODNAME, -1, NULL, 0);
	return platform_driver_register(&driver);"""
PART = "platform_driver_unregister(&driver); platform_device_unregister(device);"


@dataclass(frozen=True)
class Driver:
    """A module. body, start and leave are C; new_start is start in the newer source, about a text in either."""

    body: str = ""
    start: str = "return 0;"
    leave: str = LEAVE.format("")
    new_start: str = ""
    about: tuple[str, str] = ("old", "new")
    version: str = 'MODULE_VERSION("1");'
    depends: tuple[str, ...] = ()
    reload: str = "if-unused"
    load: str = ""
    size: tuple[int, int] = (1, 1)  # a value of build.config, older and newer


def exporting(name: str) -> str:
    return f"int {name}_value(void);\nint {name}_value(void) {{ return 1; }}\nEXPORT_SYMBOL_GPL({name}_value);"


def using(name: str) -> dict[str, Any]:
    return {"body": f"int {name}_value(void);", "start": f"return {name}_value() - 1;", "depends": (name,)}


#: In the order in which the old ones are loaded.
DRIVERS = {
    "a_slow": Driver(leave=LEAVE.format("msleep(6000);")),
    "plain": Driver(load='options = { plain = "number=7" }\n'),
    "bare": Driver(version=""),
    "never": Driver(reload="never"),
    "option": Driver(SIZED, about=("same", "same"), size=(1, 2)),
    "same": Driver(about=("same", "same")),
    "provider": Driver(exporting("provider")),
    "consumer": Driver(**using("provider")),
    "base": Driver(exporting("base")),
    "foreign": Driver(**using("base")),  # unregistered before the newer sources come
    "busy": Driver(DEVICE, "return misc_register(&device);", LEAVE.format("misc_deregister(&device);")),
    "ether": Driver(INTERFACE, JOIN, LEAVE.format(PART)),
    "permanent": Driver(leave=""),
    "broken": Driver(new_start="return -ENODEV;"),
    "absent": Driver(),
}
LOADED = [name for name in DRIVERS if name != "absent"]
OWN = [name for name in DRIVERS if name != "foreign"]
FACTS = "; ".join(
    [
        f"for name in {' '.join(DRIVERS)}",
        "do [ -d /sys/module/$name ] || continue",
        "printf '%s ' $name",
        "printf '%s ' $(tail -c +17 /sys/module/$name/notes/.note.gnu.build-id | hexdump -v -e '1/1 \"%02x\"')",
        "echo $(cat /sys/module/$name/srcversion 2>/dev/null || echo -) $(cat /sys/module/$name/parameters/number)",
        "done",
    ]
)
KILLED = """\
kmoddctl sync & pid=$!
until grep -q '^a_slow .*Unloading' /proc/modules; do sleep 0.1; done
kill -9 $pid; wait
until ! grep -q '^a_slow ' /proc/modules; do sleep 0.1; done
kmoddctl status"""
RELEASED = """\
printf '[retry]\\nlongest = "3s"\\n' >/etc/kmodd/kmodd.toml
kmodd 2>/tmp/log & pid=$!
until grep -q 'kernel not ready' /tmp/log; do sleep 0.1; done
kill $(cat /tmp/holder); ip link set dev net0 down; rmmod foreign
until [ "$(grep -c 'module reloaded' /tmp/log)" = 3 ]; do sleep 0.1; done
kill $pid; wait $pid; code=$?
cat /tmp/log; exit $code"""
SESSION = {
    "load": "set -e; for name in "
    + " ".join(LOADED)
    + "; do insmod /old/$name.ko number=3; done; ip link set dev net0 up; "
    "sleep 1000 </dev/busy >/dev/null 2>&1 & echo $! >/tmp/holder; /usr/bin/depmod",
    "before": FACTS,
    "stale": "kmoddctl status --json",
    "plan": "kmoddctl plan --json",
    "killed": KILLED,
    # as in kmodd.service: a network of its own
    "sync": "unshare -n -m sh -c 'mount -t sysfs sys /sys && exec kmoddctl sync --verbose --json'",
    "networks": "unshare -n -m sh -c 'mount -t sysfs sys /sys && ls /sys/class/net'; ls /sys/class/net",
    "after": FACTS,
    "released": RELEASED,
    "last": FACTS,
    "end": "kmoddctl status --json",
}


@dataclass(frozen=True)
class Facts:
    """Of an object in memory, or on disk."""

    build_id: str
    srcversion: str


class Found:
    """What the session yielded, and what was installed."""

    def __init__(self, ran: dict[str, Ran], old: dict[str, Facts], new: dict[str, Facts]) -> None:
        self.ran, self.old, self.new = ran, old, new

    def facts(self, step: str) -> dict[str, Facts]:
        """Return what was in memory."""
        words = [line.split() for line in self.ran[step].stdout.splitlines()]
        return {name: Facts(build_id, srcversion) for name, build_id, srcversion, _ in words}

    def number(self, step: str, name: str) -> int:
        """Return the value of an object's parameter."""
        (found,) = [line.split() for line in self.ran[step].stdout.splitlines() if line.startswith(f"{name} ")]
        return int(found[3])

    def target(self, step: str, name: str) -> dict[str, Any]:
        """Return a target of a status."""
        document = json.loads(self.ran[step].stdout)
        (found,) = [dict(target) for target in document["targets"] if target["module"] == name]
        return found

    def memory(self, step: str) -> dict[str, str]:
        """Return name -> what the status says of it."""
        return {name: self.target(step, name)["objects"][0]["in_memory"] for name in OWN}

    def actions(self, step: str) -> list[dict[str, Any]]:
        return list(json.loads(self.ran[step].stdout)["actions"])


def write(server: Server, new: bool) -> None:
    """Write the older or newer source and module file of every driver, the latter no longer for the foreign one."""
    registry = server.root / "etc/kmodd/modules.d"
    registry.mkdir(parents=True, exist_ok=True)
    for name, driver in DRIVERS.items():
        depends = json.dumps(list(driver.depends))
        (registry / f"{name}.toml").write_text(
            f'[source]\npath = "/usr/src/{name}"\n[build]\ndepends = {depends}\n'
            f"config = {{ CONFIG_SIZE = {driver.size[new]} }}\n"
            f'[load]\nreload = "{driver.reload}"\n{driver.load}'
        )
        directory = server.root / "usr/src" / name
        parts = {
            "body": driver.body,
            "start": (driver.new_start if new else "") or driver.start,
            "leave": driver.leave,
            "version": driver.version,
            "about": driver.about[new],
            "name": name,
        }
        run(["rm", "-rf", directory])
        write_source(directory, name, CODE.format(**parts))
    if new:
        (registry / "foreign.toml").unlink()


def facts_of(server: Server, name: str) -> Facts:
    """Return what an installed object says of itself, by the tools of binutils and kmod."""
    path = server.object(name, server.releases[0])
    found = re.search(r"Build ID: (\w+)", run(["readelf", "-n", path]))
    assert found is not None
    return Facts(found[1], modinfo(path, "srcversion") or "-")


@pytest.fixture(scope="module")
def found() -> Iterator[Found]:
    with tempfile.TemporaryDirectory(prefix="reload.", dir=privateroot.find_scratch(2048)) as top:
        server = Server(Path(top), 1)
        write(server, new=False)
        server.sync()
        old = {name: facts_of(server, name) for name in DRIVERS}
        files = {f"/old/{name}.ko": server.unsigned(name) for name in DRIVERS}
        write(server, new=True)
        server.sync()
        new = {name: facts_of(server, name) for name in OWN}
        ran = run_inside(server.root, server.releases[0], list(SESSION.values()), server.top / "boot", files)
        yield Found(dict(zip(SESSION, ran)), old, new)


def test_session_went_as_it_was_meant(found: Found) -> None:
    assert (found.ran["load"].exit, found.ran["load"].stderr) == (0, "")
    assert found.facts("before") == {name: found.old[name] for name in LOADED}
    assert {name for name in OWN if found.old[name].build_id == found.new[name].build_id} == {"same"}
    assert found.ran["networks"].stdout.split() == ["lo", "lo", "net0"]
    assert all("Traceback" not in step.stderr for step in found.ran.values())


def test_what_is_in_memory_as_it_was_before_is_told(found: Found) -> None:
    expected = dict.fromkeys(OWN, "stale") | {"same": "current", "absent": "absent"}
    assert found.memory("stale") == expected
    for name in OWN:
        target = found.target("stale", name)
        assert target["verdict"] == "ready", target["reason"]
        assert (target["stale_in_memory"] is not None) == (expected[name] == "stale")


def test_plan_names_users_before_what_they_use_and_leaves_out_what_must_stay(found: Found) -> None:
    reloads = {a["target"]["module"]: a["objects"] for a in found.actions("plan") if a["action"] == "ReloadModule"}
    assert reloads == {
        "a_slow": ["a_slow"],
        "bare": ["bare"],
        "broken": ["broken"],
        "consumer": ["consumer", "provider"],
        "option": ["option"],
        "plain": ["plain"],
    }
    waits = {a["target"]["module"]: a["problem"] for a in found.actions("plan") if a["action"] == "Wait"}
    assert waits == dict.fromkeys(("base", "busy", "ether"), "module-in-use")


def test_reload_that_was_killed_is_finished_by_the_next_look(found: Found) -> None:
    assert "a_slow was unloaded to be reloaded, and is not back yet" in " ".join(found.ran["killed"].stdout.split())
    assert found.facts("after")["a_slow"] == found.new["a_slow"]


@pytest.mark.parametrize("name", ["plain", "bare", "option", "provider", "consumer"])
def test_unused_object_is_exchanged_for_the_installed_one(found: Found, name: str) -> None:
    assert found.facts("after")[name] == found.new[name]
    target = found.target("sync", name)
    assert (target["objects"][0]["in_memory"], target["stale_in_memory"]) == ("current", None)


def test_object_is_loaded_with_its_options(found: Found) -> None:
    assert (found.number("before", "plain"), found.number("after", "plain")) == (3, 7)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("never", 'reload = "if-unused"'),
        ("base", "foreign, which is not of kmodd, uses it"),
        ("busy", "busy is in use (1 reference)"),
        ("ether", "ether drives net0, which is up"),
        ("permanent", "permanent cannot be unloaded"),
    ],
)
def test_object_stays_and_the_status_says_why(found: Found, name: str, why: str) -> None:
    assert found.facts("after")[name] == found.old[name]
    target = found.target("sync", name)
    assert (target["verdict"], target["objects"][0]["in_memory"]) == ("ready", "stale")
    assert why in target["stale_in_memory"]["reason"] + target["stale_in_memory"]["hint"]
    assert f"still has the old {name}" in " ".join(found.ran["killed"].stdout.split())


def test_another_option_of_the_compiler_makes_another_object_of_the_same_source(found: Found) -> None:
    old, new = found.old["option"], found.new["option"]
    assert old.srcversion == new.srcversion and old.build_id != new.build_id


def test_what_was_not_in_memory_is_not_loaded(found: Found) -> None:
    assert "absent" not in found.facts("last")
    assert found.target("end", "absent")["objects"][0]["in_memory"] == "absent"


def test_object_that_the_kernel_refuses_is_blocked_loudly_and_not_tried_again(found: Found) -> None:
    assert "broken" not in found.facts("after")
    target = found.target("sync", "broken")
    assert (target["verdict"], target["problem"]) == ("blocked", "reload-failed")
    assert "No such device" in target["reason"]
    assert found.ran["sync"].exit == 4
    assert "reload failed" in found.ran["sync"].stderr and "reload-failed" in found.ran["sync"].stderr
    assert "broken: new" in found.ran["sync"].messages and "broken" not in found.ran["released"].messages


def test_unchanged_object_is_left_alone(found: Found) -> None:
    assert found.number("last", "same") == 3


def test_daemon_exchanges_an_object_once_it_is_no_longer_used(found: Found) -> None:
    assert found.ran["released"].exit == 0, found.ran["released"]
    assert {name: found.facts("last")[name] for name in ("base", "busy", "ether")} == {
        name: found.new[name] for name in ("base", "busy", "ether")
    }
