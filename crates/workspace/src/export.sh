# Prints what a workspace holds beyond a base, as a patch. Changes nothing in it: index and
# objects are its own, in a directory that is removed at the end.
# Arguments: the workspace, the base, what to print, how to look at files.
set -eu
top=$1 base=$2 output=$3 look=$4
unset CDPATH
export LC_ALL=C
fail() { code=$1; shift; printf '%s\n' "$*" >&2; exit "$code"; }

command -v git >/dev/null 2>&1 || fail 65 'the guest has no git'
cd -- "$top" 2>/dev/null || fail 66 'the workspace is not there'
here=$(pwd -P)
for name in $(git rev-parse --local-env-vars) GIT_EXTERNAL_DIFF GIT_DIFF_OPTS GIT_CEILING_DIRECTORIES \
    GIT_LITERAL_PATHSPECS GIT_GLOB_PATHSPECS GIT_NOGLOB_PATHSPECS GIT_ICASE_PATHSPECS \
    GIT_TRACE GIT_TRACE2 GIT_TRACE2_EVENT GIT_TRACE2_PERF GIT_TRACE_SETUP; do
    unset "$name"
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
# One line each; the last is there only for an index in two parts.
said=$(g rev-parse --is-inside-work-tree --absolute-git-dir --show-toplevel --git-path index \
    --git-path objects --shared-index-path 2>/dev/null) || fail 68 'the workspace is not a git repository'
shared=
{
    IFS= read -r inside && IFS= read -r dir && IFS= read -r top && IFS= read -r index
    IFS= read -r objects
    IFS= read -r shared || :
} <<END
$said
END
# One further up is another one.
[ "$inside" = true ] && [ "$top" = "$here" ] || fail 68 'the workspace is not a git repository'
cd -- "$top"
case $objects in /*) ;; *) objects=$top/$objects ;; esac

known() { g rev-parse --verify --quiet --end-of-options "$1^{tree}" 2>/dev/null; }
none() { g hash-object -t tree --stdin </dev/null; }
case $base in
recorded)
    if base=$(known refs/banger/base); then :
    elif known refs/banger/prepared >/dev/null; then base=$(none)
    else base=$(known HEAD) || base=$(none)
    fi ;;
prepared) base=$(known refs/banger/prepared) || fail 67 'the guest has no record of what was copied' ;;
head) base=$(known HEAD) || base=$(none) ;;
empty) base=$(none) ;;
*)
    id=${base#commit:}
    base=$(known "$id") || fail 67 "the guest has no commit $id" ;;
esac

own=$(mktemp -d "$dir/banger-export.XXXXXX")
trap 'rm -rf "$own"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM
mkdir "$own/objects"
# With its time, by which git knows what it must look at twice.
if [ -f "$index" ]; then cp -p -- "$index" "$own/index"; fi
if [ -n "$shared" ]; then cp -p -- "$shared" "$own/"; fi
export GIT_DIR="$dir" GIT_WORK_TREE="$top" GIT_INDEX_FILE="$own/index"
GIT_ALTERNATE_OBJECT_DIRECTORIES="\"$(printf '%s' "$objects" | sed 's/[\\"]/\\&/g')\""
export GIT_OBJECT_DIRECTORY="$own/objects" GIT_ALTERNATE_OBJECT_DIRECTORIES

# Beside what follows, which looks at known files.
g ls-files --others --exclude-standard >"$own/others" &
others=$!

# Files that git is told not to look at count as well, as far as they are there.
g ls-files -v >"$own/tags"
if grep -q '^[a-z]' "$own/tags"; then
    sed -n 's/^[a-z] //p' "$own/tags" >"$own/list"
    g update-index --no-assume-unchanged --stdin <"$own/list"
fi
if grep -q '^[Ss] ' "$own/tags"; then
    sed -n 's/^[Ss] //p' "$own/tags" | sort >"$own/skipped"
    g update-index --no-skip-worktree --stdin <"$own/skipped"
    g diff-files --name-only --diff-filter=D | sort >"$own/gone"
    comm -12 "$own/skipped" "$own/gone" >"$own/list"
    g update-index --skip-worktree --stdin <"$own/list"
fi
tab=$(printf '\t')
g diff-files --name-status --no-renames >"$own/changed"
sed -n "s/^D$tab//p" "$own/changed" >"$own/list"
if [ -s "$own/list" ]; then g update-index --force-remove --stdin <"$own/list"; fi
sed -n "/^D/d; s/^[A-Z]$tab//p" "$own/changed" >"$own/list"
wait "$others"
if [ -s "$own/others" ]; then
    sed -n '/\/"\{0,1\}$/s/^/left out, it is a repository of its own: /p' "$own/others" >&2
    sed '/\/"\{0,1\}$/d' "$own/others" >>"$own/list"
fi
if [ -s "$own/list" ]; then g update-index --add --remove --replace --stdin <"$own/list"; fi
tree=$(g write-tree)

# As of a repository without files: no attribute of the tree changes how it is compared.
unset GIT_WORK_TREE GIT_INDEX_FILE
cd -- "$own"
case $output in
names) set -- --name-status -z --no-renames ;;
*) set -- -p --binary --full-index -M -l500 --src-prefix=a/ --dst-prefix=b/ -U3 --inter-hunk-context=0 ;;
esac
g -c core.bare=true -c core.compression=1 -c core.attributesFile=/dev/null diff-tree -r --no-color --no-ext-diff --no-textconv \
    --no-relative --submodule=short --ignore-submodules=none "$@" "$base" "$tree"
