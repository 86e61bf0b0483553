# shellcheck shell=sh
# Random faults on real Xen, for `integration/campaign faults`: read by integration/tests/bed/suite.

# dice N: a number below N, in $dice_. The numbers follow from $seed.
dice() { seed=$(((seed * 1103515245 + 12345) % 2147483648)); dice_=$((seed / 65536 % $1)); }
# one WORD...: one of the words, in $one_.
one() { dice $#; shift $dice_; one_=$1; }
# A line that is not yet whole has no dot.
acked() { grep -o 'GUEST-ACK [0-9]*\.' "/run/$1.out" | tail -n 1 | tr -dc '0-9'; }
passed() { [ "$(acked "$1")" -gt "$2" ] 2>/dev/null; }
outcome() { echo "$1" >/run/outcome; }
# roles NAME: the machine's processes, as far as they run: not stopped, not dying.
roles() { tree "$1" | while read -r role_ pid_; do case $(cut -d' ' -f3 "/proc/$pid_/stat" 2>/dev/null) in '' | Z | T) ;; *) echo "$role_";; esac; done | sort; }
complete() { roles "$1" | cmp -s - "/run/$1.roles"; }
# fault NAME WHAT [ROLE]: lets it happen to the guest NAME. Which row of the failure table it came to is what is seen afterwards.
fault() {
    p_=$(pids "$1" "${3:-none}" | tail -n 1)
    [ -z "${3:-}" ] || [ "$p_" ] || { echo "there is no $3"; return 1; }
    case $2 in
        kill) kill -KILL "$p_";;
        stop) dice 2500; kill -STOP "$p_"; usleep $((dice_ * 1000)); kill -CONT "$p_";;
        freeze) kill -STOP "$p_"; await 20 sh -c "! kill -0 $p_"; kill -CONT "$p_" 2>/dev/null || :;;
        restart) bulkhead restart "$1" "$3";;
        xenstored) dice 6; kill -STOP "$(pidof xenstored)"; usleep $((dice_ * 1000000 + 200000)); kill -CONT "$(pidof xenstored)"; outcome "xenstored is silent";;
        full)
            before_=$(grep -c GUEST-TRIES "/run/$1.out")
            dd if=/dev/zero of=/run/room/filler bs=64k 2>/dev/null
            # A cluster has room for sixteen records; the image has what it has.
            await 40 sh -c "[ \$(grep -c GUEST-TRIES /run/$1.out) -gt $before_ ]"; r_=$?
            rm -f /run/room/filler
            [ $r_ = 0 ] || return 1; outcome "its storage fails, is full, or its image is too short";;
        truncated)
            before_=$(grep -c GUEST-SHORT "/run/$1.out")
            truncate -s 31M "/run/$1.img"; await 40 sh -c "[ \$(grep -c GUEST-SHORT /run/$1.out) -gt $before_ ]"; r_=$?
            truncate -s 32M "/run/$1.img"
            [ $r_ = 0 ] || return 1; outcome "its storage fails, is full, or its image is too short";;
        slow) echo 3 >/proc/sys/vm/drop_caches; outcome "its storage is slow";;
    esac
}
# came_to NAME WHAT ROLE PID: the row that a fault of a process has come to: another process serves, or the same one. A killed one never serves on.
came_to() {
    if [ "$(pids "$1" "$3" | tail -n 1)" = "$4" ]; then
        case $2 in stop | freeze) outcome "it is late by less, or no access waits for it"; return;; esac
        echo "process $4 serves on"; return 1
    fi
    case $2-$3 in
        *-control) outcome "control ends or stops in its start";;
        stop-* | freeze-*) outcome "it does not answer an access in 5 s";;
        *) outcome "a device's process ends, or breaks a rule and is killed";;
    esac
}
# befall NAME FIRST LAST KIND...: these faults, drawn from KIND (`WHAT ROLE`), each with the guest's next records after it.
befall() {
    name_=$1 n_=$2 last_=$3; shift 3
    await 40 sh -c "[ -s /run/$name_.roles ]" || return 1
    while [ "$n_" -le "$last_" ]; do
        one "$@"; what_=${one_%% *} who_=${one_#* }; [ "$who_" != "$one_" ] || who_=''
        # Five restarts in a minute are allowed.
        case $what_ in kill | restart | freeze)
            now; [ $((now_ - $(cat "/run/struck.$who_" 2>/dev/null || echo -9999))) -gt 1300 ] || continue
            echo "$now_" >"/run/struck.$who_";;
        esac
        dice 400; usleep $((dice_ * 1000)); at_=$(acked "$name_")
        fault "$name_" "$what_" "$who_" || { echo "fault $n_ $what_ $who_: the guest does not meet it"; return 1; }
        await 180 passed "$name_" $((at_ + 2)) || { echo "fault $n_ $what_ $who_: the guest does not go on after record $at_"; return 1; }
        await 60 complete "$name_" || { echo "fault $n_ $what_ $who_: not all processes run"; roles "$name_" | diff "/run/$name_.roles" -; return 1; }
        [ -z "$who_" ] || came_to "$name_" "$what_" "$who_" "$p_" || { echo "fault $n_ $what_ $who_: of no row"; return 1; }
        echo "fault $n_ $what_ $who_: $(cat /run/outcome)"; n_=$((n_ + 1))
    done
}
# survives NAME IMAGE: the guest stops, nothing of it is left, and every record that it was told is on its disks is there.
survives() {
    tell "$1" stop; await 240 gone "$1" || { trouble "$1"; return 1; }
    exec 6>&-; last_ack=$(acked "$1"); echo "acknowledged: records 0 to $last_ack"
    qemu-img check "$2" || [ $? = 3 ] || return 1
    qemu-img convert -O raw "$2" "/run/$1.raw" || return 1
    $tools/bulkhead-bed records "/run/$1.data" $((30000 * 4096)) 4096 "$last_ack" b && $tools/bulkhead-bed records "/run/$1.raw" 0 4096 "$last_ack" e && await 40 nothing_left
}
# The guests, one with emulated disks and one with PV ones, of whose processes each fault is of one. BED_SEED and BED_COUNT are for another list.
faults() {
    seed=${BED_SEED:-1} count=${BED_COUNT:-200}; guest_limit=9000
    modprobe -a virtio_pci virtio_blk 2>/dev/null; slow=/dev/vda; [ -b $slow ] || { slow=/run/fi.slow; truncate -s 8M $slow; }
    mkdir -p /run/room; mount -t tmpfs -o size=64m none /run/room && qemu-img create -q -f qcow2 /run/room/fi.qcow2 400M && qemu-img create -q -f qcow2 /run/fp.qcow2 400M || return 1
    linux_config our fi faults 'serial="pty"'
    sed -i 's#^disk=\[\(.*\)\]#disk=[\1,"format=qcow2,vdev=hdc,access=rw,backendtype=qdisk,target=/run/room/fi.qcow2",'"$(disk hdd $slow)"']#' /run/fi.cfg
    faulty fi || return 1
    befall fi 1 $((count / 2)) 'kill platform' 'kill ide' 'kill ide' 'kill vga' 'kill ps2' 'kill serial' 'kill vnc' 'kill control' 'stop platform' 'stop ide' 'stop vga' 'stop control' 'stop broker' 'stop launcher' \
        'freeze ide' 'restart ide' 'restart platform' 'restart vga' xenstored full truncated slow slow || { trouble fi; bulkhead ps fi; return 1; }
    survives fi /run/room/fi.qcow2 || return 1
    umount /run/room
    cmdline='xen_emul_unplug=all' linux_config our fp faults 'serial="pty"'
    sed -i 's#^disk=\[\(.*\)\]#disk=[\1,"format=qcow2,vdev=xvde,access=rw,backendtype=qdisk,target=/run/fp.qcow2"]#' /run/fp.cfg
    faulty fp || return 1
    befall fp $((count / 2 + 1)) "$count" 'kill qdisk' 'kill qdisk' 'kill qdisk' 'kill xenbus' 'kill grant' 'kill platform' 'kill vga' 'kill control' 'stop qdisk' 'stop xenbus' 'stop grant' 'stop control' 'stop broker' 'stop launcher' \
        xenstored xenstored || { trouble fp; bulkhead ps fp; return 1; }
    survives fp /run/fp.qcow2 || return 1
    echo "faults: $count, all as the table says"
}
# A guest that writes is stopped by QMP, and goes on: its images stay as they are meanwhile, and no record is lost.
stop_and_go() { stopped_with hdc ide && cmdline='xen_emul_unplug=all' stopped_with xvde qdisk; }
stopped_with() { # stopped_with DISK ROLE: the second disk, and whose process is killed
    rm -f /run/sg.*; qemu-img create -q -f qcow2 /run/sg.qcow2 400M || return 1
    linux_config our sg faults 'serial="pty"'
    sed -i "s#^disk=\\[\\(.*\\)\\]#disk=[\\1,\"format=qcow2,vdev=$1,access=rw,backendtype=qdisk,target=/run/sg.qcow2\"]#" /run/sg.cfg
    faulty sg || return 1
    images() { dd if=/run/sg.data bs=4096 skip=30000 count=4000 2>/dev/null | sha256sum; sha256sum </run/sg.qcow2; }
    told() { qmp sg "{\"execute\":\"$1\"}" | tee /run/sg.told; grep -q '"return"' /run/sg.told; }
    goes_on() {
        at_=$(acked sg); told cont || return 1
        await 120 passed sg $((at_ + 2)) || { echo "the guest does not go on after record $at_"; trouble sg; bulkhead ps sg; return 1; }
    }
    for round_ in 1 2 3; do
        told stop || return 1
        images >/run/sg.sums
        qmp sg '{"execute":"query-status"}' | picked return status =paused >/dev/null || return 1
        for look_ in 1 2 3 4; do
            usleep 500000
            images | cmp -s - /run/sg.sums || { echo "round $round_, look $look_: the images are others"; return 1; }
        done
        goes_on || return 1
    done
    # One is killed while the machine stands still: its successor waits too.
    told stop || return 1
    images >/run/sg.sums
    old_=$(role_pid sg "$2"); kill -KILL "$old_"; await 40 new_role sg "$2" "$old_" || return 1
    for look_ in 1 2 3 4; do
        usleep 500000
        images | cmp -s - /run/sg.sums || { echo "look $look_: the next process of $2 has written"; return 1; }
    done
    goes_on || return 1
    survives sg /run/sg.qcow2
}
# faulty NAME: starts the guest, and notes what processes it has once it writes.
faulty() {
    truncate -s 400M "/run/$1.data"
    xl create -p "/run/$1.cfg" || { cat "/var/log/xen/qemu-dm-$1.log"; return 1; }
    rm -f "/run/$1.in"; mkfifo "/run/$1.in"
    $tools/bulkhead-bed terminal xl console "$1" <"/run/$1.in" >"/run/$1.out" 2>&1 &
    exec 6<>"/run/$1.in"; xl unpause "$1"
    await 480 said "$1" GUEST-BLOCK || { trouble "$1"; return 1; }
    say begin; await 240 passed "$1" 2 || { trouble "$1"; bulkhead ps "$1"; return 1; }
    # The back ends come one after the other.
    roles "$1" | tee "/run/$1.roles"
}
