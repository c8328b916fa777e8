#!/usr/bin/env python3
"""Writes the completions of kmoddctl for bash, zsh and fish from its parser: generate.py [DIRECTORY]

Run it after a change of a command or an option. What depends on the host is asked of `kmoddctl --complete`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kmodd import ctl

#: What an argument is by its dest: a kind of `kmoddctl --complete`, files or directories.
KINDS = {
    "module": "modules", "kernel": "kernels", "attempt": "attempts", "file": "files", "root": "directories",
    "path": "directories", "paths": "files", "places": "directories", "password_file": "files",
}  # fmt: skip
HEADER = "# Made by packaging/completion/generate.py from kmoddctl's parser; edits are lost.\n"


@dataclass(frozen=True)
class Option:
    names: tuple[str, ...]
    help: str
    takes: bool  # an argument
    kind: str  # of the argument, "" where nothing is known of it
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """words: the command and its verb, () for kmoddctl itself."""

    words: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    first: tuple[str, ...]  # choices of its first positional argument, () where it has no choices
    kind: str  # of its positional argument, of the one behind these choices where there are some
    verbs: tuple[tuple[str, str], ...]  # name and help


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = (), text: str = "") -> Iterator[Command]:
    """Yield a parser as a command, and all below it."""
    options, first, kind, below = [], (), "", {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            below = {name: (child, texts.get(name, "")) for name, child in action.choices.items()}
        elif action.option_strings:
            takes = action.nargs != 0
            choices = tuple(map(str, action.choices or ()))
            names = tuple(action.option_strings)
            options.append(Option(names, action.help or "", takes, KINDS.get(action.dest, ""), choices))
        elif action.choices:
            first = tuple(map(str, action.choices))
        else:
            kind = KINDS[action.dest]
    yield Command(words, text, tuple(options), first, kind, tuple((n, t) for n, (_, t) in below.items()))
    for name, (child, help) in below.items():
        yield from commands(child, (*words, name), help)


# -- bash ------------------------------------------------------------------------------------------------------------
BASH = """\
{header}
_kmoddctl_names() {{
    COMPREPLY=($(compgen -W "$(kmoddctl --complete "$@" 2>/dev/null)" -- "$cur"))
}}

_kmoddctl() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} command="" module="" word i
    local -a root=()
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        case $word in
        --root)
            ((i + 1 < COMP_CWORD)) && root=(--root "${{COMP_WORDS[i + 1]}}")
            i=$((i + 1))
            ;;
        {taking}) i=$((i + 1)) ;;
        -*) ;;
        *)
            case $command in
            "") command=$word ;;
            {groups}) command="$command $word" ;;
            *) module=$word ;;
            esac
            ;;
        esac
    done
    ((i > COMP_CWORD)) || prev=""
    case $command:$prev in
{values}    esac
    case $cur in
    -*)
        case $command in
{options}        esac
        return
        ;;
    esac
    case $command in
{positionals}    esac
}}

complete -F _kmoddctl kmoddctl
"""


def _bash_names(kind: str) -> str:
    if kind in ("directories", "files"):
        flags = "-d" if kind == "directories" else "-f"
        return f'compopt -o filenames; COMPREPLY=($(compgen {flags} -- "$cur"))'
    module = ' "$module"' if kind == "attempts" else ""
    return f'_kmoddctl_names {kind}{module} "${{root[@]}}"'


def bash(found: list[Command]) -> str:
    taking = sorted({n for c in found for o in c.options if o.takes for n in o.names if n != "--root"})
    values, options, positionals = "", "", ""
    for command in found:
        words = " ".join(command.words)
        for option in command.options:
            if option.takes:
                answer = f'COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$cur"))' if option.choices else ""
                answer = answer or (_bash_names(option.kind) if option.kind else ":")
                places = "|".join(f'"{words}:{name}"' for name in option.names)
                values += f"    {places})\n        {answer}\n        return\n        ;;\n"
        names = " ".join(name for option in command.options for name in option.names)
        options += f'        "{words}") COMPREPLY=($(compgen -W "{names}" -- "$cur")) ;;\n'
        if command.verbs:
            names = " ".join(name for name, _ in command.verbs)
            positionals += f'    "{words}") COMPREPLY=($(compgen -W "{names}" -- "$cur")) ;;\n'
        elif command.first:
            choices = f'COMPREPLY=($(compgen -W "{" ".join(command.first)}" -- "$cur"))'
            behind = _bash_names(command.kind) if command.kind else ":"
            positionals += f'    "{words}") if [[ -z $module ]]; then {choices}; else {behind}; fi ;;\n'
        elif command.kind:
            positionals += f'    "{words}") {_bash_names(command.kind)} ;;\n'
    groups = "|".join(" ".join(c.words) for c in found if c.verbs and c.words)
    return BASH.format(
        header=HEADER.rstrip(), taking="|".join(taking), groups=groups, values=values, options=options,
        positionals=positionals,
    )  # fmt: skip


# -- zsh -------------------------------------------------------------------------------------------------------------
ZSH = """\
#compdef kmoddctl
{header}
_kmoddctl_names() {{
    local -a names root
    local at=${{_kmoddctl_line[(i)--root]}}
    ((at < $#_kmoddctl_line)) && root=(--root ${{_kmoddctl_line[at + 1]}})
    names=(${{(f)"$(kmoddctl --complete $@ $root 2>/dev/null)"}})
    compadd -a names
}}

_kmoddctl() {{
    local curcontext=$curcontext state line
    local -a verbs _kmoddctl_line=($words)
    typeset -A opt_args
{body}}}

_kmoddctl "$@"
"""


def _zsh_quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:").replace("'", "'\\''")


def _zsh_kind(kind: str, choices: tuple[str, ...]) -> str:
    if choices:
        return f"({' '.join(choices)})"
    if kind in ("directories", "files"):
        return "_files -/" if kind == "directories" else "_files"
    # after a space, else _arguments would put compadd's options before the kind
    return {"attempts": " _kmoddctl_names attempts $line[1]", "": " "}.get(kind, f" _kmoddctl_names {kind}")


def _zsh_block(command: Command, found: list[Command], indent: str) -> str:
    specs = []
    for option in command.options:
        value = f":{option.names[-1].lstrip('-')}:{_zsh_kind(option.kind, option.choices)}" if option.takes else ""
        specs += [f"'{name}[{_zsh_quoted(option.help)}]{value}'" for name in option.names]
    if command.verbs:
        specs += ["'1:command:->verb'", "'*::argument:->argument'"]
    elif command.first:
        specs.append(f"'1:choice:({' '.join(command.first)})'")
        specs += [f"'*:{command.kind.rstrip('s')}:{_zsh_kind(command.kind, ())}'"] if command.kind else []
    elif command.kind:
        many = "*" if command.kind == "files" else "1"
        specs.append(f"'{many}:{command.kind.rstrip('s')}:{_zsh_kind(command.kind, ())}'")
    stop = " -A '-*'" if command.verbs else ""  # options behind a command are the command's
    text = f"{indent}_arguments -C{stop} \\\n" + " \\\n".join(f"{indent}    {spec}" for spec in specs) + "\n"
    if not command.verbs:
        return text
    verbs = "".join(f"{indent}        '{name}:{_zsh_quoted(help)}'\n" for name, help in command.verbs)
    text += f"{indent}case $state in\n{indent}verb)\n{indent}    verbs=(\n{verbs}{indent}    )\n"
    text += f"{indent}    _describe command verbs\n{indent}    ;;\n{indent}argument)\n{indent}    case $words[1] in\n"
    for name, _ in command.verbs:
        child = next(one for one in found if one.words == (*command.words, name))
        text += f"{indent}    {name})\n{_zsh_block(child, found, indent + ' ' * 8)}{indent}        ;;\n"
    return text + f"{indent}    esac\n{indent}    ;;\n{indent}esac\n"


def zsh(found: list[Command]) -> str:
    return ZSH.format(header=HEADER.rstrip(), body=_zsh_block(found[0], found, "    "))


# -- fish ------------------------------------------------------------------------------------------------------------
FISH = """\
{header}
# The words before the cursor that are neither options nor their arguments, kmoddctl itself left out.
function __kmoddctl_words
    set -l skip no
    for word in (commandline -opc)[2..-1]
        if test $skip = yes
            set skip no
        else if contains -- $word {taking}
            set skip yes
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end

# Whether the command is this one, with at most so many arguments behind it.
function __kmoddctl_is
    set -l words (__kmoddctl_words)
    set -l command (string split ' ' -- $argv[1])
    set -l length (count $command)
    test (count $words) -ge $length; or return 1
    test (count $words) -le (math $length + $argv[2]); or return 1
    test "$words[1..$length]" = "$command"
end

function __kmoddctl_names
    set -l line (commandline -opc)
    set -l root
    if set -l at (contains -i -- --root $line)
        set root --root $line[(math $at + 1)]
    end
    kmoddctl --complete $argv $root 2>/dev/null
end

complete -c kmoddctl -f
{lines}"""


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_kind(kind: str, choices: tuple[str, ...]) -> str:
    if choices:
        return f" -xa {_fish_quoted(' '.join(choices))}"
    if kind == "directories":
        return " -xa '(__fish_complete_directories)'"
    if kind == "files":
        return " -rF"
    if kind == "attempts":
        return " -xa '(__kmoddctl_names attempts (__kmoddctl_words)[2])'"
    return f" -xa '(__kmoddctl_names {kind})'" if kind else " -x"


def fish(found: list[Command]) -> str:
    lines = ""
    taking = sorted({n for c in found for o in c.options if o.takes for n in o.names})
    for command in found:
        words = " ".join(command.words)
        there = f"-n '__kmoddctl_is \"{words}\" 9'" if words else "-n 'not count (__kmoddctl_words) >/dev/null'"
        for option in command.options:
            names = "".join(f" -l {n[2:]}" if n.startswith("--") else f" -s {n[1:]}" for n in option.names)
            value = _fish_kind(option.kind, option.choices) if option.takes else ""
            lines += f"complete -c kmoddctl {there}{names}{value} -d {_fish_quoted(option.help)}\n"
        here = f"-n '__kmoddctl_is \"{words}\" 0'" if words else there
        for name, help in command.verbs:
            lines += f"complete -c kmoddctl {here} -a {name} -d {_fish_quoted(help)}\n"
        for name in command.first:
            lines += f"complete -c kmoddctl {here} -a {name}\n"
            behind = f"-n '__kmoddctl_is \"{words} {name}\" 9'"
            lines += f"complete -c kmoddctl {behind}{_fish_kind(command.kind, ()).replace(' -xa', ' -a')}\n"
        if command.kind and not command.first:
            lines += f"complete -c kmoddctl {here}{_fish_kind(command.kind, ()).replace(' -xa', ' -a')}\n"
    return FISH.format(header=HEADER.rstrip(), taking=" ".join(taking), lines=lines)


FILES = {"kmoddctl.bash": bash, "_kmoddctl": zsh, "kmoddctl.fish": fish}


def main() -> None:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    found = list(commands(ctl.make_parser()))
    for name, write in FILES.items():
        (directory / name).write_text(write(found))


if __name__ == "__main__":
    main()
