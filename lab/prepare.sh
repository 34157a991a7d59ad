# Turns a freshly installed Debian tree ($1) into the lab's outer machine.
#
# What a run needs beyond this, the programs, the scenarios and the script that runs them, is
# carried in on a disk at every run: this machine is built once.
set -eu
tree=$1
cd "$tree"

echo banger-lab > etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 banger-lab\n' > etc/hosts
echo 'LANG=C.UTF-8' > etc/default/locale
: > etc/machine-id
cat > etc/fstab <<'FSTAB'
/dev/vda / ext4 rw,noatime 0 0
LABEL=banger-lab-in /lab ext4 rw,noatime 0 0
FSTAB
mkdir lab

# The ordinary user. Debian gives her subordinate ids.
chroot . groupadd --force --system kvm
chroot . useradd --create-home --shell /bin/bash --groups kvm lab

# One service; when it ends, however it ends, so does the machine.
cat > etc/systemd/system/lab.service <<'UNIT'
[Unit]
Description=The scenarios
RequiresMountsFor=/lab
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStart=/bin/sh /lab/inside.sh
StandardOutput=journal+console
TimeoutStartSec=infinity
LimitNOFILE=65536
UNIT
mkdir -p etc/systemd/system/multi-user.target.wants
ln -s ../lab.service etc/systemd/system/multi-user.target.wants/lab.service
chroot . systemctl --quiet set-default multi-user.target

# Under emulation every service costs a second.
chroot . systemctl --quiet mask \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer \
    getty@tty1.service getty-static.service serial-getty@ttyS0.service serial-getty@ttyS1.service \
    systemd-networkd-wait-online.service systemd-pstore.service systemd-update-utmp.service \
    systemd-timesyncd.service systemd-journal-flush.service docker-registry.service

# The machine's disk and nothing else: the smaller the initrd, the sooner it is unpacked.
cat > etc/initramfs-tools/conf.d/lab <<'CONF'
MODULES=list
COMPRESS=zstd
RESUME=none
FSTYPE=ext4
CONF
printf 'virtio_pci\nvirtio_blk\next4\n' > etc/initramfs-tools/modules
chroot . update-initramfs -u -k all
cp boot/vmlinuz-* vmlinuz.lab
cp boot/initrd.img-* initrd.lab

rm -f etc/dpkg/dpkg.cfg.d/99mmdebstrap
find var/log var/cache/debconf -type f -delete
touch -r usr etc/.updated var/.updated
