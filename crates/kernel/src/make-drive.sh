# Makes the ext4 file $BANGER_DRIVE of the modules of $BANGER_RELEASE below $BANGER_BASE.
#
# Runs as root of the build's namespaces: only there the files belong to root.
tree="$BANGER_BASE/lib/modules/$BANGER_RELEASE"

# Some distributions' depmod looks below usr/lib. No configuration of the host's: it may know
# other kernels only.
ln -s . "$BANGER_BASE/usr"
depmod -C /dev/null -b "$BANGER_BASE" "$BANGER_RELEASE"
# The second is an index of ours.
rm -f "$BANGER_BASE/usr" "$tree/modules.softdep.dep"
chmod -R u=rwX,go=rX "$tree"

# Blocks and inodes by the files' lengths; a directory takes a block or more.
set -- $(find "$tree" -xdev -printf '%y %s\n' | awk '
    { inodes++; blocks += int(($2 + 4095) / 4096) }
    END { print blocks, inodes }')
inodes=$(($2 + 64))
total=$(($1 + inodes / 16 + 1024))
total=$((total + total / 20))

# The features are spelled out, because the defaults differ between versions of e2fsprogs and
# not every kernel knows the newest. No journal: it is only ever read.
features=ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file
features=$features,huge_file,dir_nlink,extra_isize,metadata_csum
mke2fs -q -t ext4 -b 4096 -I 256 -N "$inodes" -m 0 -L banger-modules -O "none,$features" \
    -E "lazy_itable_init=0,root_owner=0:0" -d "$tree" "$BANGER_DRIVE" "$total"
debugfs -w -R 'rmdir lost+found' "$BANGER_DRIVE" 2>/dev/null
