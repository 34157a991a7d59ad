# Fetches one package into $BANGER_OUT, with the lists that mmdebstrap has fetched and verified.
# With $BANGER_PREFIX set, $BANGER_PACKAGE is a metapackage: the package wanted is the
# one it depends on whose name begins with the prefix.
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$BANGER_OUT"
package="$BANGER_PACKAGE"
if [ -n "$BANGER_PREFIX" ]; then
    package=$(apt-cache depends --no-recommends --no-suggests "$BANGER_PACKAGE" |
        sed -n 's/^ *Depends: *//p' | grep -m 1 "^$BANGER_PREFIX") || {
        echo "E: Unable to locate package $BANGER_PREFIX* through $BANGER_PACKAGE" >&2
        exit 1
    }
fi
size=$(apt-cache show --no-all-versions "$package" | sed -n 's/^Size: //p' | head -n 1)
echo "Need to get $((${size:-0} / 1000)) kB of archives."
apt-get download -q -o APT::Status-Fd=1 "$package"
