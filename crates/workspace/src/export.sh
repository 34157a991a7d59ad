# Prints what a workspace holds beyond a base, as a patch. Changes nothing in it: index and
# objects are its own, in a directory that is removed at the end.
# Arguments: the workspace, the base, what to print, how to look at files.
set -euf
top=$1 base=$2 output=$3 look=$4
unset CDPATH
export LC_ALL=C
fail() { code=$1; shift; printf '%s\n' "$*" >&2; exit "$code"; }

command -v git >/dev/null 2>&1 || fail 65 'the guest has no git'
cd -P -- "$top" 2>/dev/null || fail 66 'the workspace is not there'
here=$PWD
# Words of values come along, and at worst name what is not there.
for name in $(set); do
    case $name in GIT_*=*) name=${name%%=*} ;; *) continue ;; esac
    case $name in *[!A-Za-z0-9_]*) ;; *) unset "$name" ;; esac
done
# The workspace's own configuration decides, and not that of whoever works in the guest.
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null XDG_CONFIG_HOME=/dev/null
export GIT_OPTIONAL_LOCKS=0 GIT_TERMINAL_PROMPT=0 GIT_PAGER=cat GIT_NO_REPLACE_OBJECTS=1 GIT_NO_LAZY_FETCH=1
case $look in
thorough) check=default ctime=true ;;
*) check=minimal ctime=false ;;
esac
g() {
    command git -c safe.directory='*' -c core.fsmonitor=false -c core.hooksPath=/dev/null \
        -c core.untrackedCache=false -c core.splitIndex=false -c core.sparseCheckout=false \
        -c core.fsync=none -c index.skipHash=true -c core.safecrlf=false -c core.quotePath=true -c core.compression=0 \
        -c core.bigFileThreshold=16m -c core.checkStat=$check -c core.trustctime=$ctime \
        -c diff.suppressBlankEmpty=false -c protocol.allow=never -c gc.auto=0 "$@"
}
case $base in
recorded) wanted=refs/banger/base ;;
prepared) wanted=refs/banger/prepared ;;
commit:*) wanted=${base#commit:} ;;
*) wanted=HEAD ;;
esac

# Starting a program is what costs most in a small guest, so there are as few as can be.
# A directory as banger makes it explains itself to a shell.
explained() {
    top=$here dir=$here/.git index=$here/.git/index objects=$here/.git/objects
    [ ! -h .git ] && [ -f .git/HEAD ] && [ -d .git/refs ] && [ -d .git/objects ] &&
        [ ! -e .git/commondir ] && [ ! -e .git/config.worktree ] || return 1
    case $wanted in refs/*) ;; *) return 1 ;; esac
    [ -f ".git/$wanted" ] && IFS= read -r tree <".git/$wanted" || return 1
    case $tree in *[!0-9a-f]* | '') return 1 ;; esac
}

# For everything else there is git: one line each, the last only if there is such a tree.
asked() {
    said=$(g rev-parse --quiet --verify --is-inside-work-tree --absolute-git-dir --show-toplevel \
        --git-path index --git-path objects "$wanted^{tree}" 2>/dev/null) || :
    tree=
    {
        IFS= read -r inside && IFS= read -r dir && IFS= read -r top && IFS= read -r index &&
            IFS= read -r objects || fail 68 'the workspace is not a git repository'
        IFS= read -r tree || :
    } <<END
$said
END
    # One further up is another one.
    [ "$inside" = true ] && [ "$top" = "$here" ] || fail 68 'the workspace is not a git repository'
    case $dir in /*) ;; *) fail 65 'the git of the guest is too old' ;; esac
    case $objects in /*) ;; *) objects=$top/$objects ;; esac
    if [ "$base" = empty ]; then tree=; fi
    [ -n "$tree" ] || case $base in
    recorded) known refs/banger/prepared >/dev/null || tree=$(known HEAD) || : ;;
    prepared) fail 67 'the guest has no record of what was copied' ;;
    commit:*) fail 67 "the guest has no commit $wanted" ;;
    esac
    tree=${tree:-$(g hash-object -t tree --stdin </dev/null)}
}
known() { g rev-parse --verify --quiet "$1^{tree}" 2>/dev/null; }

# All files that are not just known: new ones, and those that git is told not to look at.
seen() {
    export GIT_DIR="$dir" GIT_WORK_TREE="$top"
    odd=$({ g ls-files -v --cached --others --exclude-standard || echo '! failed'; } | grep -v '^H ') ||
        [ $? = 1 ]
    case $odd in '! failed' | *"$line! failed") return 1 ;; esac
}
line='
'
# Whether files are compared where they are: git says then what differs, and not only in its time.
in_place=
if [ "$look" = quick ] && explained && seen 2>/dev/null; then
    case $output in patch) in_place=true ;; esac
    # Nothing may be hidden from git, or in conflict.
    case $line$odd in *"$line"[!?]*) in_place= ;; esac
else
    unset GIT_DIR GIT_WORK_TREE
    asked
    seen || exit 128
fi

if [ -z "$in_place" ] || [ -n "$odd" ]; then
    # One that was killed may have left its directory.
    own=$dir/banger-export.$$
    while [ -e "$own" ]; do own=$own+; done
    trap 'rm -rf "$own"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 141' PIPE
    trap 'exit 143' TERM
    umask 077
    mkdir "$own" "$own/objects"
    # With its time, by which git knows what it must look at twice.
    if [ -f "$index" ]; then cp -p -- "$index" "$own/index"; fi
    case $objects in *[\\\"]*) objects=$(printf '%s' "$objects" | sed 's/[\\"]/\\&/g') ;; esac
    export GIT_INDEX_FILE="$own/index"
    export GIT_OBJECT_DIRECTORY="$own/objects" GIT_ALTERNATE_OBJECT_DIRECTORIES="\"$objects\""
    printf '%s\n' "$odd" >"$own/odd"
    cd -- "$own"
    sed -n '
        /^? .*\/"\{0,1\}$/{
            s/^? /left out, it is a repository of its own: /p
            d
        }
        s/^? //w others
        /^[Ss] /{
            h
            s/^..//w skipped
            g
        }
        s/^[a-z] //w assumed
    ' odd >&2
    cd -- "$top"
    # They count as well, as far as they are there.
    if [ -s "$own/assumed" ]; then g update-index --no-assume-unchanged --stdin <"$own/assumed"; fi
    if [ -s "$own/skipped" ]; then
        g update-index --no-skip-worktree --stdin <"$own/skipped"
        g diff-files --name-only --diff-filter=D >"$own/gone"
        sort -o "$own/skipped" "$own/skipped"
        sort "$own/gone" | comm -12 "$own/skipped" - >"$own/absent"
        g update-index --skip-worktree --stdin <"$own/absent"
    fi
    if [ -z "$in_place" ]; then g -c add.ignoreErrors=false add -u; fi
    if [ -s "$own/others" ]; then g update-index --add --remove --replace --stdin <"$own/others"; fi
fi

case $output in
names) set -- --name-status -z --no-renames ;;
*) set -- -p --binary --full-index -M -l500 --src-prefix=a/ --dst-prefix=b/ -U3 --inter-hunk-context=0 ;;
esac
case $in_place in
true) set -- --ignore-submodules=dirty "$@" ;;
*) set -- --cached --ignore-submodules=none "$@" ;;
esac
g -c core.compression=1 diff-index --no-color --no-ext-diff --no-textconv --submodule=short "$@" "$tree" --
