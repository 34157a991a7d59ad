# Installs the tools that a repository names with mise, and mise itself where it is missing.
# Runs as root in the repository's directory in the guest: bootstrap.sh PROFILE_DIRECTORY FILE…
set -eu
profile=$1
shift

found=
for file; do
    if [ -f "$file" ]; then found=1; fi
done
if [ -z "$found" ]; then
    echo "no tools are installed: what names them was not copied ($*)"
    exit 0
fi

PATH=$HOME/.local/bin:$PATH
MISE_YES=1
export PATH MISE_YES
if ! command -v mise > /dev/null; then
    if ! command -v curl > /dev/null; then
        echo "installing mise needs curl, and this image has none"
        exit 1
    fi
    echo "installing mise"
    installer=$(mktemp)
    trap 'rm -f "$installer"' EXIT
    curl -fsSL --retry 3 -o "$installer" https://mise.run
    MISE_INSTALL_PATH=$HOME/.local/bin/mise sh "$installer"
fi

for file; do
    if [ -f "$file" ]; then mise trust "$file"; fi
done
mise install

# Login shells get their PATH from /etc/profile, whatever they are started with.
if [ -d "$profile" ]; then
    cat > "$profile/banger-tools.sh" << 'END'
# Written by banger: the tools of the workspace, for root.
if [ "$(id -u)" = 0 ]; then
    PATH=/root/.local/share/mise/shims:/root/.local/bin:$PATH
fi
END
fi
