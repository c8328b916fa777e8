"""The bash program that reads a dkms.conf and says what is in it: a field, then a NUL, three fields a value.

Its arguments: mark, conf, release, architecture, build tree, module, version, then the overrides' directory.
"""

from __future__ import annotations

from ..core.recipe import DKMS_TREE
from .answer import ARRAYS, PATTERNS, SCALARS, SETTER, TAMPERED

#: What a conf has no business to be a function of, and what another program would inherit to its harm.
TRUSTED = (
    "builtin", "command", "declare", "enable", "eval", "exec", "exit", "export", "hash", "local", "printf", "read",
    "return", "set", "shift", "source", "test", "trap", "unset",
)  # fmt: skip
INHERITED = ("LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "BASH_ENV")

#: It is one compound command, which bash has read before the conf can define an alias. Variables that the conf may use
#: have DKMS's names, others a prefix. From POSIXLY_CORRECT on, special builtins win over functions of the conf.
#: What it did to the shell is printed first: in POSIX mode export is the shell's own, and knows functions from others.
#: An element is expanded once more, as DKMS does, unless it holds quotation marks, which DKMS loses.
SCRIPT = f"""\
{{
    __kmodd_mark=$1 __kmodd_conf=$2 kernelver=$3 arch=$4 kernel_source_dir=$5 module=$6 module_version=$7
    __kmodd_more=$8 dkms_tree={DKMS_TREE} source_tree=/usr/src install_tree=/lib/modules tmp_location=/tmp
    kernel_config=$kernel_source_dir/.config parallel_jobs=$(nproc) __kmodd_release=$3 __kmodd_arch=$4
    set --
    exec {{__kmodd_out}}>&1 >/dev/null
    . "$__kmodd_conf"
    module=$PACKAGE_NAME module_version=$PACKAGE_VERSION
    module=${{module%$'\\r'}} module_version=${{module_version%$'\\r'}}
    for __kmodd_name in "$module" "$module-$module_version" "$module-$module_version-$__kmodd_release" \\
        "$module-$module_version-$__kmodd_release-$__kmodd_arch" "$module--$__kmodd_release" \\
        "$module--$__kmodd_release-$__kmodd_arch"
    do
        if [[ -n $module && -e $__kmodd_more/$__kmodd_name.conf ]]; then . "$__kmodd_more/$__kmodd_name.conf"; fi
    done
    POSIXLY_CORRECT=1
    __kmodd_text=
    for __kmodd_key in {" ".join(TRUSTED)}; do
        export -f -- "$__kmodd_key" 2>/dev/null && __kmodd_text+=" $__kmodd_key()"
    done
    for __kmodd_key in {" ".join(INHERITED)}; do
        if [[ -v $__kmodd_key ]]; then __kmodd_text+=" $__kmodd_key"; fi
    done
    if [[ $(trap -p DEBUG RETURN ERR) == *"'"* ]]; then __kmodd_text+=" trap"; fi
    unset -f enable eval exec hash printf set trap unset
    enable eval exec hash printf set trap unset
    hash -r
    trap - DEBUG RETURN ERR EXIT
    set +eux
    set +o posix
    exec 2>/dev/null
    printf '\\0%s\\0' "$__kmodd_mark" >&"$__kmodd_out"
    printf '{TAMPERED}\\0000\\0%s\\0' "$__kmodd_text" >&"$__kmodd_out"
    for __kmodd_name in "${{!{SETTER}@}}"; do
        printf '{SETTER}\\0000\\0%s\\0' "$__kmodd_name" >&"$__kmodd_out"
    done
    for __kmodd_name in {" ".join((*SCALARS, *ARRAYS))}; do
        eval "__kmodd_keys=(\\"\\${{!$__kmodd_name[@]}}\\")"
        for __kmodd_key in "${{__kmodd_keys[@]}}"; do
            eval "__kmodd_value=\\${{$__kmodd_name[\\$__kmodd_key]}}"
            __kmodd_value=${{__kmodd_value%$'\\r'}}
            if [[ $__kmodd_value != *\\"* && $__kmodd_value == *[\\$\\`\\\\]* ]]; then
                eval "__kmodd_value=\\"$__kmodd_value\\""
            fi
            printf '%s\\0%s\\0%s\\0' "$__kmodd_name" "$__kmodd_key" "$__kmodd_value" >&"$__kmodd_out"
            __kmodd_text=
            case $__kmodd_name in
                {"|".join(n for n, what in PATTERNS.items() if what == "kernel")}) __kmodd_text=$__kmodd_release ;;
                {"|".join(n for n, what in PATTERNS.items() if what == "arch")}) __kmodd_text=$__kmodd_arch ;;
            esac
            if [[ -n $__kmodd_text && -n $__kmodd_value ]]; then
                [[ $__kmodd_text =~ $__kmodd_value ]]
                printf '~%s\\0%s\\0%s\\0' "$__kmodd_name" "$__kmodd_key" $? >&"$__kmodd_out"
            fi
        done
    done
    printf '\\0end\\0' >&"$__kmodd_out"
    exit 0
}}
"""
