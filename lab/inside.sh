#!/bin/sh
# Runs the scenarios inside the outer machine, as root of it.
#
# /lab is the disk that was carried in: `plan` has a line for each run, "VMM WHO SCENARIOS";
# `target` looks like a build directory. Everything said on the second serial line is read by
# the lab, lines that begin with "lab:" by its program. The logs go out as a tar archive on the
# disk `results`.
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

# No network but the loopback; what a scenario needs more it makes for itself.
ip link set lo up

modprobe kvm-amd || say "trouble: kvm-amd does not load"
udevadm settle
say "kvm $(stat -c '%U:%G %a' /dev/kvm 2>&1)"

run() {
    vmm=$1 who=$2 names=$3
    say "begin $vmm $who"
    chown -R "$who:" /lab/target
    out="$logs/$vmm-$who.log"
    set -- /lab/scenarios --vmm "$vmm" --scenario "$names" --jobs "$LAB_JOBS" \
        --ground /lab/target/tmp --offline
    if [ "$names" = bench ]; then
        set -- env BANGER_BENCH_VMM="$vmm" BANGER_BENCH_ONLY=boots BANGER_BENCH_N="$LAB_BENCH" \
            HOME=/lab/target /lab/target/release/banger-bench
    fi
    if [ "$who" != root ]; then
        set -- runuser -u "$who" -- "$@"
    fi
    { BANGER_TEST_BASE=keep "$@" < /dev/null; echo $? > "$logs/code"; } 2>&1 | tee "$out"
    # What is left of worlds that failed.
    for world in /lab/target/tmp/*/; do
        world=${world%/}
        [ "${world##*/}" = base ] && continue
        mkdir -p "$logs/$vmm-$who"
        (cd "$world" && find . -name '*.log' -size -4M -o -name 'console*' -size -4M) |
            tar -C "$world" -cf "$logs/$vmm-$who/${world##*/}.tar" -T - && rm -rf "$world"
    done
    rm -rf /tmp/banger-test-*
    say "end $vmm $who $(cat "$logs/code")"
}

# shellcheck source=/dev/null
. /lab/settings
export BANGER_TEST_TIME_FACTOR
# The programs that are carried in, such as Firecracker.
export PATH="$PATH:/lab/bin"
say "up $(cut -d ' ' -f 1 /proc/uptime)"
while read -r vmm who names; do
    run "$vmm" "$who" "$names"
done < /lab/plan
journalctl --no-pager --lines 2000 > "$logs/journal.txt"
dmesg > "$logs/dmesg.txt"
tar -cf /dev/disk/by-id/virtio-results -C "$logs" .
sync
say "done"
