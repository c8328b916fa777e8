# Made by packaging/completion/generate.py from kmoddctl's parser; edits are lost.
_kmoddctl_names() {
    COMPREPLY=($(compgen -W "$(kmoddctl --complete "$@" 2>/dev/null)" -- "$cur"))
}

_kmoddctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command="" module="" word i
    local -a root=()
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
        --root)
            ((i + 1 < COMP_CWORD)) && root=(--root "${COMP_WORDS[i + 1]}")
            i=$((i + 1))
            ;;
        --algorithm|--at-boot|--attempt|--from|--kernel|--name|--password-file|--version|--wait) i=$((i + 1)) ;;
        -*) ;;
        *)
            case $command in
            "") command=$word ;;
            boot|key) command="$command $word" ;;
            *) module=$word ;;
            esac
            ;;
        esac
    done
    ((i > COMP_CWORD)) || prev=""
    case $command:$prev in
    ":--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "status:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "status:--kernel")
        _kmoddctl_names kernels "${root[@]}"
        return
        ;;
    "plan:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "logs:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "logs:--kernel")
        _kmoddctl_names kernels "${root[@]}"
        return
        ;;
    "logs:--attempt")
        _kmoddctl_names attempts "$module" "${root[@]}"
        return
        ;;
    "explain:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "explain:--kernel")
        _kmoddctl_names kernels "${root[@]}"
        return
        ;;
    "verify:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "verify:--kernel")
        _kmoddctl_names kernels "${root[@]}"
        return
        ;;
    "check:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "check:--kernel")
        _kmoddctl_names kernels "${root[@]}"
        return
        ;;
    "gate:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "gate:--kernel")
        _kmoddctl_names kernels "${root[@]}"
        return
        ;;
    "gate:--wait")
        :
        return
        ;;
    "boot:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "boot release:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "boot wait:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "boot hurry:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "load:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "watch:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "sync:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "rebuild:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "rebuild:--kernel")
        _kmoddctl_names kernels "${root[@]}"
        return
        ;;
    "reload:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "add:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "add:--name")
        :
        return
        ;;
    "add:--version")
        :
        return
        ;;
    "add:--at-boot")
        :
        return
        ;;
    "lint:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "import:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "remove:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "enable:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "disable:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "doctor:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "key:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "key generate:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "key generate:--algorithm")
        COMPREPLY=($(compgen -W "rsa ecdsa" -- "$cur"))
        return
        ;;
    "key import:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "key import:--from")
        COMPREPLY=($(compgen -W "dkms akmods" -- "$cur"))
        return
        ;;
    "key show:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "key status:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "key enroll:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "key enroll:--password-file")
        compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur"))
        return
        ;;
    "key rotate:--root")
        compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    "key rotate:--algorithm")
        COMPREPLY=($(compgen -W "rsa ecdsa" -- "$cur"))
        return
        ;;
    "key rotate:--from")
        COMPREPLY=($(compgen -W "dkms akmods" -- "$cur"))
        return
        ;;
    esac
    case $cur in
    -*)
        case $command in
        "") COMPREPLY=($(compgen -W "-h --help --root --json --version" -- "$cur")) ;;
        "status") COMPREPLY=($(compgen -W "-h --help --root --json --kernel" -- "$cur")) ;;
        "plan") COMPREPLY=($(compgen -W "-h --help --root --json" -- "$cur")) ;;
        "logs") COMPREPLY=($(compgen -W "-h --help --root --json --kernel --list --attempt --follow" -- "$cur")) ;;
        "explain") COMPREPLY=($(compgen -W "-h --help --root --json --kernel" -- "$cur")) ;;
        "verify") COMPREPLY=($(compgen -W "-h --help --root --json --kernel" -- "$cur")) ;;
        "check") COMPREPLY=($(compgen -W "-h --help --root --json --kernel --default --all" -- "$cur")) ;;
        "gate") COMPREPLY=($(compgen -W "-h --help --root --json --kernel --default --wait" -- "$cur")) ;;
        "boot") COMPREPLY=($(compgen -W "-h --help --root --json" -- "$cur")) ;;
        "boot release") COMPREPLY=($(compgen -W "-h --help --root --json --force --here" -- "$cur")) ;;
        "boot wait") COMPREPLY=($(compgen -W "-h --help --root --json" -- "$cur")) ;;
        "boot hurry") COMPREPLY=($(compgen -W "-h --help --root --json" -- "$cur")) ;;
        "load") COMPREPLY=($(compgen -W "-h --help --root --json" -- "$cur")) ;;
        "watch") COMPREPLY=($(compgen -W "-h --help --root --json" -- "$cur")) ;;
        "sync") COMPREPLY=($(compgen -W "-h --help --root --json --dry-run --verbose" -- "$cur")) ;;
        "rebuild") COMPREPLY=($(compgen -W "-h --help --root --json --kernel --dry-run --verbose" -- "$cur")) ;;
        "reload") COMPREPLY=($(compgen -W "-h --help --root --json" -- "$cur")) ;;
        "add") COMPREPLY=($(compgen -W "-h --help --root --json --name --version --at-boot --force --optional --dry-run" -- "$cur")) ;;
        "lint") COMPREPLY=($(compgen -W "-h --help --root --json" -- "$cur")) ;;
        "import") COMPREPLY=($(compgen -W "-h --help --root --json --all --remove-copies --restore-copies --ignore-hooks --dry-run" -- "$cur")) ;;
        "remove") COMPREPLY=($(compgen -W "-h --help --root --json --dry-run" -- "$cur")) ;;
        "enable") COMPREPLY=($(compgen -W "-h --help --root --json --dry-run" -- "$cur")) ;;
        "disable") COMPREPLY=($(compgen -W "-h --help --root --json --dry-run" -- "$cur")) ;;
        "doctor") COMPREPLY=($(compgen -W "-h --help --root --json" -- "$cur")) ;;
        "key") COMPREPLY=($(compgen -W "-h --help --root --json" -- "$cur")) ;;
        "key generate") COMPREPLY=($(compgen -W "-h --help --root --json --algorithm --dry-run" -- "$cur")) ;;
        "key import") COMPREPLY=($(compgen -W "-h --help --root --json --from --undo --dry-run" -- "$cur")) ;;
        "key show") COMPREPLY=($(compgen -W "-h --help --root --json" -- "$cur")) ;;
        "key status") COMPREPLY=($(compgen -W "-h --help --root --json" -- "$cur")) ;;
        "key enroll") COMPREPLY=($(compgen -W "-h --help --root --json --password-file --root-password --dry-run" -- "$cur")) ;;
        "key rotate") COMPREPLY=($(compgen -W "-h --help --root --json --algorithm --from --now --abort --dry-run" -- "$cur")) ;;
        esac
        return
        ;;
    esac
    case $command in
    "") COMPREPLY=($(compgen -W "status plan logs explain verify check gate boot load watch sync rebuild reload add lint import remove enable disable doctor key" -- "$cur")) ;;
    "status") _kmoddctl_names modules "${root[@]}" ;;
    "logs") _kmoddctl_names modules "${root[@]}" ;;
    "explain") _kmoddctl_names modules "${root[@]}" ;;
    "verify") _kmoddctl_names modules "${root[@]}" ;;
    "boot") COMPREPLY=($(compgen -W "release wait hurry" -- "$cur")) ;;
    "boot release") _kmoddctl_names kernels "${root[@]}" ;;
    "rebuild") _kmoddctl_names modules "${root[@]}" ;;
    "add") compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur")) ;;
    "lint") compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")) ;;
    "import") if [[ -z $module ]]; then COMPREPLY=($(compgen -W "dkms" -- "$cur")); else compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur")); fi ;;
    "remove") _kmoddctl_names modules "${root[@]}" ;;
    "enable") _kmoddctl_names modules "${root[@]}" ;;
    "disable") _kmoddctl_names modules "${root[@]}" ;;
    "key") COMPREPLY=($(compgen -W "generate import show status enroll rotate" -- "$cur")) ;;
    "key import") compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")) ;;
    "key rotate") compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")) ;;
    esac
}

complete -F _kmoddctl kmoddctl
