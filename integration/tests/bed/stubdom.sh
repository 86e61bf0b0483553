# shellcheck shell=sh
# Part of the suite: guests whose device model is in a stub domain. The image is the one of `integration/stubdom/build`,
# for what must be seen from inside also the debugging image.
# The stub domain: three lives of the tiny guest, seen by control over vchan; nothing is left in dom0.
stub_left() { ! xl list | grep -q -- -dm && ! pidof bulkhead-dm xen-qemu-system-i386 vchan-socket-proxy >/dev/null; }
stub_tiny() {
    # There is no QEMU in dom0: this program serves the stub domain's disk, consoles, frame buffer and keyboard too.
    mv /usr/libexec/xen-qemu-system-i386 /usr/libexec/away || return 1
    trap 'mv /usr/libexec/away /usr/libexec/xen-qemu-system-i386' EXIT
    for life in 1 2 3; do
        stub st "$(disk hda /run/tiny.img)" 'memory=64' >/run/st.cfg
        guest_run /run/st.cfg >/run/st.out || { cat /run/st.out /var/log/xen/qemu-dm-st.log; return 1; }
        { grep -q BOOT-OK /run/st.out && grep -q 'READ 00000040 .* 01FFF000' /run/st.out; } || { cat /run/st.out; return 1; }
        grep -q '9 processes run, sandbox level strict' /var/log/xen/qemu-dm-st.log || return 1
        await 40 stub_left || { xl list; return 1; }
    done
}
# The operator's view of a guest in a stub domain: table, registers, log, screen, a device killed and started again; the
# picture is on the frame buffer. Then the stub domain dies, and the guest is reported crashed.
stub_operate() {
    stub so "$(disk hda /run/busy.img)" 'memory=64' >/run/so.cfg
    (exec 9<>/run/so.com1; exec cat /run/so.com1 >/run/so.out) & c=$!
    xl create /run/so.cfg || return 1
    await 120 grep -q BOOT-OK /run/so.out || return 1
    d=$(xl domid so)
    bulkhead ps "$d" | tee /run/so.ps
    [ "$(grep -c ' filter .* none .* all 7 ' /run/so.ps)" = 9 ] || { echo "not nine processes in their sandboxes"; return 1; }
    bulkhead logs "$d" | grep -q 'guest: SeaBIOS' || return 1
    on_screen so 'Booting from' || return 1
    screenshot so stub-before || return 1
    bulkhead restart "$d" vga && await 80 screenshot so stub-after && cmp /out/stub-before.png /out/stub-after.png || return 1
    await 80 shows so fbdev picture =720x400 || { bulkhead inspect "$d" fbdev; return 1; }
    $tools/bulkhead-bed crash "$(xl domid so-dm)" || return 1
    await 80 sh -c '! xl domid so' || { xl list; return 1; }
    cat /var/log/xen/qemu-dm-so-dm.log /var/log/xen/xl-so.log; kill $c
    grep -q 'is reported crashed' /var/log/xen/qemu-dm-so-dm.log && grep -q 'shut down, reason code 3' /var/log/xen/xl-so.log && await 40 stub_left
}
# A guest that the project did not build, in a stub domain: boots from CD, is typed at through dom0's frame buffer back end
# and no other way, is seen there as it is seen by us, answers on its serial line and switches itself off.
stub_grub() {
    stub sg "\"format=raw,vdev=hdc,access=ro,devtype=cdrom,target=$guests/grub.iso\"" 'boot="d"' 'memory=64' >/run/sg.cfg
    guest_run /run/sg.cfg >/run/sg.out & running=$!
    ( i=0; while [ $i -lt 200 ] && kill -0 $running; do usleep 1000000; i=$((i + 1)); done; xl destroy sg ) >/dev/null 2>&1 &
    await 400 on_screen sg 'for a command-line' || { screen_text sg; cat /var/log/xen/qemu-dm-sg.log; return 1; }
    back=$(vnc_address sg) || return 1
    dom0_sees() { # dom0_sees NAME: the back end's picture is ours, pixel by pixel
        rm -f "/out/$1.ppm" "/out/$1.png"
        "$tools/bulkhead-bed" vnc "$back" picture "/out/$1.ppm" && screenshot sg "$1" && "$tools/bulkhead-bed" same-picture "/out/$1.png" "/out/$1.ppm"
    }
    # A few keys at a time: a keyboard and a BIOS remember 16, and GRUB may be slow.
    dom0_types() { for k; do $tools/bulkhead-bed vnc "$back" type "$k" || return 1; usleep 300000; done; }
    { dom0_types c && await 240 on_screen sg 'grub>'; } || { screen_text sg; return 1; }
    await 120 dom0_sees stub-prompt || return 1
    { dom0_types ech 'o h' ell o && $tools/bulkhead-bed vnc "$back" line '' && await 240 on_screen sg 'text.[0-9]* *hello'; } || { screen_text sg; return 1; }
    await 120 dom0_sees stub-hello || return 1
    cmp -s /out/stub-prompt.ppm /out/stub-hello.ppm && { echo "dom0's picture did not change"; return 1; }
    dom0_types ha lt && $tools/bulkhead-bed vnc "$back" line ''
    wait $running; r=$?
    [ $r = 0 ] && await 40 stub_left
}
# What a stub domain refuses, with one line on console 0 and in xenstore; libxl itself waits half a minute.
stub_refused() { # stub_refused WORDS LINE...
    words=$1; shift
    stub bad "$(disk hda /run/tiny.img)" 'memory=64' 'vnc=0' >/run/bad.cfg.0
    # A FIFO would hold up the back end that opens it.
    for l in 'serial="file:/run/bad.serial"' "$@"; do sed -i "/^${l%%=*}=/d" /run/bad.cfg.0; done
    { cat /run/bad.cfg.0; for l in 'serial="file:/run/bad.serial"' "$@"; do echo "$l"; done; } >/run/bad.cfg
    rm -f /var/log/xen/qemu-dm-bad.log
    xl create /run/bad.cfg >/run/bad.xl 2>&1 & x=$!
    await 100 grep -q "bulkhead-dm: .*$words" /var/log/xen/qemu-dm-bad.log; r=$?
    cat /run/bad.xl /var/log/xen/qemu-dm-bad.log
    told=$(xenstore-read "/local/domain/$(xl domid bad-dm)/device-model/$(xl domid bad)/error"); echo "in xenstore: $told"
    kill $x; wait $x 2>/dev/null; xl destroy bad; await 40 stub_left && [ $r = 0 ] && echo "$told" | grep -q "$words"
}
stub_locked_privcmd() { stub_refused 'XSA-482.*xen_privcmd.unrestricted=1' 'stubdomain_cmdline="xen_privcmd.unrestricted=0"'; }
# (A development build's RAM disk is more than the half of so little memory that Linux gives its first file system by default.)
stub_little_memory() { stub_refused 'stubdomain_memory is too small' 'stubdomain_memory=34' 'stubdomain_cmdline="rootfstype=ramfs"'; }
# The release image as it is, where there is one (integration/campaign stubdom).
stub_little_memory_release() { stub_refused 'stubdomain_memory is too small' 'stubdomain_memory=20'; }
stub_bad_argv() { stub_refused 'unknown option' 'device_model_args_hvm=["-frobnicate"]'; }
stub_no_nic() { stub_refused '0 of 1 network interfaces are there' 'device_model_args_hvm=["-netdev","type=tap,id=net0,ifname=vif1.0-emu","-device","e1000,id=nic0,netdev=net0,mac=00:16:3e:00:00:01"]'; }
# A domain that is nobody's stub domain, and a disk of the arguments that nobody attached.
stub_no_target() {
    image=/usr/lib/bulkhead/stubdom
    printf 'name="alone"\ntype="pv"\nkernel="%s/kernel"\nramdisk="%s/ramdisk"\nmemory=64\nvcpus=1\non_poweroff="destroy"\non_crash="destroy"\n' $image $image >/run/alone.cfg
    timeout 20 xl create -c /run/alone.cfg </dev/null >/run/alone.out 2>&1
    cat /run/alone.out
    grep -q "bulkhead-dm: .*xenstore has no target: this domain is nobody's stub domain" /run/alone.out && await 40 sh -c '! xl domid alone' && stub_left
}
stub_no_disk() { stub_refused "the disk /dev/xvdq of the guest's arguments is not there" 'device_model_args_hvm=["-drive","file=/dev/xvdq,if=ide,index=3,media=disk,format=host_device,cache=writeback"]'; }

# The debugging image: the release's with a shell and the tests' programs.
debug_stub() { ( stub_image=/usr/lib/bulkhead/stubdom-debug; stub "$@" ); }
# inside NAME COMMAND: runs it in the stub domain of the guest, prints what it printed; fails if it failed.
inside() {
    node=/local/domain/$(xl domid "$1-dm")/data/bulkhead-debug
    xenstore-write "$node/answer" ''
    inside_n=$((${inside_n:-0} + 1)); xenstore-write "$node/command" "$2 # $inside_n"
    await "${3:-20}" sh -c "[ -n \"\$(xenstore-read $node/answer)\" ]" || { echo "no answer to: $2"; return 1; }
    # xenstore-read writes control characters as C does.
    printf '%b\n' "$(xenstore-read "$node/answer")" | tee /run/inside.out
    tail -n 1 /run/inside.out | grep -q '^status 0$'
}
stub_linux() { seen_linux stub sl && await 40 stub_left; }
# Linux in a stub domain, its disks in files, without QEMU: the firmware and the boot loader read it by IDE, which the kernel unplugs; from then on dom0
# serves the guest itself. One disk is qcow2, one is not emulated at all.
stub_qdisk() {
    mv /usr/libexec/xen-qemu-system-i386 /usr/libexec/away || return 1
    trap 'mv /usr/libexec/away /usr/libexec/xen-qemu-system-i386' EXIT
    qemu-img create -q -f qcow2 /run/sqe.qcow2 200M && qemu-img create -q -f qcow2 /run/sqf.qcow2 200M || return 1
    cmdline='xen_emul_unplug=all' console_guest stub sq stub-qdisk "disk=[$(disk hda /run/sq.img),$(disk hdb /run/sq.data),\"format=qcow2,vdev=hdc,access=rw,backendtype=qdisk,target=/run/sqf.qcow2\",\"format=qcow2,vdev=xvde,access=rw,backendtype=qdisk,target=/run/sqe.qcow2\"]" \
        'channel=["connection=pty,name=org.example.none","connection=socket,name=org.example.a,path=/run/sq.sock"]' || return 1
    await 480 said sq GUEST-READY || { trouble sq; bulkhead ps; xenstore-ls /local/domain/0/backend; return 1; }
    say begin; await 240 said sq GUEST-COPIED || { trouble sq; return 1; }
    bulkhead ps sq-dm || ls /var/log/xen; cat /var/log/xen/qemu-dm-sq*.log; pids=$(pids sq-dm qdisk)
    # The stub domain has none of them any more: each has one process, the guest's.
    { [ "$(echo "$pids" | wc -l)" = 4 ] && bulkhead ps sq-dm | grep -q guest-qdisk768; } || { echo "not four processes of the guest's disks: $pids"; return 1; }
    for p in $pids; do kill -KILL "$p"; done
    # A channel of the guest's, which dom0 serves.
    mkfifo /run/sqc.in; $tools/bulkhead-bed line /run/sq.sock </run/sqc.in >/run/sqc.out & exec 8>/run/sqc.in
    echo 'by channel' >&8; await 80 grep -q 'heard <by channel>' /run/sqc.out || { trouble sq; bulkhead ps sq-dm; bulkhead inspect sq-dm guest-console1; return 1; }
    exec 8>&-
    # What is typed at the stub domain's frame buffer goes to the guest's PV keyboard.
    { $tools/bulkhead-bed vnc "$(vnc_address sq)" line 'By PV_7' && await 80 said sq 'GUEST-READ <By PV_7>' &&
        bulkhead inspect sq-dm guest-vkbd | tee /run/sq.keys && grep -q 'events  *[1-9]' /run/sq.keys; } || { trouble sq; bulkhead inspect sq-dm vnc; return 1; }
    say go; await 400 gone sq || { trouble sq; bulkhead ps sq-dm; return 1; }
    exec 6>&-; cat /run/sq.out
    said sq 'xvda xvdb xvdc xvde GUEST-BLOCK 2' && said sq 'GUEST-SAME-c yes' && said sq 'GUEST-SAME-e yes' && copied sq && said sq GUEST-DONE && await 40 stub_left &&
        qemu-img check /run/sqe.qcow2 && qemu-img check /run/sqf.qcow2
}
# The stub domain's own disks are served by QEMU in dom0, which hands nothing over: then the guest may not unplug, although it wants to, and
# keeps its emulated disks. (Its PV disks' back ends are nobody's.)
stub_qemus() {
    # shellcheck disable=SC2016 # the script that is written expands them
    printf '#!/bin/sh\nfor a; do [ "$a" != -xen-attach ] || exec /usr/libexec/xen-qemu-system-i386 "$@"; done\nexec %s "$@"\n' "$dm" >/run/dm-qemu; chmod 755 /run/dm-qemu
    cmdline='xen_emul_unplug=all' console_guest stub su stub-qemus 'device_model_override="/run/dm-qemu"' 'vkb_device=0' || return 1
    { await 800 said su GUEST-DONE && await 240 gone su; } || { trouble su; ps; return 1; }
    exec 6>&-; cat /run/su.out
    said su 'sda sdb GUEST-BLOCK' && copied su && await 40 stub_left
}
stub_cd() { cd_guest stub sc && await 40 stub_left; }
stub_reboot() { reboot_life stub sr && await 40 stub_left; }

# Inside the stub domain, at level strict: every process is in its sandbox, every attempt of a hostile program in its place
# fails, with Xen's interfaces in its hands too.
stub_breakout() {
    debug_stub sb "$(disk hda /run/busy.img)" 'memory=64' | sed 's/^stubdomain_memory=.*/stubdomain_memory=96/' >/run/sb.cfg
    (exec 9<>/run/sb.com1; exec cat /run/sb.com1 >/run/sb.out) & c=$!
    xl create /run/sb.cfg || { cat /var/log/xen/qemu-dm-sb.log; return 1; }
    d=$(xl domid sb) b=/usr/lib/bulkhead-tests
    inside sb "$b/bulkhead-bed processes 1" && inside sb "$b/bulkhead-bed breakout $d >/run/o 2>&1; r=\$?; grep -c 'as wanted' /run/o; grep -v 'as wanted' /run/o; exit \$r" 240 &&
        inside sb "BULKHEAD_HOSTILE=$b/bulkhead-hostile $b/breakout --test-threads=1 >/run/o 2>&1; r=\$?; tail -n 30 /run/o; exit \$r" 480; r=$?
    grep level /var/log/xen/qemu-dm-sb.log
    xl destroy sb; kill $c
    [ $r = 0 ] && await 40 stub_left
}
# Each process killed inside while the guest works: it comes back, the guest notices nothing and its data is whole; at last
# the broker, and the guest is reported crashed.
stub_killed() {
    console_guest debug_stub sk stub-killed 'stubdomain_memory=96' || return 1
    await 480 said sk GUEST-READY || { trouble sk; return 1; }
    say begin; await 80 said sk GUEST-BEGINS || { trouble sk; return 1; }
    d=$(xl domid sk)
    restarted() { process sk "$1" pid '!=0' "!=$2" && process sk "$1" restarts "=${3:-1}"; }
    screenshot sk sk-before || return 1
    kill_one() { pid=$(process sk "$1" pid); { [ -n "$pid" ] && inside sk "kill -KILL $pid" && await 120 restarted "$1" "$pid"; } || { echo "$1 did not come back"; bulkhead ps "$d"; return 1; }; }
    for p in platform ps2 serial0 ide fbdev vchan control; do kill_one $p || { trouble sk; return 1; }; done
    # One that wants more memory than its group has dies alone, and comes back with its own limit.
    pid=$(process sk ps2 pid)
    { inside sk "echo 65536 >/sys/fs/cgroup/ps2/memory.max" && await 120 restarted ps2 "$pid" 2 &&
        inside sk "cat /sys/fs/cgroup/ps2/memory.max /sys/fs/cgroup/ps2/memory.events" && ! grep -q '^65536' /run/inside.out && grep -q 'oom_kill [1-9]' /run/inside.out; } ||
        { trouble sk; return 1; }
    [ "$(process sk '*' restarts =2 | wc -l)" = 1 ] || { bulkhead ps "$d"; return 1; }
    say copy; kill_one vga || { trouble sk; return 1; }
    await 80 screenshot sk sk-after && cmp /out/sk-before.png /out/sk-after.png || return 1
    await 800 said sk GUEST-HALF || { trouble sk; return 1; }
    say again; await 800 said sk GUEST-WROTE || { trouble sk; return 1; }
    bulkhead ps "$d"
    $tools/bulkhead-bed vnc "$(vnc_address sk)" picture /out/sk-vnc.ppm && $tools/bulkhead-bed same-picture /out/sk-after.png /out/sk-vnc.ppm || return 1
    inside sk "kill -KILL $(process sk broker pid)" 12
    await 80 gone sk || { trouble sk; return 1; }
    exec 6>&-
    cat /run/sk.out; tail -n 15 /var/log/xen/qemu-dm-sk.log
    grep -q 'the guest is reported crashed' /var/log/xen/qemu-dm-sk.log && copied sk && await 40 stub_left
}
# The CD of a stub domain's guest changed: by xl, or, with libxl 4.17, by the commands of libxl 4.22, in its order (4.17 has not got that: the
# commands are replayed; 4.17's own xl detaches the disk, but attaches none to a stub domain, so the nodes are written here).
attach_cd() { # attach_cd DOMID DEVID NAME FILE
    front=/local/domain/$1/device/vbd/$2 back=/local/domain/0/backend/qdisk/$1/$2
    xenstore write "$back" '' "$front" ''; xenstore chmod "$back" n0 "r$1"; xenstore chmod "$front" "n$1" r0
    xenstore write "$back/frontend" "$front" "$back/frontend-id" "$1" "$back/params" "aio:$4" "$back/online" 1 "$back/removable" 1 "$back/bootable" 1 \
        "$back/dev" "$3" "$back/type" qdisk "$back/mode" r "$back/device-type" cdrom "$back/discard-enable" 0 "$back/specification" xen \
        "$front/backend" "$back" "$front/backend-id" 0 "$front/virtual-device" "$2" "$front/device-type" cdrom "$front/state" 1 "$back/state" 1
}
stub_cd_change() {
    mv /usr/libexec/xen-qemu-system-i386 /usr/libexec/away || return 1
    trap 'mv /usr/libexec/away /usr/libexec/xen-qemu-system-i386' EXIT
    swap() {
        case $(xl info xen_version) in
            4.17.*) ;;
            # (QEMU 7.2's back end does not connect to the disk without a file that cd-eject attaches, and libxl gives up after 40 s.)
            *) xl cd-eject sx hdc && say out && await 80 said sx GUEST-OUT && xl cd-insert sx hdc "$guests/linux.iso"; return;;
        esac
        xl cd-insert sx hdc "$guests/linux.iso" && { echo "libxl 4.17 has learnt it: use it here"; return 1; }
        set_of() { qmp sx '{"execute":"query-fdsets"}' | picked return fds.0.opaque=stub-devid:5632 fdset-id; }
        qmp sx '{"execute":"query-fdsets"}'
        old=$(set_of); [ -n "$old" ] || return 1
        qmp sx '{"execute":"eject","arguments":{"id":"ide-5632","force":true}}' || return 1
        qmp sx "{\"execute\":\"remove-fd\",\"arguments\":{\"fdset-id\":$old}}" || return 1
        say out; await 80 said sx GUEST-OUT || return 1
        xl block-detach sx-dm 5632 || return 1
        await 80 sh -c '! xenstore-exists /local/domain/'"$(xl domid sx-dm)"'/device/vbd/5632' || return 1
        [ -z "$(set_of)" ] || { echo "the old disk has come back"; return 1; }
        attach_cd "$(xl domid sx-dm)" 5632 hdc "$guests/linux.iso"
        new_set() { new=$(set_of); [ -n "$new" ]; }
        await 80 new_set; new=$(set_of); [ -n "$new" ] || { qmp sx '{"execute":"query-fdsets"}'; return 1; }
        qmp sx "{\"execute\":\"blockdev-change-medium\",\"arguments\":{\"id\":\"ide-5632\",\"filename\":\"/dev/fdset/$new\",\"format\":\"host_device\"}}" || return 1
    }
    change_guest stub sx swap || { cat /var/log/xen/qemu-dm-sx-dm.log; xenstore-ls /local/domain/0/backend/qdisk; xenstore-ls "/local/domain/$(xl domid sx-dm)/device/vbd"; return 1; }
    await 40 stub_left
}

# What takes too long for CI: integration/campaign stubdom.
# Twenty lives in a row: each as the first, and dom0, xenstore and the host's memory as before.
processes() { set -- /proc/[0-9]*; echo $#; }
stub_twenty() {
    before=''
    for life in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        stub tw "$(disk hda /run/tiny.img)" 'memory=64' >/run/tw.cfg
        now; b_=$now_
        { guest_run /run/tw.cfg >/run/tw.out && grep -q 'READ 00000040 .* 01FFF000' /run/tw.out; } || { cat /run/tw.out /var/log/xen/qemu-dm-tw.log; return 1; }
        await 40 stub_left || { xl list; return 1; }
        now="xenstore nodes $(xenstore-ls / | wc -l), free MiB $(xl info free_memory), processes $(processes)"
        echo "life $life: $(seconds "$b_") s, $now"
        # The first life leaves caches behind.
        [ $life = 2 ] && before=$now
    done
    nodes=${before#xenstore nodes }; nodes=${nodes%%,*}; after=${now#xenstore nodes }
    [ "${after%%,*}" -le $((nodes + 2)) ] && [ "${before#*free MiB }" = "${now#*free MiB }" ]
}
# Two Linux guests at once, each with a stub domain, copying at the same time.
stub_two() {
    how=stub linux_guest one stub-two 'memory=256'; one=$running
    how=stub linux_guest two stub-two 'memory=256'
    wait "$one"; a=$?; wait "$running"; b=$?
    cat /run/one.out /run/two.out
    [ $a = 0 ] && [ $b = 0 ] && copied one && copied two && await 40 stub_left
}
# A guest with memory above 4 GiB, two disks, CD, display, keyboard and all the serial lines that libxl has a console for.
stub_big() {
    how=stub linux_guest bg stub-big 'memory=4608' "disk=[$(disk hda /run/bg.img),$(disk hdb /run/bg.data),\"format=raw,vdev=hdc,access=ro,devtype=cdrom,target=$guests/grub.iso\"]"
    await 800 said bg GUEST-WROTE || { trouble bg; return 1; }
    bulkhead ps "$(xl domid bg)"
    wait "$running"; r=$?
    cat /run/bg.out
    [ $r = 0 ] && copied bg && said bg GUEST-CD && [ "$(after bg GUEST-MEMORY)" -gt 4400000 ] && await 40 stub_left
}
# The same Linux guest with 48 MiB for the stub domain.
stub_48() {
    how=stub linux_guest fe stub-48 'stubdomain_memory=48'
    await 800 said fe GUEST-WROTE || { trouble fe; return 1; }
    bulkhead ps "$(xl domid fe)"
    wait "$running"; r=$?
    cat /run/fe.out
    [ $r = 0 ] && copied fe && await 40 stub_left
}
