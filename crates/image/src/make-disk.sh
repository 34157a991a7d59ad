# Makes the ext4 file $BANGER_DISK from $BANGER_TREE and prints `packages N`.
#
# Runs as root of the build's namespaces: only there do all files have their true owners.
# The features are spelled out, because the defaults differ between versions of e2fsprogs and
# not every kernel knows the newest. No journal: the image itself is only ever read.
echo "I: making the disk"
packages=$(grep -c '^Package: ' "$BANGER_TREE/var/lib/dpkg/status")

# Blocks and inodes by the files' lengths: what they take on this machine's file system, which
# may compress, says nothing. A directory takes a block or more, a long symbolic link one.
set -- $(find "$BANGER_TREE" -xdev -printf '%y %s\n' | awk '
    $1 == "l" && $2 < 60 { $2 = 0 }
    { inodes++; blocks += int(($2 + 4095) / 4096) }
    END { print blocks, inodes }')
blocks=$1
inodes=$(($2 + $2 / 4 + 1024))

# 256 bytes an inode; then room to spare for the file system's own records.
total=$((blocks + inodes / 16 + 4096))
total=$((total + total * 15 / 100))

# The same packages make a file system with the same identity.
seed=$(sha256sum < "$BANGER_TREE/var/lib/dpkg/status" | cut -c 1-32)
uuid=$(echo "$seed" | sed 's/^\(.\{8\}\)\(.\{4\}\).\(.\{3\}\).\(.\{3\}\)\(.\{12\}\)$/\1-\2-4\3-8\4-\5/')

features=ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file
features=$features,huge_file,dir_nlink,extra_isize,metadata_csum,resize_inode
rm -f "$BANGER_DISK"
mke2fs -q -t ext4 -b 4096 -I 256 -N "$inodes" -m 0 -U "$uuid" -L banger-root \
    -O "none,$features" \
    -E "lazy_itable_init=0,root_owner=0:0,hash_seed=$uuid" \
    -d "$BANGER_TREE" "$BANGER_DISK" "$total"
echo "packages $packages"
