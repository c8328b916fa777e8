# Made by packaging/completion/generate.py from kmoddctl's parser; edits are lost.
# The words before the cursor that are neither options nor their arguments, kmoddctl itself left out.
function __kmoddctl_words
    set -l skip no
    for word in (commandline -opc)[2..-1]
        if test $skip = yes
            set skip no
        else if contains -- $word --algorithm --at-boot --attempt --from --kernel --name --password-file --root --version --wait
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
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -l json -d 'print JSON'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -l version -d 'show program\'s version number and exit'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a status -d 'show every module on every kernel, and what is to be done'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a plan -d 'show what the daemon would do now, and why'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a logs -d 'show what builds printed'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a explain -d 'tell the whole story of a module on a kernel'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a verify -d 'check that what is installed would load'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a check -d 'say in one line whether all is well, for a monitoring system'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a gate -d 'tell whether a kernel may be booted, and wait until it may'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a watch -d 'show what the daemon does, as it happens'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a sync -d 'look, plan and apply once'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a reload -d 'have the daemon read its settings again'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a add -d 'register a source directory or an archive'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a import -d 'register what DKMS keeps built'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a remove -d 'unregister a module and remove what was installed'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a enable -d 'take a disabled module up again'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a disable -d 'keep a module registered, but remove what was installed'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a doctor -d 'check whether this host has what kmodd needs, and say how to mend it'
complete -c kmoddctl -n 'not count (__kmoddctl_words) >/dev/null' -a key -d 'make, show, enrol or replace the key that signs'
complete -c kmoddctl -n '__kmoddctl_is "status" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "status" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "status" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "status" 9' -l kernel -xa '(__kmoddctl_names kernels)' -d 'only this kernel release'
complete -c kmoddctl -n '__kmoddctl_is "status" 0' -a '(__kmoddctl_names modules)'
complete -c kmoddctl -n '__kmoddctl_is "plan" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "plan" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "plan" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "logs" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "logs" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "logs" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "logs" 9' -l kernel -xa '(__kmoddctl_names kernels)' -d 'only this kernel release'
complete -c kmoddctl -n '__kmoddctl_is "logs" 9' -l list -d 'list the attempts whose logs are kept'
complete -c kmoddctl -n '__kmoddctl_is "logs" 9' -l attempt -xa '(__kmoddctl_names attempts (__kmoddctl_words)[2])' -d 'one that --list shows; default: 1, the last'
complete -c kmoddctl -n '__kmoddctl_is "logs" 9' -l follow -d 'print on while the build runs'
complete -c kmoddctl -n '__kmoddctl_is "logs" 0' -a '(__kmoddctl_names modules)'
complete -c kmoddctl -n '__kmoddctl_is "explain" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "explain" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "explain" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "explain" 9' -l kernel -xa '(__kmoddctl_names kernels)' -d 'only this kernel release'
complete -c kmoddctl -n '__kmoddctl_is "explain" 0' -a '(__kmoddctl_names modules)'
complete -c kmoddctl -n '__kmoddctl_is "verify" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "verify" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "verify" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "verify" 9' -l kernel -xa '(__kmoddctl_names kernels)' -d 'only this kernel release'
complete -c kmoddctl -n '__kmoddctl_is "verify" 0' -a '(__kmoddctl_names modules)'
complete -c kmoddctl -n '__kmoddctl_is "check" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "check" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "check" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "check" 9' -l kernel -xa '(__kmoddctl_names kernels)' -d 'this kernel release'
complete -c kmoddctl -n '__kmoddctl_is "check" 9' -l default -d 'the kernel that boots next'
complete -c kmoddctl -n '__kmoddctl_is "check" 9' -l all -d 'every kernel, each as if it booted next'
complete -c kmoddctl -n '__kmoddctl_is "gate" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "gate" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "gate" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "gate" 9' -l kernel -xa '(__kmoddctl_names kernels)' -d 'this kernel release'
complete -c kmoddctl -n '__kmoddctl_is "gate" 9' -l default -d 'the kernel that boots next'
complete -c kmoddctl -n '__kmoddctl_is "gate" 9' -l wait -x -d 'wait for so long, such as 30min'
complete -c kmoddctl -n '__kmoddctl_is "watch" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "watch" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "watch" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "sync" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "sync" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "sync" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "sync" 9' -l dry-run -d 'only show what would be done'
complete -c kmoddctl -n '__kmoddctl_is "sync" 9' -l verbose -d 'log what is done'
complete -c kmoddctl -n '__kmoddctl_is "reload" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "reload" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "reload" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "add" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "add" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "add" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "add" 9' -l name -x -d 'default: the directory\'s name without its version'
complete -c kmoddctl -n '__kmoddctl_is "add" 9' -l version -x -d 'free text, shown in status'
complete -c kmoddctl -n '__kmoddctl_is "add" 9' -l at-boot -x -d 'load it at boot'
complete -c kmoddctl -n '__kmoddctl_is "add" 9' -l optional -d 'a kernel is ready without it, too'
complete -c kmoddctl -n '__kmoddctl_is "add" 9' -l dry-run -d 'only show what would be done'
complete -c kmoddctl -n '__kmoddctl_is "add" 0' -a '(__fish_complete_directories)'
complete -c kmoddctl -n '__kmoddctl_is "import" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "import" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "import" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "import" 9' -l all -d 'every one in /usr/src and /var/lib/dkms'
complete -c kmoddctl -n '__kmoddctl_is "import" 9' -l remove-copies -d 'put aside what DKMS itself installed'
complete -c kmoddctl -n '__kmoddctl_is "import" 9' -l restore-copies -d 'put that back'
complete -c kmoddctl -n '__kmoddctl_is "import" 9' -l ignore-hooks -d 'take them without their install scripts'
complete -c kmoddctl -n '__kmoddctl_is "import" 9' -l dry-run -d 'only show what would be done'
complete -c kmoddctl -n '__kmoddctl_is "import" 0' -a '(__fish_complete_directories)'
complete -c kmoddctl -n '__kmoddctl_is "remove" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "remove" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "remove" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "remove" 9' -l dry-run -d 'only show what would be done'
complete -c kmoddctl -n '__kmoddctl_is "remove" 0' -a '(__kmoddctl_names modules)'
complete -c kmoddctl -n '__kmoddctl_is "enable" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "enable" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "enable" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "enable" 9' -l dry-run -d 'only show what would be done'
complete -c kmoddctl -n '__kmoddctl_is "enable" 0' -a '(__kmoddctl_names modules)'
complete -c kmoddctl -n '__kmoddctl_is "disable" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "disable" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "disable" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "disable" 9' -l dry-run -d 'only show what would be done'
complete -c kmoddctl -n '__kmoddctl_is "disable" 0' -a '(__kmoddctl_names modules)'
complete -c kmoddctl -n '__kmoddctl_is "doctor" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "doctor" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "doctor" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "key" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "key" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "key" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "key" 0' -a generate -d 'make the first key'
complete -c kmoddctl -n '__kmoddctl_is "key" 0' -a import -d 'take over the key of DKMS, akmods or any other as the first key'
complete -c kmoddctl -n '__kmoddctl_is "key" 0' -a show -d 'show what is in the certificate'
complete -c kmoddctl -n '__kmoddctl_is "key" 0' -a status -d 'show which kernels trust the key, and what is signed by it'
complete -c kmoddctl -n '__kmoddctl_is "key" 0' -a enroll -d 'ask the firmware of this machine to trust the key (MOK)'
complete -c kmoddctl -n '__kmoddctl_is "key" 0' -a rotate -d 'replace the key by a new one and sign everything anew, without building'
complete -c kmoddctl -n '__kmoddctl_is "key generate" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "key generate" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "key generate" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "key generate" 9' -l algorithm -xa 'rsa ecdsa' -d 'default: kmodd.toml\'s, else rsa'
complete -c kmoddctl -n '__kmoddctl_is "key generate" 9' -l dry-run -d 'only show what would be done'
complete -c kmoddctl -n '__kmoddctl_is "key import" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "key import" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "key import" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "key import" 9' -l from -xa 'dkms akmods' -d 'copy that tool\'s pair'
complete -c kmoddctl -n '__kmoddctl_is "key import" 9' -l dry-run -d 'only show what would be done'
complete -c kmoddctl -n '__kmoddctl_is "key import" 0' -rF
complete -c kmoddctl -n '__kmoddctl_is "key show" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "key show" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "key show" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "key status" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "key status" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "key status" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "key enroll" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "key enroll" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "key enroll" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "key enroll" 9' -l password-file -rF -d 'its first line is the one-time password'
complete -c kmoddctl -n '__kmoddctl_is "key enroll" 9' -l root-password -d 'root\'s password is the one-time password'
complete -c kmoddctl -n '__kmoddctl_is "key enroll" 9' -l dry-run -d 'only show what would be done'
complete -c kmoddctl -n '__kmoddctl_is "key rotate" 9' -s h -l help -d 'show this help message and exit'
complete -c kmoddctl -n '__kmoddctl_is "key rotate" 9' -l root -xa '(__fish_complete_directories)' -d 'work on this root directory'
complete -c kmoddctl -n '__kmoddctl_is "key rotate" 9' -l json -d 'print JSON'
complete -c kmoddctl -n '__kmoddctl_is "key rotate" 9' -l algorithm -xa 'rsa ecdsa' -d 'default: kmodd.toml\'s, else rsa'
complete -c kmoddctl -n '__kmoddctl_is "key rotate" 9' -l from -xa 'dkms akmods' -d 'copy that tool\'s pair'
complete -c kmoddctl -n '__kmoddctl_is "key rotate" 9' -l now -d 'do not wait until the firmware trusts the new key'
complete -c kmoddctl -n '__kmoddctl_is "key rotate" 9' -l abort -d 'drop a new key that waits for its enrolment'
complete -c kmoddctl -n '__kmoddctl_is "key rotate" 9' -l dry-run -d 'only show what would be done'
complete -c kmoddctl -n '__kmoddctl_is "key rotate" 0' -rF
