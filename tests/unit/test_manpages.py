"""The man pages and the example of the settings say what the code does: they are compared with it."""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from problemcodes import made
from pydantic import BaseModel
from worlds import BROKEN, NOW, POLICY, T, broken, failed, record, settled

from kmodd import ctl, daemon
from kmodd.alert import metrics
from kmodd.alert.notifycommand import make_item
from kmodd.control import codec, feed, interface, server
from kmodd.core import messages, modulefile, tomlfile
from kmodd.core.documents.explain import explain_document
from kmodd.core.documents.status import status_document
from kmodd.core.model import Judgement, Snapshot, Verdict
from kmodd.core.planner import judge, plan
from kmodd.core.problems import TRANSIENT
from kmodd.core.record import FirstError
from kmodd.core.report import Change, make_report
from kmodd.core.settings import Settings
from kmodd.core.sysroot import Sysroot
from kmodd.daemon import methods as methods_of_daemon
from kmodd.dkms import answer
from kmodd.kbuild.logfiles import LogReader

TOP = Path(__file__).resolve().parents[2]
PAGES = sorted((TOP / "packaging/man").glob("*.[578]"))


def page(name: str) -> str:
    return (TOP / "packaging/man" / name).read_text()


def section(text: str, title: str) -> str:
    """Return a .Sh section of a page."""
    return text.partition(f"\n.Sh {title}\n")[2].partition("\n.Sh ")[0]


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options and commands of a parser and of its commands."""
    for action in parser._actions:
        yield from (text for text in action.option_strings if text.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield name
                yield from options(command)


def keys(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def test_checks_are_those_of_the_code_and_tell_their_outcomes() -> None:
    text = section(page("kmoddctl.8"), "CHECKS")
    code = "".join(
        path.read_text() for part in ("verify", "reconcile") for path in (TOP / "kmodd" / part).rglob("*.py")
    )
    named = {"content", *re.findall(r'(?:add|add_doubts|attempt|interrupt)\(\s*"([a-z-]+)"', code)}
    named.update(re.findall(r'Check\([^,()]+, "([a-z-]+)"', code))
    told = {words.split()[0]: words for words in text.split("\n.It ")[1:]}
    assert set(told) == named
    assert all("\nFails: " in words for name, words in told.items() if name != "dependants")


def test_problems_are_those_of_the_code_and_say_when_they_are_tried_again() -> None:
    text = section(page("kmodd.problems.7"), "PROBLEMS")
    listed = dict(re.findall(r"^\.It ([a-z-]+) Pq (retried|on change|warning|command)$", text, re.MULTILINE))
    assert list(listed) == sorted(listed)
    assert len(listed) == text.count("\n.It ")
    assert set(listed) == made() == set(TRANSIENT)
    transient = {code for code, again in listed.items() if again == "retried"}
    asked_again = {code for code, again in listed.items() if again == "command"}
    assert transient - asked_again == {code for code in TRANSIENT if TRANSIENT[code]} - asked_again


def test_socket_page_has_the_methods_errors_and_limits_of_the_code() -> None:
    text = page("io.kmodd.Manager.7")
    methods = re.findall(r"^\.It Sy (\w+) Ns", section(text, "METHODS"), re.MULTILINE)
    assert [f"{interface.MANAGER}.{name}" for name in methods] == [
        name for name in interface.METHODS if name.startswith(interface.MANAGER)
    ]
    errors = re.findall(r"^\.It Sy (\S+)$", section(text, "ERRORS"), re.MULTILINE)
    defined = {
        f"{name}.{error}"
        for name, described in interface.TEXTS.items()
        for error in re.findall(r"^error (\w+)", described, re.MULTILINE)
    }
    assert set(errors) == defined and len(errors) == len(defined)
    events = re.search(r"^type EventKind \((.*)\)$", interface.TEXTS[interface.MANAGER], re.MULTILINE)
    assert events and re.findall(r"^\.It ([a-z]+)$", section(text, "METHODS"), re.MULTILINE) == events[1].split(", ")
    bounds = (codec.LIMIT, int(server.STALL), server.OF_ONE_USER, server.MOST_CONNECTIONS, server.FOR_ROOT)
    assert [int(number) for number in re.findall(r"\d+", section(text, "LIMITS"))] == list(bounds)
    assert f"\n{feed.MOST_EVENTS} events" in text
    assert f"the last {methods_of_daemon.TAIL >> 10} KiB" in text
    waits = (f"{methods_of_daemon.MOMENT:.0f} second", f"{methods_of_daemon.PATIENCE:.0f} seconds")
    assert all(wait in section(text, "DESCRIPTION") for wait in waits)


@pytest.mark.parametrize(
    ("name", "parser"),
    [("kmodd.8", daemon.make_parser()), ("kmoddctl.8", ctl.make_parser())],
    ids=["kmodd", "kmoddctl"],
)
def test_options_and_commands_are_those_of_the_parser(name: str, parser: argparse.ArgumentParser) -> None:
    text = page(name)
    wanted = set(options(parser))
    listed = section(text, "OPTIONS")
    for word in sorted(wanted):
        if word.startswith("--"):
            assert re.search(rf"^\.It .*Fl Fl {word[2:]}\b", listed, re.MULTILINE), word
        else:
            assert re.search(rf"^\.(It )?Cm (key )?{word}\b", text, re.MULTILINE), word
    assert {f"--{word}" for word in re.findall(r"Fl Fl ([a-z-]+)", text)} <= wanted


TABLES = {
    ("kmodd.toml.5", f"[{name}]"): keys(field.annotation)  # type: ignore[arg-type]
    for name, field in Settings.model_fields.items()
} | {
    ("kmodd.modules.d.5", "[module]"): keys(modulefile.ModuleTable),
    ("kmodd.modules.d.5", "[source]"): keys(modulefile.Source) | keys(modulefile.Patch),
    ("kmodd.modules.d.5", "[build]"): keys(modulefile.Build),
    ("kmodd.modules.d.5", "[[object]]"): keys(modulefile.Object),
    ("kmodd.modules.d.5", "[kernels]"): keys(modulefile.Kernels),
    ("kmodd.modules.d.5", "[load]"): keys(modulefile.Load),
}


@pytest.mark.parametrize(("place", "wanted"), TABLES.items(), ids=[title for _, title in TABLES])
def test_keys_are_those_of_the_models(place: tuple[str, str], wanted: set[str]) -> None:
    assert set(re.findall(r"^\.It (\w+)$", section(page(place[0]), place[1]), re.MULTILINE)) == wanted


def test_directives_of_a_dkms_conf_are_listed() -> None:
    text = section(page("kmodd.modules.d.5"), "DKMS.CONF")
    listed = {word for line in re.findall(r"^\.It Va (.*)$", text, re.MULTILINE) for word in re.findall(r"\w+", line)}
    assert {*answer.ARRAYS, *answer.SCALARS, answer.SETTER} <= listed


def test_every_table_has_its_section() -> None:
    titles = {title for name, title in TABLES if name == "kmodd.modules.d.5"}
    assert {title.strip("[]") for title in titles} == keys(modulefile.ModuleFile)


def test_messages_are_those_of_the_code() -> None:
    listed = re.findall(r"^\.It ([0-9a-f]{32})\n\.Sy (.+) :$", section(page("kmodd.8"), "MESSAGES"), re.MULTILINE)
    assert [(event, identity) for identity, event in listed] == list(messages.MESSAGE_IDS.items())
    catalog = re.findall(r"^-- ([0-9a-f]{32})$", (TOP / "systemd/kmodd.catalog").read_text(), re.MULTILINE)
    assert catalog == list(messages.MESSAGE_IDS.values())
    assert len(set(catalog)) == len(catalog)


def test_metrics_are_those_of_the_code() -> None:
    assert re.findall(r"^\.It (kmodd_\w+)", section(page("kmodd.8"), "METRICS"), re.MULTILINE) == list(metrics.HELP)


def test_keys_of_the_notification_are_listed() -> None:
    change = Change("k", "m", None, Judgement(Verdict.FAILED, ""))
    keys = set(make_item(change, make_report(Snapshot(), {}, 0, None)))
    lines = re.findall(r"^\.(?:It )?Sy (.+)$", section(page("kmodd.toml.5"), "[notify]"), re.MULTILINE)
    listed = {word for line in lines for word in re.findall(r"[a-z_]+", line)}
    assert listed == keys | {"schema", "host", "time", "summary", "changes"}


def test_every_message_is_logged_somewhere() -> None:
    constants = {
        node.value
        for path in (TOP / "kmodd").rglob("*.py")
        if path.name != "messages.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    } | {f"target {verdict.value}" for verdict in Verdict}
    assert set(messages.MESSAGE_IDS) <= constants


def names(document: object) -> Iterator[str]:
    """Yield the keys of a document at all depths, but for those that inputs, sources and actions have."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield key
            if key not in ("inputs", "source", "next"):
                yield from names(value)
    for item in document if isinstance(document, list) else ():
        yield from names(item)


def test_keys_of_json_documents_are_listed(tmp_path: Path) -> None:
    error = FirstError(line="x.c:1:1: error: no", file="x.c", number=1, excerpt=("x.c:1:1: error: no",))
    attempt = failed(transient=True, log="/log").model_copy(update={"error": error})
    snapshot = settled(broken=(broken("b"),), faults={T: (BROKEN,)}, records={T: record(attempt=attempt)})
    log = tmp_path / "var/log/kmodd/m" / T.kernel / "20261121T103752-0.log"
    log.parent.mkdir(parents=True)
    log.write_text("x.c:1:1: error: no\n[kmodd: failed after 1.0 s]\n")
    logs = {T: LogReader(Sysroot(tmp_path)).story(T.module, T.kernel)}
    judgements, actions = judge(snapshot, POLICY, NOW), plan(snapshot, POLICY, NOW)
    story = explain_document("m", snapshot, judgements, actions, logs=logs)
    assert story["targets"][0]["error"] and story["targets"][0]["attempts"]
    listed = set(re.findall(r"\w+", section(page("kmoddctl.8"), "JSON")))
    assert {name for found in (status_document(snapshot, judgements), story) for name in names(found)} - listed == set()


def test_exit_codes_are_listed() -> None:
    listed = set(re.findall(r"^\.It (\d+)$", section(page("kmoddctl.8"), "EXIT STATUS"), re.MULTILINE))
    assert listed == {
        str(c) for c in (ctl.DONE, ctl.FAILED, ctl.USAGE, ctl.UNREACHABLE, ctl.NOT_READY, 130, ctl.CLOSED)
    }


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_render_without_warnings(path: Path) -> None:
    done = subprocess.run(["groff", "-ww", "-b", "-mdoc", "-Tutf8", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    eaten = [
        line for line in path.read_text().splitlines() if line.startswith((".Ql ", ".Ic ", ".Pa ")) and '"' in line
    ]
    assert eaten == []  # a double quote is mdoc's own there; \\(dq is one to be seen


def test_example_of_the_settings_shows_the_defaults() -> None:
    text = (TOP / "etc/kmodd.toml").read_text()
    plain = re.sub(r"^#(?=\[|\w+ = )", "", text, flags=re.MULTILINE)
    assert tomlfile.parse(Settings, plain) == Settings() == tomlfile.parse(Settings, text)
    shown = set(re.findall(r"^#(\w+)(?: =|:)", text, re.MULTILINE)) | set(re.findall(r"^# (\w+): ", text, re.MULTILINE))
    assert shown == {key for table in Settings().model_dump().values() for key in table}
