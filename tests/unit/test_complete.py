"""What shells complete: scripts that know all commands, and names that are printed at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "packaging/completion"


def test_scripts_are_those_of_the_parser(tmp_path: Path) -> None:
    """A failure here means: run packaging/completion/generate.py."""
    subprocess.run([sys.executable, SCRIPTS / "generate.py", tmp_path], check=True)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {name: (SCRIPTS / name).read_text() for name in made} == made


def test_names_that_cannot_be_told_are_no_error(tmp_path: Path) -> None:
    for words in (["modules"], ["kernels"], ["attempts"], ["attempts", "x"], ["nonsense"], []):
        argv = [sys.executable, "-m", "kmodd.ctl", "--complete", *words, "--root", str(tmp_path)]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", "")


def test_names_are_told_without_heavy_imports(tmp_path: Path) -> None:
    registry = tmp_path / "etc/kmodd/modules.d"
    registry.mkdir(parents=True)
    (registry / "hello.toml").write_text('[source]\npath = "/x"\n')
    (registry / "nvme.toml").write_text('[module]\n# its own\nname = "nvme_x"\n[source]\npath = "/x"\n')
    code = (
        "import sys; from kmodd.ctl import main; main(['--complete', 'modules', '--root', sys.argv[1]]);"
        "print([n for n in ('pydantic', 'asyncio', 'structlog', 'tomllib', 'argparse') if n in sys.modules][:-1])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.stdout.split("\n") == ["hello", "nvme_x", "[]", ""]
