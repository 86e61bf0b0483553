# shellcheck shell=sh
# Helpers for scripts that run in dom0: `. /testbed/dom0.sh`
guests=/testbed/guests
uptime_s() { read -r up_ _ </proc/uptime; echo "$up_"; }
# now: hundredths of a second since the start, in $now_.
now() { read -r now_ _ </proc/uptime; now_=${now_%.*}${now_#*.}; now_=${now_#0}; now_=${now_#0}; }
# seconds SINCE: prints the seconds since a $now_.
seconds() { now; printf '%d.%02d\n' $(((now_ - $1) / 100)) $(((now_ - $1) % 100)); }
# await SECONDS COMMAND...: until the command succeeds; fails after that many seconds of dom0's clock.
await() {
    now; until_=$((now_ + $1 * 100)); shift
    # Less and less often: looking costs the guest time, on the one processor.
    pause_=20000
    until "$@" >/dev/null 2>&1; do
        now; [ "$now_" -lt "$until_" ] || return 1
        usleep $pause_; pause_=$((pause_ < 300000 ? pause_ * 3 / 2 : pause_))
    done
}
# stamp PREFIX: copies lines from stdin to stdout, each with dom0's uptime before it.
stamp() { while IFS= read -r l_; do read -r up_ _ </proc/uptime; printf '%s %s %s\n' "$up_" "$1" "$l_"; done; }
# since "$(clock)" TEXT: virtual (or real) and busy time from an earlier `clock` until now.
# shellcheck disable=SC2046,SC2086 # two numbers each
since() { set -- "$2" $1 $(clock); echo "$(uptime_s) $1: $((($4 - $2) / 1000)) us, busy $((($4 - $2 - $5 + $3) / 1000)) us"; }
# dm_pid NAME: the device model's process.
dm_pid() { xenstore-read "/local/domain/$(xl domid "$1")/image/device-model-pid"; }
# config NAME DISKS [LINE...]: prints a guest configuration. COM1 goes to the FIFO /run/NAME.com1.
config() {
    n_=$1 d_=$2; shift 2
    [ -p "/run/$n_.com1" ] || mkfifo "/run/$n_.com1"
    cat <<C
name="$n_"
type="hvm"
memory=256
vcpus=1
tsc_mode="native"
vga="stdvga"
vnc=1
vnclisten="127.0.0.1"
serial="file:/run/$n_.com1"
bios="seabios"
bios_path_override="$guests/seabios-nowait.bin"
disk=[$d_]
on_poweroff="destroy"
on_reboot="destroy"
on_crash="destroy"
C
    for l_; do echo "$l_"; done
}
# disk VDEV FILE [OPTION]: one element of `disk=[...]`.
disk() { echo "\"format=raw,vdev=$1,access=rw,backendtype=qdisk${3:+,$3},target=$2\""; }
# guest_run CONFIG-FILE: creates the guest, prints its COM1 lines with times, returns when it is gone.
guest_run() {
    n_=$(sed -n 's/^name="\(.*\)"/\1/p' "$1")
    stamp "$n_" <"/run/$n_.com1" & s_=$!
    c_=$(clock)
    echo "$(uptime_s) $n_ -- xl create"
    exec 9<>"/run/$n_.com1"     # keeps the FIFO open until the guest is gone
    xl create -F "$1" >/out/"$n_".xl 2>&1 & x_=$!
    wait $x_; r_=$?
    exec 9>&-
    wait $s_
    since "$c_" "$n_ -- gone, xl status $r_"
    return $r_
}
# What follows is for tests of bulkhead-dm. (Not every script that reads this uses it.)
tools=/usr/lib/bulkhead-tests
dm=/usr/lib/bulkhead/bulkhead-dm
# our NAME DISKS [LINE...]: like config, with Bulkhead as device model.
our() { config "$@" 'device_model_version="qemu-xen"' "device_model_override=\"$dm\"" 'vkb_device=0'; }
# stub NAME DISKS [LINE...]: with Bulkhead in a stub domain of its own.
stub() {
    config "$@" 'device_model_version="qemu-xen"' 'device_model_stubdomain_override=1' "device_model_override=\"$dm\"" \
        "stubdomain_kernel=\"${stub_image:-/usr/lib/bulkhead/stubdom}/kernel\"" "stubdomain_ramdisk=\"${stub_image:-/usr/lib/bulkhead/stubdom}/ramdisk\"" 'stubdomain_memory=64'
}
# tree NAME: pids of the guest's device model and its processes: role and pid, one a line.
tree() {
    p_=$(dm_pid "$1") && $tools/bulkhead-bed tree "$p_"
}
# role_pid NAME ROLE
role_pid() { $tools/bulkhead-bed tree "$(dm_pid "$1")" "$2" | head -n 1; }
# pids NAME [ROLE]: of all its processes, or of those of a role.
pids() { tree "$1" | while read -r role_ pid_; do [ "${2:-$role_}" != "$role_" ] || echo "$pid_"; done; }
# nothing_left: no process of a device model, no QMP socket.
nothing_left() { ! pidof bulkhead-dm bulkhead-roles platform ide vga ps2 serial broker control >/dev/null && ! ls /var/run/xen/qmp-libx* >/dev/null 2>&1; }
# qmp NAME COMMAND: sends one command, prints the answer.
qmp() { bulkhead qmp "$(xl domid "$1")" "$2"; }
# picked WORD...: values of the JSON on standard input (bulkhead-bed json); fails if there is none.
picked() { $tools/bulkhead-bed json "$@"; }
# shows NAME DEVICE WORD...: of a device's registers and counters.
shows() { d_=$2; bulkhead --json inspect "$(xl domid "$1")" "$d_" | { shift 2; picked '*' "$@"; }; }
# process NAME PROCESS WORD...: of its row in the guest's table; PROCESS may end in a star.
process() { bulkhead --json ps "$(xl domid "$1")" | { r_=$2; shift 2; picked processes "name=$r_" "$@"; }; }
# guests_left SECONDS: the numbers of the domains beside dom0, asked for at most that long.
guests_left() { timeout "$1" xl list | tail -n +3 | while read -r _ d_ _; do echo "$d_"; done; }
# who_waits: every process, and where in the kernel it is.
who_waits() { ps -o pid,ppid,stat,time,args; for p_ in /proc/[0-9]*; do echo "${p_#/proc/} $(cat "$p_/comm"): $(head -n 4 "$p_/stack" | tr '\n' ' ')"; done; }
# check NAME COMMAND...: runs a test and says how it went and how long it took. One that takes longer than $test_limit s is
# killed; its log says what everybody was waiting for.
check() {
    t_=$1; shift
    now; b_=$now_
    ( "$@" ) >"/out/$t_.log" 2>&1 & c_=$!
    ( trap 'kill $s_; exit' TERM; sleep "${test_limit:-900}" & s_=$!; wait $s_
      { echo "the test's time is up"; who_waits; } >>"/out/$t_.log" 2>&1; kill -KILL $c_ ) 2>/dev/null & g_=$!
    if wait $c_; then r_=ok; else r_="not ok"; fi
    kill $g_ 2>/dev/null
    now; echo "$r_ $t_ # $(((now_ - b_) / 100)) s"
    # Disks are in memory here: without this the tests of a whole suite fill it.
    if [ "$r_" = ok ]; then find /run -xdev -type f -size +1024k -exec rm -f {} +; return; fi
    tail -n 40 "/out/$t_.log" | sed "s/^/# /"
    # What it has left must not spoil the tests that follow.
    for d_ in $(guests_left 60); do timeout 60 xl destroy "$d_"; done
    df -h /run | sed 's/^/# /'; find /run -xdev -type f -size +1024k -exec rm -f {} +
}
