"""A slip on the command line is answered with what may have been meant, and with the usage of the command itself."""

from __future__ import annotations

import pytest

from kmodd import ctl

SLIPS = {
    "show": (["show"], "'show' is not a command; did you mean 'key show'?", "kmoddctl [-h]"),
    "statsu": (["statsu"], "'statsu' is not a command; did you mean 'status'?", "kmoddctl [-h]"),
    "xyzzy": (["xyzzy"], "'xyzzy' is not a command\n", "kmoddctl [-h]"),
    "key shw": (["key", "shw"], "'shw' is not a command; did you mean 'show'?", "kmoddctl key [-h]"),
    "import akmods": (["import", "akmods", "x"], "tool is one of dkms, not 'akmods'\n", "kmoddctl import [-h]"),
    "algorithm": (
        ["key", "generate", "--algorithm", "rsaa"],
        "--algorithm is one of rsa, ecdsa, not 'rsaa'; did you mean 'rsa'?",
        "kmoddctl key generate [-h]",
    ),
    "option": (["status", "--kernal=6.1"], "arguments: --kernal=6.1; did you mean '--kernel'?", "kmoddctl status [-h]"),
    "option of a verb": (["key", "rotate", "--nwo"], "--nwo; did you mean '--now'?", "kmoddctl key rotate [-h]"),
    "word too many": (["plan", "alpha"], "unrecognized arguments: alpha\n", "kmoddctl plan [-h]"),
    "option of none": (["--frobnicate"], "unrecognized arguments: --frobnicate", "kmoddctl [-h]"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slip_is_answered_with_what_was_meant(slip: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, said, usage = SLIPS[slip]
    with pytest.raises(SystemExit) as caught:
        ctl._parse(words)
    told = capsys.readouterr().err
    assert caught.value.code == ctl.USAGE
    assert said in told and told.startswith(f"usage: {usage}"), told


def test_option_before_and_after_the_command_is_the_same() -> None:
    for words in (["--root", "/nowhere", "status"], ["status", "--root", "/nowhere"]):
        assert ctl.make_parser().parse_args(words).root == "/nowhere"
