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
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null
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
# One line each, the last only if there is such a tree.
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
case $objects in /*) ;; *) objects=$top/$objects ;; esac

known() { g rev-parse --verify --quiet "$1^{tree}" 2>/dev/null; }
none() { g hash-object -t tree --stdin </dev/null; }
if [ "$base" = empty ]; then tree=; fi
[ -n "$tree" ] || case $base in
recorded) known refs/banger/prepared >/dev/null || tree=$(known HEAD) || : ;;
prepared) fail 67 'the guest has no record of what was copied' ;;
commit:*) fail 67 "the guest has no commit $wanted" ;;
esac
base=${tree:-$(none)}

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
export GIT_DIR="$dir" GIT_WORK_TREE="$top" GIT_INDEX_FILE="$own/index"
export GIT_OBJECT_DIRECTORY="$own/objects" GIT_ALTERNATE_OBJECT_DIRECTORIES="\"$objects\""

# Starting a program is what costs most in a small guest, so there are as few as can be, and none
# for what is not there. Of known files, only those that git is told not to look at are of interest.
g ls-files -v --cached --others --exclude-standard >"$own/seen"
grep -v '^H ' "$own/seen" >"$own/odd" || [ $? = 1 ]
if [ -s "$own/odd" ]; then
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
fi
# They count as well, as far as they are there.
if [ -s "$own/assumed" ]; then g update-index --no-assume-unchanged --stdin <"$own/assumed"; fi
if [ -s "$own/skipped" ]; then
    g update-index --no-skip-worktree --stdin <"$own/skipped"
    g diff-files --name-only --diff-filter=D >"$own/gone"
    sort -o "$own/skipped" "$own/skipped"
    sort "$own/gone" | comm -12 "$own/skipped" - >"$own/absent"
    g update-index --skip-worktree --stdin <"$own/absent"
fi
g -c add.ignoreErrors=false add -u
if [ -s "$own/others" ]; then g update-index --add --remove --replace --stdin <"$own/others"; fi

# As of a repository without files: no attribute of the tree changes how it is compared.
unset GIT_WORK_TREE
cd -- "$own/objects"
case $output in
names) set -- --name-status -z --no-renames ;;
*) set -- -p --binary --full-index -M -l500 --src-prefix=a/ --dst-prefix=b/ -U3 --inter-hunk-context=0 ;;
esac
g -c core.bare=true -c core.compression=1 -c core.attributesFile=/dev/null diff-index --cached --no-color --no-ext-diff --no-textconv \
    --no-relative --submodule=short --ignore-submodules=none "$@" "$base" --
