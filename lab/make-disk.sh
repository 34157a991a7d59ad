# Makes the outer machine of $BANGER_TREE in the directory $LAB_OUT: its disk, kernel, initrd.
#
# Runs as root of the build's namespaces, where all files have their true owners.
echo "I: making the disk"
mv "$BANGER_TREE/vmlinuz.lab" "$LAB_OUT/vmlinuz"
mv "$BANGER_TREE/initrd.lab" "$LAB_OUT/initrd"
mke2fs -q -t ext4 -m 0 -L banger-lab -O ^has_journal -E lazy_itable_init=0,root_owner=0:0 \
    -d "$BANGER_TREE" "$LAB_OUT/disk.ext4" 6G
