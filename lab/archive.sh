# Copies part of a package archive into $1/archive: run by mmdebstrap as a hook, with the lists it
# has fetched and verified in the tree $1. Each line of $LAB_PACKAGES is a set of packages that are
# installed together, for apt.
#
# The names of its hosts are added to $LAB_OUT/hosts.
#
# The copy is the archive's own, its signatures included, with most packages missing: a server
# that answers for the archive's hosts can give it to any apt.
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
debs=$1/var/cache/apt/archives
copy=$1/archive
mkdir -p "$copy" "$debs/partial"

# http://host/debian/pool/x is pool/x in the directory debian; the hosts are kept in a list.
place() {
    path=${1#*://}
    echo "${path%%/*}" >> "$copy/hosts"
    echo "$copy/${path#*/}"
}

# The indices, compressed as apt asks for them: under their hashes.
# shellcheck disable=SC2016 # The variables are apt's.
apt-get indextargets --format '$(BASE_URI) $(METAKEY) $(FILENAME)' 'Created-By: Packages' \
    > "$copy/targets"
while read -r base key file; do
    release=${file%_"$(echo "$key" | tr / _)"}_InRelease
    to=$(place "$base")
    mkdir -p "$to${key%/*}/by-hash/SHA256"
    cp "$release" "${to}InRelease"
    hash=$(sed -n '/^SHA256:/,/^[A-Z]/s|^ \([0-9a-f]*\) .* '"$key.xz"'$|\1|p' "$release")
    by_hash=${key%/*}/by-hash/SHA256/$hash
    /usr/lib/apt/apt-helper -q download-file "$base$by_hash" "$to$by_hash" "SHA256:$hash"
done < "$copy/targets"

echo "$LAB_PACKAGES" | while read -r packages; do
    [ -n "$packages" ] || continue
    set -f
    # shellcheck disable=SC2086 # A set is several words.
    apt-get -qq --yes --no-install-recommends --print-uris install $packages > "$copy/uris"
    # shellcheck disable=SC2086
    apt-get -q --yes --no-install-recommends --download-only install $packages
    set +f
    while read -r uri file _; do
        # As it is asked for: without the quotes, and with + and ~ not escaped. What apt calls the
        # file has the epoch in it.
        to=$(place "$(echo "$uri" | sed "s/'//g; s/%2b/+/g; s/%7e/~/g")")
        mkdir -p "${to%/*}"
        ln -f "$debs/$file" "$to"
    done < "$copy/uris"
done
sort -u "$copy/hosts" >> "$LAB_OUT/hosts"
rm "$copy/hosts" "$copy/targets" "$copy/uris"
