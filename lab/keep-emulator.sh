# Copies QEMU with its libraries, their loader and its firmware from the unpacked packages in
# $BANGER_TREE to the directory $LAB_OUT.
set -eu
cd "$BANGER_TREE"
cp usr/bin/qemu-system-x86_64 "$LAB_OUT"
mkdir "$LAB_OUT/lib"
find usr/lib/x86_64-linux-gnu -maxdepth 1 -name '*.so*' -exec cp --no-dereference {} "$LAB_OUT/lib" \;
cp --recursive usr/share/qemu usr/share/seabios "$LAB_OUT"
# Proof that nothing is missing, where it can still be said.
"$LAB_OUT/lib/ld-linux-x86-64.so.2" --library-path "$LAB_OUT/lib" \
    "$LAB_OUT/qemu-system-x86_64" --version
