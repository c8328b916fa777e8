"""What documents, man pages, the catalog and hints refer to exists: files, headings, pages, targets, commands."""

from __future__ import annotations

import argparse
import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmodd import ctl
from kmodd.core import record

TOP = Path(__file__).resolve().parents[2]
MARKDOWN = sorted(
    path
    for where in (".", "docs", "docs/decisions", ".github")
    for path in (TOP / where).glob("*.md")
    if path.is_file()
)
FORMS = sorted((TOP / ".github").rglob("*.yml"))
MAN = sorted((TOP / "packaging/man").iterdir())
UNITS = sorted((TOP / "systemd").iterdir())
CODE = sorted((TOP / "kmodd").rglob("*.py"))
OTHERS = [
    TOP / "NEWS",
    TOP / "etc/kmodd.toml",
    TOP / "packaging/kmodd.spec",
    *sorted((TOP / "docs/examples").iterdir()),
]

#: The pages of others that ours refer to. A new one goes here, once somebody has looked whether it has that section.
FOREIGN = {
    "bash(1)", "bwrap(1)", "capabilities(7)", "chroot(2)", "chroot(8)", "cms(1)", "cpio(5)", "cron(8)", "depmod(8)",
    "depmod.d(5)", "dnf(8)", "dracut(8)", "elf(5)", "fcntl(2)", "glob(7)", "grub2-editenv(1)", "kernel-install(8)",
    "keyctl(1)", "kmod(8)", "loader.conf(5)", "modprobe(8)", "modprobe.d(5)", "modules-load.d(5)", "mokutil(1)",
    "os-release(5)", "ostree-prepare-root(1)", "pam_motd(8)", "patch(1)", "proc(5)", "proc_mounts(5)", "regex(7)",
    "restorecon(8)", "rpm(8)", "rpm-version(7)", "rpmbuild(8)", "rpmkeys(8)", "sd-daemon(3)", "sd_booted(3)",
    "sd_listen_fds(3)", "sd_notify(3)", "selinux(8)", "seteuid(2)", "setfsuid(2)", "setpriv(1)", "setrlimit(2)",
    "sh(1)", "sha256sum(1)", "sort(1)", "strip(1)", "systemd(1)", "systemd-escape(1)",
    "systemd-modules-load.service(8)", "systemd.exec(5)", "systemd.journal-fields(7)", "systemd.service(5)",
    "systemd.unit(5)", "sysusers.d(5)", "tmpfiles.d(5)", "unix(7)", "update-crypto-policies(8)", "varlinkctl(1)",
}  # fmt: skip
PAGE = re.compile(r"(?<![\w.])([A-Za-z_][\w.@-]*\([1-8]\))")
REFERENCE = re.compile(r"^\.(?:Xr|Pq Xr|.* Xr) (\S+) ([1-8])\b", re.MULTILINE)
DIRECTORIES = "(?:bench|docs|etc|kmodd|packaging|systemd|tests|\\.github)"


def ids(path: Path) -> str:
    return path.relative_to(TOP).as_posix()


def texts(path: Path) -> Iterator[str]:
    """Yield what of a file people read: all of it, or the strings and docstrings of code."""
    if path.suffix != ".py":
        yield path.read_text()
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def code_of(text: str) -> Iterator[str]:
    """Yield the lines of code blocks and the code spans of Markdown."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    plain = re.sub(r"^```[^\n]*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for block in fenced:
        yield from block.splitlines()
    yield from re.findall(r"^    (\S.*)$", plain, re.MULTILINE)
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", plain))


def headings(text: str) -> set[str]:
    """Return the anchors that a Markdown file has on GitHub."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def pages() -> set[str]:
    return {f"{path.name.rpartition('.')[0]}({path.suffix[1:]})" for path in MAN}


@pytest.mark.parametrize("path", MARKDOWN, ids=ids)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), link
        assert not anchor or anchor in headings(there.read_text()), link


@pytest.mark.parametrize("path", [*MARKDOWN, *FORMS, *MAN, *UNITS, *CODE, *OTHERS], ids=ids)
def test_man_pages_that_are_named_exist(path: Path) -> None:
    named = {page for text in texts(path) for page in PAGE.findall(text)}
    named |= {f"{name}({number})" for name, number in REFERENCE.findall(path.read_text()) if path in MAN}
    assert named - pages() - FOREIGN == set()


def test_no_foreign_page_is_listed_in_vain() -> None:
    every = "\n".join(path.read_text() for path in [*MARKDOWN, *FORMS, *MAN, *UNITS, *CODE, *OTHERS])
    referred = {f"{name}({number})" for name, number in REFERENCE.findall(every)} | set(PAGE.findall(every))
    assert FOREIGN - referred == set()
    assert not FOREIGN & pages()


@pytest.mark.parametrize("path", MAN, ids=ids)
def test_sections_that_a_page_names_exist(path: Path) -> None:
    text = path.read_text()
    everywhere = {title for page in MAN for title in re.findall(r"^\.S[hs] (.*)$", page.read_text(), re.MULTILINE)}
    for title in re.findall(r"^\.Sx (.*?)(?: [.,;])?$", text, re.MULTILINE):
        assert title in everywhere, title


@pytest.mark.parametrize("path", MARKDOWN, ids=ids)
def test_files_and_make_targets_that_are_named_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), re.MULTILINE))
    for code in code_of(path.read_text()):
        made = re.match(r"(?:\$ )?make ((?:[a-z][a-z-]* ?)+)", code)
        assert not made or set(made[1].split()) <= targets, code
        for name in re.findall(rf"(?<![\w/.-])({DIRECTORIES}/[\w./*<>-]*)", code):
            assert "<" in name or list(TOP.glob(name.rstrip("/."))), f"{code}: {name}"


PROSE = {"modules"}  # what --complete is given


def commands() -> set[str]:
    """Return the commands of kmoddctl."""
    return {
        name
        for action in ctl.make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
        for name in action.choices
    }


@pytest.mark.parametrize("path", [*MARKDOWN, *FORMS, *MAN, *UNITS, *CODE], ids=ids)
def test_commands_that_are_named_exist(path: Path) -> None:
    shown = re.compile(r"(?:^|\.(?:Ql|Ic) |[`#$] |→ |`)kmoddctl (?:--\S+ (?:/\S+ )?)*([a-z][a-z-]*)", re.MULTILINE)
    found = {name for text in texts(path) for name in shown.findall(text)}
    assert found - commands() - PROSE == set()


#: Words of our own that a stranger would have to learn, for what the field calls otherwise.
DIALECT = re.compile(
    r"\bknock\w*|\bthe bell\b|\b(?:is|are|was|were|be) told\b|"
    r"\blooks? (?:again|itself|at everything)\b|\ba look\b|\buntaken\b|\btakes? notice\b|\bnobody foresaw\b",
    re.IGNORECASE,
)
#: And those that are gone from the docstrings and comments of kmodd.
GONE = re.compile(
    r"\blook(?:s|ed|ing)? at\b|\b(?:a|the|every|each|next|last|first|two) looks?\b|\bnews\b|\bmaterial\b|"
    r"\bno eyes\b|\bforesaw\b|\btaken? out\b|\bcannot be taken\b|\broom for\b|\bwho does not\b",
    re.IGNORECASE,
)
CAPTURED = ("gallery.md", "power-on.md")  # what programs printed


@pytest.mark.parametrize(
    "path",
    [path for path in [*MARKDOWN, *FORMS, *MAN, *UNITS, *OTHERS] if path.name not in CAPTURED],
    ids=ids,
)
def test_documents_use_the_words_of_the_field(path: Path) -> None:
    assert DIALECT.findall(" ".join(path.read_text().split())) == []


def comments(path: Path) -> str:
    """Return the docstrings and comments of a file, each as one line."""
    with path.open("rb") as stream:
        found = [
            token.string
            for token in tokenize.tokenize(stream.readline)
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""'))
        ]
    return "\n".join(" ".join(text.split()) for text in found)


@pytest.mark.parametrize("path", sorted((TOP / "kmodd").rglob("*.py")), ids=ids)
def test_docstrings_and_comments_use_the_words_of_the_field(path: Path) -> None:
    text = comments(path)
    assert DIALECT.findall(text) + GONE.findall(text) == []


# -- the architecture page and its decisions ---------------------------------------------------------------------------
def test_map_names_every_folder_and_nothing_else() -> None:
    text = (TOP / "ARCHITECTURE.md").read_text()
    drawn = text.partition("\n## The map\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", drawn))
    folders = {path.parent.name for path in (TOP / "kmodd").glob("*/__init__.py")}
    assert folders - named == set()
    there = {path.stem for path in [*(TOP / "kmodd").iterdir(), *(TOP / "kmodd/system").iterdir()]}
    assert named - there == set()


def test_architecture_can_be_read_at_one_sitting() -> None:
    assert len((TOP / "ARCHITECTURE.md").read_text().splitlines()) <= 120


def test_page_of_the_state_lists_what_records_hold() -> None:
    listed = set(re.findall(r"`(\w+)`", (TOP / "docs/state.md").read_text()))
    parts = [value for value in vars(record).values() if isinstance(value, type) and issubclass(value, record.Part)]
    assert {name for part in parts for name in part.model_fields} - listed - {"schema_"} == set()


def test_every_decision_is_linked_and_numbered_by_its_name() -> None:
    linked = re.findall(r"^- \[(\d{4}): (.*)\]\(docs/decisions/(.*)\)$", (TOP / "ARCHITECTURE.md").read_text(), re.M)
    found = sorted((TOP / "docs/decisions").iterdir())
    assert [name for _, _, name in linked] == [path.name for path in found]
    for number, title, name in linked:
        text = (TOP / "docs/decisions" / name).read_text()
        assert name.startswith(f"{number}-") and text.startswith(f"# {number}: {title}\n")
        assert re.search(r"^\d{4}-\d\d-\d\d", text, re.MULTILINE)


def test_every_decision_is_named_where_it_is_carried_out_and_no_other_is() -> None:
    named = {
        name
        for path in [*CODE, *UNITS, *OTHERS]
        for name in re.findall(r"\bdocs/decisions/([\w-]+\.md)", path.read_text())
    }
    assert named == {path.name for path in (TOP / "docs/decisions").iterdir()}


def test_readme_has_what_a_first_visit_wants_in_its_order() -> None:
    text = (TOP / "README.md").read_text()
    wanted = ["Requirements", "Install", "The first module", "What you then see", "Limits", "More"]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == wanted
    assert {"    make demo", "    make test"} <= set(text.splitlines()[:25])
    assert len(text.splitlines()) <= 120


def test_every_document_is_linked_from_the_readme_or_a_page_that_it_links() -> None:
    reached, left = set(), [TOP / "README.md"]
    while left:
        path = left.pop()
        reached.add(path)
        links = re.findall(r"\]\(([^)#\s]+\.md)", path.read_text())
        left += [there for link in links if (there := (path.parent / link).resolve()) not in reached and there.exists()]
    assert set(MARKDOWN) - reached == set()


def test_a_bug_is_reported_with_what_the_host_says() -> None:
    form = (TOP / ".github/ISSUE_TEMPLATE/bug.yml").read_text()
    fields = dict(re.findall(r"^    id: (\w+)\n(.*?)(?=^  - |\Z)", form, re.MULTILINE | re.DOTALL))
    asked = {"doctor": "kmoddctl doctor", "status": "kmoddctl status --json", "journal": "journalctl -t kmodd"}
    for field, command in asked.items():
        assert command in fields[field] and "required: true" in fields[field]


def test_news_are_dated_newest_first() -> None:
    text = (TOP / "NEWS").read_text()
    days = re.findall(r"^(\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    assert days and days == sorted(days, reverse=True) and len(days) == len(set(days))
    assert text.index(days[0]) < text.index("\n* ")
