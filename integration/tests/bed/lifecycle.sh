# shellcheck shell=sh
# Saved machines, read by integration/tests/bed/suite.

# hops NAME: accesses of the guest that its devices have answered.
hops() { shows "$1" broker "full hops"; }
more_hops() { [ "$(hops "$1")" -gt "$2" ]; }
# reads_on NAME: the guest makes accesses.
reads_on() { hops_=$(hops "$1") && await 60 more_hops "$1" $((hops_ + 20)); }
log_of() { cat "/var/log/xen/qemu-dm-$1.log"; }
# saves NAME FILE [OPTION...]: saves the guest and, without -c, checks that nothing of it is left.
saves() {
    name_=$1 file_=$2; shift 2
    xl save "$@" "$name_" "$file_" || { log_of "$name_"; xl list; return 1; }
    case "$*" in *-c*) return 0;; esac
    await 40 gone "$name_" || { echo "it is still there"; return 1; }
}
restores() { xl restore "$2" || { log_of "$1"; xl list; xl dmesg | tail -n 5; return 1; }; }
# connected NAME: the guest's serial line, after it has been restored.
connected() {
    exec 6>&-; rm -f "/run/$1.in"; mkfifo "/run/$1.in"
    $tools/bulkhead-bed terminal xl console "$1" <"/run/$1.in" >>"/run/$1.out" 2>&1 &
    exec 6<>"/run/$1.in"
}

# A guest in the firmware's time: it is saved, goes on elsewhere, and is saved four times while it lives.
save_restore() {
    reader sr || return 1
    reads_on sr || return 1
    saves sr /run/sr.save || return 1
    await 20 nothing_left || { ps; return 1; }
    ls -l /run/sr.save
    restores sr /run/sr.save || return 1
    reads_on sr || { echo "it does not go on"; log_of sr; xl list; return 1; }
    [ "$(grep -c BOOT-OK /run/sr.out)" = 1 ] || { echo "it has booted again"; return 1; }
    for round_ in 1 2 3 4; do
        saves sr /run/sr.save -c || return 1
        reads_on sr || { echo "round $round_: it does not go on"; log_of sr; return 1; }
    done
    # Paused it stays.
    saves sr /run/sr.save && xl restore -p /run/sr.save || return 1
    qmp sr '{"execute":"query-status"}' | picked return status =paused || return 1
    xl unpause sr && reads_on sr || return 1
    # Another configuration is refused, and nothing is left.
    saves sr /run/sr.save || return 1
    truncate -s 8M /run/other.img
    sed 's#/run/sr.img#/run/other.img#' /run/sr.cfg >/run/other.cfg
    xl restore /run/other.cfg /run/sr.save && { echo "it was restored with another disk"; return 1; }
    log_of sr | grep 'BH-0210\|when the machine was saved' || { log_of sr; return 1; }
    ! xl domid sr && await 20 nothing_left || return 1
    restores sr /run/sr.save && reads_on sr || return 1
    xl destroy sr; await 20 nothing_left
}

# A Linux guest that writes: no record that it was told of is lost over saves, restores, and saves after which it goes on.
save_linux() { saved_with hdc ''; }
save_pv() { saved_with xvde xen_emul_unplug=all; }
# writer NAME DISK CMDLINE [SCRIPT]: a Linux guest that writes records to a qcow2 image.
writer() {
    rm -f "/run/$1".*; qemu-img create -q -f qcow2 "/run/$1.qcow2" 400M || return 1
    cmdline=$3 linux_config our "$1" "${4:-faults}" 'serial="pty"'
    sed -i "s#^disk=\\[\\(.*\\)\\]#disk=[\\1,\"format=qcow2,vdev=$2,access=rw,backendtype=qdisk,target=/run/$1.qcow2\"]#" "/run/$1.cfg"
    faulty "$1"
}
saved_with() { # saved_with DISK CMDLINE
    writer sl "$1" "$2" || return 1
    for round_ in 1 2; do
        at_=$(acked sl)
        saves sl /run/sl.save -c || return 1
        await 120 passed sl $((at_ + 2)) || { echo "after save -c $round_ the guest does not go on after record $at_"; trouble sl; return 1; }
        at_=$(acked sl)
        saves sl /run/sl.save || return 1
        await 20 nothing_left || return 1
        restores sl /run/sl.save || return 1
        connected sl
        await 120 passed sl $((at_ + 2)) || { echo "restored $round_, the guest does not go on after record $at_"; trouble sl; bulkhead ps sl; return 1; }
    done
    survives sl /run/sl.qcow2
}

# migrates NAME [OPTION...]: moves the running guest into another domain of this host. xl sends every page again at the end, and the receiver
# compares it with what it has. With `pv` set, pages that the guest shares with PV back ends may differ: Xen does not see what is written
# there as long as they are mapped, whichever back end writes, and drivers make them anew when they come back.
migrates() {
    name_=$1; shift
    xl migrate --debug "$@" -s '' "$name_" 'xl -vvv migrate-receive' >/run/migrate.out 2>&1; r_=$?
    grep -v 'libxl: debug' /run/migrate.out
    [ $r_ = 0 ] || { log_of "$name_"; log_of "$name_--incoming"; xl list; return 1; }
    grep -qi 'verify mode' /run/migrate.out || { echo "nothing was compared"; return 1; }
    ! grep 'verify pfn' /run/migrate.out || [ "${pv:-}" ] || { echo "a page is not the guest's"; return 1; }
}
# A guest in the firmware's time is moved three times, and stays where it is when that fails.
migrate() {
    reader mg || return 1
    reads_on mg || return 1
    for round_ in 1 2 3; do
        at_=$(xl domid mg)
        migrates mg || return 1
        [ "$(xl domid mg)" != "$at_" ] || { echo "it is where it was"; return 1; }
        reads_on mg || { echo "round $round_: it does not go on"; log_of mg--incoming; return 1; }
    done
    [ "$(grep -c BOOT-OK /run/mg.out)" = 1 ] || { echo "it has booted again"; return 1; }
    stays mg || return 1
    xl destroy mg; await 20 nothing_left
}
# stays NAME: migrations that fail, at the points where one can. The guest goes on where it was, and nothing is left of the other.
stays() {
    stays_after "$1" 'the receiver does not begin' false || return 1
    # The first message of the receiver has 54 bytes; the second one, that it has the whole guest, does not arrive.
    cat >/run/late-receiver <<'R'
#!/bin/sh
rm -f /run/late.pipe; mkfifo /run/late.pipe
dd bs=1 count=60 </run/late.pipe 2>/dev/null &
exec xl migrate-receive >/run/late.pipe
R
    chmod 755 /run/late-receiver
    stays_after "$1" 'the receiver ends before the guest runs' /run/late-receiver || return 1
    sed "s#/run/$1.img#/run/no-such.img#" "/run/$1.cfg" >/run/other.cfg
    stays_after "$1" 'the image is not there' 'xl migrate-receive' -C /run/other.cfg
}
one_left() { [ "$(pidof bulkhead-dm | wc -w)" = 1 ]; }
stays_after() { # stays_after NAME WHAT RECEIVER [OPTION...]
    who_=$1 what_=$2 to_=$3 at_=$(xl domid "$1"); shift 3
    xl migrate "$@" -s '' "$who_" "$to_" && { echo "$what_: it was moved"; return 1; }
    [ "$(xl domid "$who_")" = "$at_" ] || { echo "$what_: it is not where it was"; xl list; return 1; }
    reads_on "$who_" || { echo "$what_: it does not go on"; log_of "$who_"; return 1; }
    xl domid "$who_--incoming" && xl destroy "$who_--incoming"
    await 20 one_left || { ps; return 1; }
}
# Linux writes, on the disk that DISK names: no record that it was told of is lost over four moves.
migrate_linux() { moved_with hdc ''; }
migrate_pv() { pv=1 moved_with xvde xen_emul_unplug=all; }
moved_with() { # moved_with DISK CMDLINE
    writer ml "$1" "$2" moves || return 1
    for round_ in 1 2 3 4; do
        at_=$(acked ml)
        migrates ml || { trouble ml; return 1; }
        connected ml
        await 120 passed ml $((at_ + 2)) || { echo "moved $round_, the guest does not go on after record $at_"; trouble ml; log_of ml--incoming; bulkhead ps ml; return 1; }
    done
    survives ml /run/ml.qcow2
}

# With dm_restrict, whose device model may make small files only.
save_restricted() {
    users
    reader sd 'dm_restrict=1' || return 1
    saves sd /run/sd.save -c && reads_on sd || return 1
    saves sd /run/sd.save || return 1
    await 20 nothing_left || return 1
    { restores sd /run/sd.save && reads_on sd; } || { log_of sd; return 1; }
    xl destroy sd; await 20 nothing_left
}

# With its device model in a stub domain, whose state goes to dom0 and comes from there by consoles.
stub_save() {
    how=stub reader sb || return 1
    reads_on sb || return 1
    for round_ in 1 2; do
        saves sb /run/sb.save -c || return 1
        reads_on sb || { echo "round $round_: it does not go on"; log_of sb; return 1; }
    done
    for round_ in 1 2; do
        saves sb /run/sb.save || return 1
        await 40 stub_left || { xl list; return 1; }
        restores sb /run/sb.save || { log_of sb-dm; return 1; }
        reads_on sb || { echo "restored $round_: it does not go on"; log_of sb; return 1; }
    done
    [ "$(grep -c BOOT-OK /run/sb.out)" = 1 ] || { echo "it has booted again"; return 1; }
    xl migrate -s '' sb 'xl migrate-receive' 2>/run/migrate.err && { echo "it was moved"; return 1; }
    grep 'live migration is not supported in a stub domain yet' /run/migrate.err || { cat /run/migrate.err; return 1; }
    reads_on sb || { echo "it does not go on after it was not moved"; log_of sb; return 1; }
    xl destroy sb; await 40 stub_left
}

open_files() { for role_ in control broker ide vga; do find "/proc/$(role_pid "$1" "$role_")/fd" -type l | wc -l; done; }
# A guest that is saved twenty times while it lives: nothing is used up.
save_twenty() {
    reader st || return 1
    reads_on st || return 1
    for round_ in $(seq 20); do
        saves st /run/st.save -c || return 1
        reads_on st || { echo "round $round_: it does not go on"; log_of st; return 1; }
        open_files st >"/run/st.$round_"
    done
    cmp /run/st.1 /run/st.20 || { cat /run/st.1 /run/st.20; return 1; }
    xl destroy st; await 20 nothing_left
}

# A reset of the domain in place, as kexec and kdump do it: a new device model on the same domid goes on where the former one was.
soft_reset() {
    head -c 1048576 /dev/zero >/run/rs.img; cp /run/rs.img /run/rs2.img
    our rs "$(disk hda /run/rs.img),$(disk xvdb /run/rs2.img)" 'memory=64' "$@" | sed '/^serial=/d' >/run/rs.cfg
    printf 'serial="file:/run/rs.com1"\nfirmware_override="%s/micro-reset.elf"\n' "$guests" >>/run/rs.cfg
    guest_run /run/rs.cfg >/run/rs.out
    { grep -q MICRO-OK /run/rs.out && grep -q WENT-ON /run/rs.out && grep -q MICRO-END /run/rs.out && await 20 nothing_left; } ||
        { cat /run/rs.out /out/rs.xl; log_of rs; xl dmesg | tail -n 20; return 1; }
    cat /out/rs.xl; log_of rs | grep 'former ioreq server ends'
}
# With dm_restrict the former device model ends with its user's last process.
soft_reset_restricted() { users; soft_reset 'dm_restrict=1'; }
# Linux goes on with another kernel, which finds its disk and its CD. Without a display: the first kernel gives the memory back that a display
# has by libxl's count, the second one wants to do it again, and may stop with a bug of its own (drivers/xen/balloon.c), with QEMU too.
soft_reset_linux() {
    linux_config "${how:-our}" rl kexec 'memory=256' 'vga="none"' 'vnc=0' "$@" || return 1
    sed -i "s#^disk=\\[\\(.*\\)\\]#disk=[\\1,\"format=raw,vdev=hdc,access=ro,devtype=cdrom,target=$guests/linux.iso\"]#" /run/rl.cfg
    guest_run /run/rl.cfg >/run/rl.out
    cat /run/rl.out /out/rl.xl
    { grep -q 'GUEST-SECOND second=1' /run/rl.out && grep -q "$(sum /run/rl.img 65536)" /run/rl.out && grep -q "GUEST-CD-SUM $(cat $guests/linux.iso.sum)" /run/rl.out &&
        log_of rl | grep 'former ioreq server ends' && await 20 nothing_left; } || { log_of rl; xl dmesg | tail -n 20; xl destroy rl; return 1; }
}
# Linux crashes, and its crash kernel finds the disks: kdump.
soft_reset_kdump() {
    soft_reset_linux "kernel=\"$guests/vmlinuz\"" "ramdisk=\"$guests/initrd\"" 'memory=512' \
        'cmdline="console=ttyS0 quiet panic=-1 mitigations=off nokaslr xen_emul_unplug=never crashkernel=192M"' || return 1
    grep 'Kernel panic\|sysrq' /run/rl.out
}
