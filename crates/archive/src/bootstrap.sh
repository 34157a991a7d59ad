# Runs mmdebstrap ("$@") into $BANGER_TREE and then the caller's $BANGER_FINISH.
#
# With $BANGER_MEMORY set to a size, the tree lives in memory: ten thousand small files that
# are thrown away a minute later are never written to the disk, and are gone with the
# namespace however the build ends.
if [ -n "$BANGER_MEMORY" ]; then
    mount -t tmpfs -o "size=$BANGER_MEMORY,mode=0755" tmpfs "$BANGER_TREE" ||
        echo "W: no file system in memory; using the disk"
fi
"$@"
sh -euc "$BANGER_FINISH" finish
