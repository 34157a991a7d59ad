#!/bin/sh
# Runs scenarios inside the outer machine, as root of it.
#
# /lab is the disk that was carried in: `settings` says which scenarios run on which VMM as which
# user; `target` looks like a build directory. Everything said on the second serial line is read
# by the lab, lines that begin with "lab:" by its program. The logs go out as a tar archive on
# the disk `results`.
set -u
exec > /dev/ttyS1 2>&1
stty -F /dev/ttyS1 raw
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C.UTF-8
logs=/lab/logs
mkdir -p "$logs"

say() {
    echo "lab: $*"
}

# shellcheck source=/dev/null
. /lab/settings
export BANGER_TEST_TIME_FACTOR
# The programs that are carried in, such as Firecracker.
export PATH="$PATH:/lab/bin"

# No network but the loopback; what a scenario needs more it makes for itself.
ip link set lo up
modprobe kvm-amd || say "trouble: kvm-amd does not load"
udevadm settle
say "up $(cut -d ' ' -f 1 /proc/uptime) kvm $(stat -c '%U:%G %a' /dev/kvm 2>&1)"

chown -R "$LAB_WHO:" /lab/target
set -- /lab/scenarios --vmm "$LAB_VMM" --scenario "$LAB_SCENARIOS" --jobs 1 \
    --ground /lab/target/tmp --offline
if [ -d /lab/archive ]; then
    # To apt it is the archive itself, by its names and signatures.
    sort -u /lab/archive/hosts | sed 's/^/127.0.0.1 /' >> /etc/hosts
    busybox httpd -p 127.0.0.1:80 -h /lab/archive
    set -- "$@" --archive
fi
if [ "$LAB_SCENARIOS" = bench ]; then
    set -- env BANGER_BENCH_VMM="$LAB_VMM" BANGER_BENCH_ONLY=boots BANGER_BENCH_N="$LAB_BENCH" \
        HOME=/lab/target /lab/target/release/banger-bench
fi
if [ "$LAB_WHO" != root ]; then
    set -- runuser -u "$LAB_WHO" -- "$@"
fi
{ BANGER_TEST_BASE=keep "$@" < /dev/null; echo $? > "$logs/code"; } 2>&1 | tee "$logs/scenarios.log"

# What is left of worlds that failed.
for world in /lab/target/tmp/*/; do
    world=${world%/}
    case ${world##*/} in base | plain) continue ;; esac
    (cd "$world" && find . -name '*.log' -size -4M -o -name 'console*' -size -4M) |
        tar -C "$world" -cf "$logs/${world##*/}.tar" -T -
done
journalctl --no-pager --lines 2000 > "$logs/journal.txt"
dmesg > "$logs/dmesg.txt"
tar -cf /dev/disk/by-id/virtio-results -C "$logs" .
sync
say "end $(cat "$logs/code")"
