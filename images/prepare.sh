# Turns a freshly installed Debian tree ($1) into the root file system of a VM.
#
# Runs as root of the build's namespaces, before mmdebstrap removes apt's lists and caches.
# What belongs to one machine only, its name, keys and addresses, the guest agent writes at
# boot; here it is taken out.
tree=$1
cd "$tree"

# Identity
rm -f etc/hostname etc/resolv.conf etc/ssh/ssh_host_*_key etc/ssh/ssh_host_*_key.pub
rm -f var/lib/dbus/machine-id
: > etc/machine-id
: > etc/fstab
: > etc/motd
rm -rf root/.ssh

# Language
echo 'LANG=C.UTF-8' > etc/default/locale
chroot . usermod --shell /bin/bash root

# Members of the group sudo may become root: the machine is theirs.
echo '%sudo ALL=(ALL:ALL) NOPASSWD: ALL' > etc/sudoers.d/banger
chmod 0440 etc/sudoers.d/banger

# Keys only
cat > etc/ssh/sshd_config.d/50-banger.conf <<'EOF'
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes yes
EOF

# The agent has configured the interface under the kernel's name for it; renaming it would fail.
mkdir -p etc/systemd/network
ln -s /dev/null etc/systemd/network/99-default.link

# Logs stay in memory: most machines live for minutes.
rm -rf var/log/journal

# Going down waits for nobody long.
mkdir -p etc/systemd/system.conf.d
cat > etc/systemd/system.conf.d/50-banger.conf <<'EOF'
[Manager]
DefaultTimeoutStopSec=10s
EOF

# Services that have nothing to do in such a machine, or would disturb it while it is young.
chroot . systemctl --quiet mask \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer \
    console-getty.service getty@tty1.service getty-static.service serial-getty@ttyS0.service \
    systemd-networkd-wait-online.service systemd-pstore.service \
    systemd-remount-fs.service proc-sys-fs-binfmt_misc.automount \
    sys-kernel-debug.mount sys-kernel-tracing.mount \
    modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service \
    modprobe@fuse.service modprobe@loop.service \
    systemd-random-seed.service systemd-update-utmp-runlevel.service
chroot . systemctl --quiet disable systemd-networkd.service systemd-networkd.socket

# Units are made at every boot for what such a machine has not: encrypted disks, partitions, a console
# to log in on, a kernel command line of its user's, updates while it is down.
mkdir -p etc/systemd/system-generators
for what in cryptsetup debug getty gpt-auto hibernate-resume integritysetup run system-update \
    veritysetup; do
    ln -s /dev/null "etc/systemd/system-generators/systemd-$what-generator"
done

# Services that have something to do when there is something: modules that somebody names, logs
# that are kept.
rm -f etc/modules-load.d/modules.conf
mkdir -p etc/systemd/system/systemd-journal-flush.service.d
cat > etc/systemd/system/systemd-journal-flush.service.d/50-banger.conf <<'EOF'
[Unit]
ConditionPathExists=/var/log/journal
EOF

# udev looks at what has a rule that matters here. The rest is half of all devices: terminals of a
# screen that is not there, blocks of memory, work queues.
mkdir -p etc/systemd/system/systemd-udev-trigger.service.d
cat > etc/systemd/system/systemd-udev-trigger.service.d/50-banger.conf <<'EOF'
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=all --action=add --prioritized-subsystem=module,block,net,input \
    --subsystem-nomatch=tty --subsystem-nomatch=vc --subsystem-nomatch=memory \
    --subsystem-nomatch=workqueue --subsystem-nomatch=wakeup --subsystem-nomatch=event_source
EOF

# Who asks for these two starts them, through D-Bus' socket; most machines see nobody who does.
mkdir -p etc/systemd/system/multi-user.target.wants
for unit in dbus.service systemd-logind.service; do
    ln -s /dev/null "etc/systemd/system/multi-user.target.wants/$unit"
done

# sshd is started by the first connection: the port is open early, and boots without ssh are
# spared the time.
chroot . systemctl --quiet disable ssh.service
chroot . systemctl --quiet enable ssh.socket
chroot . systemctl --quiet set-default multi-user.target

# Where the kernel's modules appear
mkdir -p usr/lib/modules

# Leftovers of the installation; the first would turn dpkg's syncing off in the guest too
rm -f etc/dpkg/dpkg.cfg.d/99mmdebstrap
find var/log var/cache/debconf -type f -delete
find var/lib/dpkg -maxdepth 1 -name '*-old' -delete
rm -rf var/cache/apt/*.bin var/cache/ldconfig/aux-cache

# Nothing has changed since the packages were set up: systemd need not look.
touch -r usr etc/.updated var/.updated
