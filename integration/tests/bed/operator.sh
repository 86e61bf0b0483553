# shellcheck shell=sh
# What operators do with a guest beside starting it: a kernel of theirs, vCPUs, lists. Sourced by suite.


# Kernel and ramdisk from dom0 by fw_cfg; the boot sector of hda would start the same kernel without these words.
direct_boot() {
    linux_guest direct direct-boot "kernel=\"$guests/vmlinuz\"" "ramdisk=\"$guests/initrd\"" 'cmdline="console=ttyS0 quiet panic=-1 mitigations=off nokaslr bulkhead=direct"'
    await 240 bulkhead inspect direct fwcfg || { trouble direct; return 1; }
    bulkhead ps >/run/direct.ps; bulkhead inspect direct fwcfg >/run/direct.fw
    wait "$running"; r=$?; cat /run/direct.out /run/direct.ps /run/direct.fw
    [ $r = 0 ] && grep -q 'bulkhead=direct' /run/direct.out && grep -q "$(sum /run/direct.img 65536)" /run/direct.out && grep -q '^ *fwcfg' /run/direct.ps || return 1
    await 20 nothing_left || return 1
    # No kernel: one line, at once.
    refused 'kernel: this is no Linux kernel that a BIOS guest can start' /run/tiny.img "kernel=\"$guests/initrd\"" || return 1
    refused 'kernel: it needs .* MiB with its ramdisk, the guest has' /run/tiny.img "kernel=\"$guests/vmlinuz\"" "ramdisk=\"$guests/initrd\"" 'memory=40' || return 1
    refused 'kernel /run/no-such: No such file' /run/tiny.img 'kernel="/run/no-such"'
}

# Control groups in dom0: without systemd a device model makes them at the root of the hierarchy.
control_groups() {
    mkdir -p /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup || return 1
    # What a dead launcher has left.
    mkdir -p /sys/fs/cgroup/bulkhead-999-1/ide && groups_of_guests; r=$?
    umount /sys/fs/cgroup || r=1
    return $r
}
# running_guest NAME [LINE...]: a tiny guest that stays; $log has its output.
running_guest() {
    name=$1; shift
    our "$name" "$(disk hda /run/busy.img)" 'memory=64' "$@" >"/run/$name.cfg"
    (exec 9<>"/run/$name.com1"; exec cat "/run/$name.com1" >"/run/$name.out") & reads=$!
    { xl create "/run/$name.cfg" && await 120 said "$name" BOOT-OK; } || { cat "/var/log/xen/qemu-dm-$name.log"; kill $reads; return 1; }
    group=/sys/fs/cgroup/bulkhead-$(xl domid "$name")-$(dm_pid "$name")
}
# grouped NAME: every process but the launcher and its starter is in its group, with limits.
grouped() {
    grep 'control groups memory, pids, cpu$' "/var/log/xen/qemu-dm-$1.log" || { cat "/var/log/xen/qemu-dm-$1.log"; return 1; }
    tree "$1" | while read -r role pid; do
        case $role in launcher | starter) continue;; esac
        g=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")
        echo "$role $g: memory $(cat "$g/memory.current") peak $(cat "$g/memory.peak" 2>/dev/null) of $(cat "$g/memory.max"), threads $(cat "$g/pids.current") of $(cat "$g/pids.max"), oom.group $(cat "$g/memory.oom.group")"
        case $g in "$group"/*) ;; *) echo "$role is elsewhere"; exit 1;; esac
        ! grep -q max "$g/memory.max" "$g/pids.max" && [ "$(cat "$g/memory.oom.group")" = 1 ] || exit 1
    done || return 1
    echo "guest: memory $(cat "$group/memory.current") of $(cat "$group/memory.max"), threads $(cat "$group/pids.current") of $(cat "$group/pids.max"), weight $(cat "$group/cpu.weight")"
    ! grep -q max "$group/memory.max" "$group/pids.max" && [ "$(cat "$group/cpu.weight")" = 100 ]
}
no_groups_left() { ! ls -d /sys/fs/cgroup/bulkhead-*; }
groups_of_guests() {
    bulkhead doctor | grep 'with control groups' || { bulkhead doctor; return 1; }
    running_guest cg && grouped cg || return 1
    [ ! -e /sys/fs/cgroup/bulkhead-999-1 ] || { echo "a dead launcher's groups are still there"; return 1; }
    bulkhead audit cg && bulkhead audit --filters cg || return 1
    # The nice value of people's process, the 19th field.
    [ "$(cut -d' ' -f19 "/proc/$(role_pid cg control)/stat")" = 0 ] && [ "$(cut -d' ' -f19 "/proc/$(role_pid cg ide)/stat")" = -2 ] || return 1
    # A limit that somebody has lifted.
    m=$(cat "$group/ide/memory.max"); echo max >"$group/ide/memory.max"
    bulkhead audit cg; [ $? = 4 ] || { echo "a lifted limit is not found"; return 1; }
    echo "$m" >"$group/ide/memory.max"
    # A process with less memory than it has dies alone; the next one has its profile's limit again.
    pids cg >/run/cg.before; p=$(role_pid cg ps2)
    { echo 65536 >"$group/ps2/memory.max"; await 120 new_role cg ps2 "$p"; } || { cat "$group/ps2/memory.events"; trouble cg; return 1; }
    await 20 grep -q 'oom_kill [1-9]' "$group/ps2/memory.events" || { cat "$group/ps2/memory.events"; return 1; }
    pids cg >/run/cg.after
    [ "$(grep -cxFf /run/cg.before /run/cg.after)" = $(($(wc -l </run/cg.before) - 1)) ] || { cat /run/cg.before /run/cg.after; return 1; }
    { await 40 grep -q '^6291456$' "$group/ps2/memory.max" && await 40 bulkhead audit cg; } || { bulkhead audit cg; return 1; }
    xl destroy cg; kill $reads; await 40 nothing_left && await 20 no_groups_left || return 1
    # A launcher that has given up its rights, and takes nothing away at its end.
    users; running_guest cr 'dm_restrict=1' && grouped cr || return 1
    p=$(role_pid cr ide); kill -KILL "$p"; { await 80 new_role cr ide "$p" && grouped cr && bulkhead audit cr; } || { trouble cr; return 1; }
    xl destroy cr; kill $reads; await 40 nothing_left || return 1
    running_guest cg && ls -d /sys/fs/cgroup/bulkhead-* && [ "$(find /sys/fs/cgroup -maxdepth 1 -name 'bulkhead-*' | wc -l)" = 1 ] || return 1
    xl destroy cg; kill $reads; await 40 nothing_left && await 20 no_groups_left || return 1
    refused 'BH-0301: -cgroup /sys/fs/cgroup/none: .*no cgroup2' /run/tiny.img 'device_model_args_hvm=["-cgroup","/sys/fs/cgroup/none"]'
}

# vCPUs come by ACPI's hot-plug. They go by xenstore, where a PV kernel listens; an HVM Linux does not, with QEMU neither.
vcpu_set() {
    console_guest our vs vcpus 'vcpus=1' 'maxvcpus=3'
    await 240 said vs GUEST-READY || { trouble vs; return 1; }
    cpus() { qmp vs '{"execute":"query-cpus-fast"}' | picked return '*' cpu-index | wc -l; }
    [ "$(cpus)" = 1 ] || return 1
    xl vcpu-set --ignore-host vs 3 || { trouble vs; return 1; }
    [ "$(cpus)" = 3 ] && say up || return 1
    await 120 said vs 'GUEST-UP 0-2 3' || { trouble vs; return 1; }
    xl vcpu-list vs
    xl list -l vs >/run/vs.list || return 1; picked '*' config b_info max_vcpus =3 </run/vs.list || { cat /run/vs.list; return 1; }
    { xl vcpu-set vs 1 && [ "$(xenstore-read "/local/domain/$(xl domid vs)/cpu/2/availability")" = offline ]; } || { xenstore-ls "/local/domain/$(xl domid vs)/cpu"; return 1; }
    cat /run/vs.out
    # What dom0's tools say of disks: the names and counts of the device model.
    xentop -b -f -i 1 >/run/vs.top && cat /run/vs.top && grep -q '^ *vs ' /run/vs.top || return 1
    qmp vs '{"execute":"query-blockstats"}' | picked return device=ide0-hd0 stats || return 1
    say end; await 240 gone vs; exec 6>&-; await 20 nothing_left
}

# dm_restrict=1: libxl's limits, an empty root directory, one user for the launcher and all processes, by which libxl's reaper kills.
users() {
    grep -q xen-qemuuser /etc/passwd 2>/dev/null || printf '%s\n' 'root:x:0:0::/root:/bin/sh' 'xen-qemuuser-range-base:x:131072:131072::/:/bin/false' 'xen-qemuuser-reaper:x:131071:131071::/:/bin/false' 'plain:x:2000:2000::/:/bin/false' >>/etc/passwd
    grep -q plain /etc/group 2>/dev/null || printf '%s\n' 'root:x:0:' 'xen-qemuuser-range-base:x:131072:' 'xen-qemuuser-reaper:x:131071:' 'plain:x:2000:' >>/etc/group
}
# all_of NAME USER GROUP: every process of the guest's device model is theirs and no other's.
all_of() { $tools/bulkhead-bed owned "$(dm_pid "$1")" "$2" "$3"; }
dm_restrict() {
    users
    how=our linux_guest dr dm-restrict 'dm_restrict=1'
    await 480 said dr GUEST-WRITES || { trouble dr; return 1; }
    d=$(xl domid dr); u=$((131072 + d)); pid=$(dm_pid dr)
    grep restricted /var/log/xen/qemu-dm-dr.log; tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q -- '-xen-domid-restrict' || return 1
    all_of dr $u 131072 && $tools/bulkhead-bed processes "$pid" || return 1
    # The launcher's own root directory has /proc and nothing else; every limit but that of file sizes is libxl's.
    [ "$(ls "/proc/$pid/root")" = proc ] || { ls "/proc/$pid/root"; return 1; }
    grep -E 'core file|locked|msgqueue' "/proc/$pid/limits"
    # A device dies and is started again by a launcher that is nobody.
    p=$(role_pid dr ide); kill -KILL "$p"; await 80 new_role dr ide "$p" || { trouble dr; return 1; }
    all_of dr $u 131072 || return 1
    tell dr go; await 240 said dr GUEST-GOES-ON || { trouble dr; return 1; }
    wait "$running"; cat /run/dr.out
    [ "$(grep -c "$(sum /run/dr.img 65536)" /run/dr.out)" = 2 ] || return 1
    await 40 nothing_left || return 1
    # Destroyed while it runs: the reaper finds every process.
    our dd2 "$(disk hda /run/busy.img)" 'memory=64' 'dm_restrict=1' >/run/dd2.cfg
    (exec 9<>/run/dd2.com1; exec cat /run/dd2.com1 >/run/dd2.out) & c=$!
    xl create /run/dd2.cfg || { cat /var/log/xen/qemu-dm-dd2.log; return 1; }
    await 120 grep -q BOOT-OK /run/dd2.out; xl destroy dd2; kill $c
    { await 40 nothing_left && [ -z "$(find /var/run/xen/qemu-root-* -mindepth 1 2>/dev/null)" ]; } || { ls -d /var/run/xen/*; return 1; }
    # A user alone, without the rest of dm_restrict; one that is not there.
    our du "$(disk hda /run/tiny.img)" 'memory=64' 'device_model_user="plain"' >/run/du.cfg
    { guest_run /run/du.cfg >/run/du.out && grep -q BOOT-OK /run/du.out && grep 'restricted: user 2000' /var/log/xen/qemu-dm-du.log; } || { cat /run/du.out /var/log/xen/qemu-dm-du.log; return 1; }
    by_hand 'runas nobody-at-all: no such user' -xen-domid 9 -serial null -runas nobody-at-all && by_hand 'that is root' -xen-domid 9 -serial null -runas 0:0
}

# A stock kernel (it unplugs) whose disks are block devices: it goes on with the PV disk, and nobody but its back end has the disk.
stock() {
    modprobe -a loop xen-blkback
    cmdline='xen_emul_unplug=all' linux_config our st stock
    losetup /dev/loop0 /run/st.img; losetup /dev/loop1 /run/st.data
    sed -i 's#^disk=.*#disk=["phy:/dev/loop0,hda,w","phy:/dev/loop1,hdb,w"]#; s#^serial=.*#serial="pty"#' /run/st.cfg
    xl create -p /run/st.cfg || { cat /var/log/xen/qemu-dm-st.log /var/log/xen/xen-hotplug.log; return 1; }
    rm -f /run/st.in; mkfifo /run/st.in
    $tools/bulkhead-bed terminal xl console st </run/st.in >/run/st.out 2>&1 &
    exec 6<>/run/st.in
    holders() { $tools/bulkhead-bed holders "$(dm_pid st)" /dev/loop | wc -l; }
    [ "$(holders)" -gt 1 ] || { echo "nobody has the disk at the start"; return 1; }
    xl unpause st
    await 480 said st GUEST-COPIED || { trouble st; return 1; }
    [ "$(holders)" = 0 ] || { echo "somebody still has the disk"; tree st; return 1; }
    bulkhead logs st | grep 'has unplugged' ; grep 'unplugged ide0-hd0, ide0-hd1' /var/log/xen/qemu-dm-st.log || return 1
    # A process that is started again has no disk either.
    p=$(role_pid st ide); bulkhead restart st ide; await 80 new_role st ide "$p" && [ "$(holders)" = 0 ] || return 1
    qmp st '{"execute":"query-block"}'
    say end; await 240 gone st || return 1
    exec 6>&-; losetup -d /dev/loop0; losetup -d /dev/loop1; cat /run/st.out
    grep -q 'xvda xvdb *GUEST-BLOCK' /run/st.out && ! grep -q 'sda.*GUEST-BLOCK' /run/st.out || return 1
    grep -q "$(sum /run/st.img 65536)" /run/st.out || return 1
    $tools/bulkhead-bed same /run/st.img 0 /run/st.data 64M 32M && await 20 nothing_left
}

# A root disk in a qcow2 image over a raw one: its process is killed in the middle of writes, and then its file system is full. What
# was acknowledged is there, the guest goes on, and the image is whole.
qcow2() {
    mkdir -p /run/small; mount -t tmpfs -o size=60m none /run/small || return 1
    linux_config our qc qcow2
    qemu-img create -q -f qcow2 -F raw -b /run/qc.img /run/small/qc.qcow2 200M || return 1
    # And one that is based on nothing, of which all is new.
    qemu-img create -q -f qcow2 /run/qn.qcow2 64M || return 1
    sed -i 's#target=/run/qc.img#target=/run/small/qc.qcow2#; s#format=raw,vdev=hda#format=qcow2,vdev=hda#; s#^disk=\[\(.*\)\]#disk=[\1,"format=qcow2,vdev=hdd,access=rw,backendtype=qdisk,target=/run/qn.qcow2"]#' /run/qc.cfg; base=$(sha256sum </run/qc.img)
    guest_run /run/qc.cfg >/run/qc.out & running=$!
    await 480 said qc GUEST-WRITING || { trouble qc; return 1; }
    # (A flush that its filter did not know would have killed it.)
    { said qc GUEST-FLUSHED && process qc ide restarts =0; } || { trouble qc; bulkhead --json ps qc; return 1; }
    p=$(role_pid qc ide); kill -KILL "$p"; await 80 new_role qc ide "$p" || { trouble qc; return 1; }
    tell qc killed
    await 480 said qc GUEST-SUMS || { trouble qc; return 1; }
    await 480 said qc GUEST-FULL || { trouble qc; return 1; }
    bulkhead inspect qc ide | grep failed; mount -o remount,size=300m /run/small; tell qc room
    wait $running; r=$?; cat /run/qc.out; bulkhead ps
    after qc GUEST-SUMS >/run/qc.sums; read -r read_ first_ second_ </run/qc.sums
    [ $r = 0 ] && [ "$read_" ] && [ "$read_" = "$first_" ] && [ "$read_" = "$second_" ] && grep -q "GUEST-ROOM $read_" /run/qc.out || return 1
    qemu-img check /run/small/qc.qcow2; c=$?
    [ "$base" = "$(sha256sum </run/qc.img)" ] || { echo "the base was written"; return 1; }
    umount /run/small; [ $c = 0 ] && await 20 nothing_left || return 1
    refused 'this is no qcow2 image' /run/tiny.img 'disk=["format=qcow2,vdev=hda,access=rw,backendtype=qdisk,target=/run/tiny.img"]'
}

# What a guest's configuration can ask for and is not there: each its own line, through xl create.
refusals() {
    absent() { what_=$1; shift; refused "BH-0102: .*$what_" /run/tiny.img "$@" || { echo "not so: $what_, $*"; return 1; }; }
    absent 'USB 2' 'usbversion=2' && absent 'USB 2' 'usbversion=3' && absent 'sound' 'soundhw="ac97"' &&
        absent 'SPICE' 'spice=1' 'spiceport=6000' 'spicehost="127.0.0.1"' 'spicedisable_ticketing=1' && absent 'AHCI' 'hdtype="ahci"' &&
        absent 'the QXL display' 'vga="qxl"' 'videoram=128' 'memory=300' && absent 'vendor_device' 'vendor_device="xenserver"' &&
        absent 'a window in dom0' 'sdl=1' || return 1
    refused 'BH-0102: .*SCSI' /run/tiny.img 'disk=["format=raw,vdev=sda,access=rw,backendtype=qdisk,target=/run/tiny.img"]' || return 1
    # The host's settings.
    mkdir -p /etc/bulkhead; printf '[devices]\nsubstitutes = "refuse"\n' >/etc/bulkhead/bulkhead.toml
    refused 'BH-0102: -device cirrus-vga.*something else would take its place' /run/tiny.img 'vga="cirrus"'; r=$?
    printf '[devices]\nsubstitute = "refuse"\n' >/etc/bulkhead/bulkhead.toml
    [ $r = 0 ] && refused 'BH-0110: .*line 2' /run/tiny.img; r=$?
    bulkhead check-config; [ $? = 4 ] || r=1
    rm -r /etc/bulkhead; bulkhead check-config || r=1
    bulkhead doctor; d=$?; [ $d = 0 ] || { echo "doctor: $d"; r=1; }
    # Xen's own limit, and the one that is set while it runs.
    bulkhead doctor | grep 'rate limit of 1000 us' && xl sched-credit2 -s -r 0 && bulkhead doctor | grep 'no rate limit' || r=1
    xl sched-credit2 -s -r 1000
    return $r
}

# A guest that the project did not build, on the disk that Debian's tools have made (integration/testbed/setup-debian, /dev/vda
# here): it makes a file system on our second IDE disk, fills and checks it, its GRUB installs itself on the first, and the next life boots
# from that, unplugs the disks and the network card, and comes to its login on PV devices.
# shellcheck disable=SC2016 # what is typed is expanded by the guest's shell
debian() {
    modprobe -a loop xen-blkback xen-netback tun virtio_pci virtio_blk; await 40 test -b /dev/vda || return 1
    truncate -s 64M /run/second.img && losetup /dev/loop7 /run/second.img || return 1
    debian_life 'kernel="'$guests'/debian.vmlinuz"' 'ramdisk="'$guests'/debian.initrd"' \
        'cmdline="root=UUID=b0174ead-0000-4000-8000-000000000001 ro console=ttyS0 xen_emul_unplug=never mitigations=off quiet systemd.default_device_timeout_sec=900"' || return 1
    # Linux looks at its disks at the same time: either may be the first one.
    does 'r=$(findmnt -no SOURCE /); r=${r%1}; o=/dev/sdb; [ $r = /dev/sda ] || o=/dev/sda; lsblk -nd -o NAME,MODEL; echo ROOT-$r-$((40+2))' '^ROOT-/dev/sd[ab]-42' || return 1
    does 'mke2fs -q -t ext4 $o && mount $o /mnt && cp -r /usr/lib/grub /mnt/ && umount /mnt && e2fsck -f $o && echo CHECKED-"$((40+2))"' 'CHECKED-42' || return 1
    does 'sed -i -e s/TIMEOUT=5/TIMEOUT=1/ -e /CMDLINE_LINUX=/s/\"\"/\"console=ttyS0\ mitigations=off\ systemd.default_device_timeout_sec=900\"/ /etc/default/grub; grub-install $r && update-grub && sync && echo GRUB-"$((40+2))"' 'GRUB-42' || return 1
    does 'ls /sys/block; dd if=/dev/urandom of=/var/tmp/kept bs=1M count=8 conv=fsync; md5sum </var/tmp/kept | sed s/^/KEPT-/' '^KEPT-' || return 1
    kept=$(sed -n 's/\r//g; s/^\(KEPT-[0-9a-f]*\).*/\1/p' /run/deb.out | head -n 1)
    debian_ends || return 1
    cp /run/deb.out /out/debian-first.txt
    # Now as libxl's defaults have it, on a host without QEMU: disks that the device model serves, a PV keyboard.
    mv /usr/libexec/xen-qemu-system-i386 /usr/libexec/away || return 1
    trap 'mv /usr/libexec/away /usr/libexec/xen-qemu-system-i386' EXIT
    backend=qdisk debian_life || return 1
    does 'findmnt -no SOURCE /; echo 3 >/proc/sys/vm/drop_caches; md5sum </var/tmp/kept | sed s/^/KEPT-/' "^$kept" || return 1
    said deb '^/dev/xvda1' || { echo "not on its PV disk"; trouble deb; return 1; }
    does 'ls /sys/block; lspci; ls /sys/class/net; dmesg | grep -iE unplug\|xvda\|netfront' 'xvda' || return 1
    grep 'unplugged' /var/log/xen/qemu-dm-deb.log || return 1
    bulkhead ps deb; bulkhead ps deb | grep -q 'qdisk768' || return 1
    # Its first terminal is logged into at the viewer, by the PV keyboard.
    does 'grep -c Xen.Virtual /proc/bus/input/devices; systemctl start getty@tty1; echo TERMINAL-"$((40+2))"' 'TERMINAL-42' || return 1
    vnc=$(vnc_address deb) || return 1
    # Who reads the terminal says what may be typed next.
    for step in 'agetty root' 'login bulkhead' 'bash echo "Typed: $((40 + 2))" >/dev/ttyS0'; do
        who=${step%% *}
        does "until for f in /proc/[0-9]*/fd/0; do [ \"\$(readlink \$f)\" != /dev/tty1 ] || cat \${f%/fd/0}/comm; done | grep -q $who; do sleep 1; done; echo READS-\"\$((40+2))\"-$who" "READS-42-$who" || { screenshot deb debian-typed; return 1; }
        $tools/bulkhead-bed vnc "$vnc" line "${step#* }" || return 1
    done
    await 240 said deb 'Typed: 42' || { screenshot deb debian-typed; bulkhead inspect deb vkbd; trouble deb; return 1; }
    screenshot deb debian-screen; bulkhead inspect deb vkbd
    debian_ends || return 1
    # What it has written is a whole file system on a disk that starts.
    e2=$($tools/bulkhead-bed hex /run/second.img 1080 2); losetup -d /dev/loop7
    cp /run/deb.out /out/debian-second.txt; [ "$e2" = 53ef ] || { echo "no ext4 on the second disk: $e2"; return 1; }
    cat /out/debian-first.txt /out/debian-second.txt
    dd if=/dev/vda bs=512 count=1 2>/dev/null | grep -q GRUB
}
# debian_life [LINE...]: from xl create to root's prompt.
debian_life() {
    disks='"phy:/dev/vda,hda,w","phy:/dev/loop7,hdb,w"' vkb=
    [ "${backend:-}" != qdisk ] || { disks="$(disk hda /dev/vda),$(disk hdb /run/second.img)"; vkb='/^vkb_device/d; '; }
    our deb '' 'memory=512' 'vif=["script=/bin/true,model=e1000"]' "$@" | sed "${vkb}s#^disk=.*#disk=[$disks]#; s#^serial=.*#serial=\"pty\"#" >/run/deb.cfg
    xl create /run/deb.cfg || { cat /var/log/xen/qemu-dm-deb.log; return 1; }
    rm -f /run/deb.in; mkfifo /run/deb.in
    $tools/bulkhead-bed terminal xl console deb </run/deb.in >/run/deb.out 2>&1 &
    exec 6<>/run/deb.in
    ( i=0; while [ $i -lt 1200 ] && xl domid deb; do usleep 1000000; i=$((i + 1)); done; xl destroy deb ) >/dev/null 2>&1 &
    await 2400 said deb 'debian login:' || { trouble deb; return 1; }
    say root; { await 480 said deb 'Password:' && say bulkhead && await 480 said deb 'root@debian:'; } || { trouble deb; return 1; }
    # Without a terminal's escape sequences between the lines.
    does 'exec env TERM=dumb PS1=deb: bash --norc' 'deb:$' || return 1
    echo "at its prompt after $(uptime_s) s"
}
# does COMMAND WORDS: typed; its output has a line with WORDS (which the line that is typed has not).
does() { say "$1"; await 1200 sh -c "tr -d '\r' </run/deb.out | grep -q '$2'" || { trouble deb; return 1; }; }
debian_ends() { say poweroff; await 1200 gone deb || { trouble deb; return 1; }; exec 6>&-; await 40 nothing_left && await 240 alone; }
# Xen still holds a guest's memory for a while after its name has gone.
alone() { [ "$(xl list | wc -l)" = 2 ]; }

# The storage of one disk answers four times a second (/dev/vda, integration/test): the guest waits for that disk alone, people see
# into its process meanwhile, and nothing times out.
slow_storage() {
    modprobe -a virtio_pci virtio_blk; await 40 test -b /dev/vda || return 1
    want=$(sum /dev/vda 5242880); echo 3 >/proc/sys/vm/drop_caches
    linux_config our sl slow-storage
    sed -i 's#^disk=\[#&'"$(disk hdc /dev/vda)"',#' /run/sl.cfg
    guest_run /run/sl.cfg >/run/sl.out & running=$!
    await 480 said sl GUEST-FAST || { trouble sl; return 1; }
    { ! said sl GUEST-SLOW && bulkhead inspect sl ide | grep -A4 secondary && ! said sl GUEST-SLOW; } || { echo "it was not slow, or looking waited for it"; return 1; }
    wait $running; r=$?; cat /run/sl.out
    [ $r = 0 ] && said sl "GUEST-SLOW $want" && said sl GUEST-UNHURT && [ "$(after sl GUEST-MEANWHILE)" -gt 10 ] && await 20 nothing_left
}

# `-image-full stop`: a write that finds no room waits, with its guest, until there is some.
full_stops() {
    mkdir -p /run/full; mount -t tmpfs -o size=20m none /run/full && truncate -s 60M /run/full/disk || return 1
    linux_config our fs full-stops 'device_model_args_hvm=["-image-full","stop"]'
    sed -i 's#^disk=\[#&'"$(disk hdc /run/full/disk)"',#' /run/fs.cfg
    guest_run /run/fs.cfg >/run/fs.out & running=$!
    await 480 sh -c 'bulkhead inspect fs ide | grep "waits for room *true"' || { trouble fs; return 1; }
    bulkhead logs fs | grep 'the storage is full' && ! said fs GUEST-COPIED || return 1
    mount -o remount,size=100m /run/full
    wait $running; r=$?; cat /run/fs.out
    $tools/bulkhead-bed same /run/fs.img 0 /run/full/disk 0 30M || { echo "not what the guest wrote"; return 1; }
    umount /run/full
    [ $r = 0 ] && said fs GUEST-COPIED && said fs GUEST-UNHURT && await 20 nothing_left
}

# The Debian package by dpkg in dom0: a guest runs on what it has installed; nothing is left when it is removed.
package() {
    unit=/usr/lib/systemd/system/bulkhead.service
    mkdir -p /run/away/bin; mv /usr/lib/bulkhead /usr/lib/xen $unit /run/away/ && mv /usr/bin/bulkhead /run/away/bin/ || return 1
    # dpkg removes a directory that it leaves empty.
    rmdir /usr/lib/systemd/system /usr/lib/systemd 2>/dev/null
    listed() { find /usr /etc /lib/systemd 2>/dev/null | sort; }
    listed >/run/before.list
    # By its path: the shell has a dpkg of its own, which is another.
    dpkg=/usr/bin/dpkg
    $dpkg -i /testbed/bulkhead.deb && $dpkg -s bulkhead | grep '^Status: install ok installed' && bulkhead --version && bulkhead doctor; r=$?
    [ $r = 0 ] && tiny || r=1
    cat /var/log/xen/qemu-dm-tiny.log; $dpkg --purge bulkhead || r=1
    # dpkg's own caches aside.
    listed | diff /run/before.list - || { echo "something is left"; r=1; }
    for d in bulkhead xen; do [ -e /usr/lib/$d ] || mv /run/away/$d /usr/lib/; done; [ -e /usr/bin/bulkhead ] || mv /run/away/bin/bulkhead /usr/bin/
    mkdir -p ${unit%/*}; mv /run/away/bulkhead.service $unit
    return $r
}

# silent_xenstored NAME: dom0's xenstored is stopped for thirty seconds while the guest writes. Its disks are served, a device that dies is started
# again at once, a qdisk that dies connects when xenstored answers, and nothing else has been started again. No command here may
# ask xenstored meanwhile.
silent_xenstored() {
    d=$(xl domid "$1") l=$(dm_pid "$1")
    restarts() { for w_ in broker control platform ide vga serial grant; do bulkhead --json ps "$d" | picked processes "name=$w_" restarts; done; }
    of() { $tools/bulkhead-bed tree "$l" "$1" | head -n 1; }
    other() { n=$(of "$1"); [ -n "$n" ] && [ "$n" != "$2" ]; }
    restarts >/run/quiet.before || return 1
    x=$(of xenbus) p=$(of ps2) s=$(pidof xenstored) r=0
    kill -STOP "$s"
    before=$(acks) c=$(uptime_s)
    # Nothing of them waits for xenstored.
    kill -KILL "$p"; await 40 other ps2 "$p" || { echo "ps2 is not started again while xenstored is silent"; r=1; }
    # The disks with a connection go on, more than once.
    await 20 past $((before + 5)) || { echo "the disks stand still while xenstored is silent"; r=1; }
    # A notice can only come of xenstored, but a new process of a disk asks at once, and its xenbus waits with it.
    q=$(of qdisk); kill -KILL "$q"; await 40 other qdisk "$q" || { echo "qdisk is not started again"; r=1; }
    passed() { [ $(($(uptime_s | cut -d. -f1) - ${c%%.*})) -ge 30 ]; }
    await 60 passed
    [ "$(of xenbus)" = "$x" ] || { echo "xenbus has not lived through it"; r=1; }
    kill -CONT "$s"
    before=$(acks); await 120 past $((before + 3)) || { echo "nothing goes on when xenstored answers again"; r=1; }
    restarts >/run/quiet.after; cmp /run/quiet.before /run/quiet.after || r=1
    bulkhead inspect "$d" xenbus | tee /run/quiet.xenbus; grep -q 'silences *1' /run/quiet.xenbus || r=1
    # The next life has a connection of its own.
    kill -KILL "$x"; await 80 other xenbus "$x" || r=1
    [ $r = 0 ] || { trouble "$1"; bulkhead ps "$d"; }
    return $r
}

# A guest that unplugs, with disks that are files, as libxl makes them by default: two that are emulated too (one raw, one qcow2) and one
# that is not. It goes on with the PV disks, which nobody else has. Their processes, and those that they ask, are killed at any moment
# while the guest writes; every write that it was told is on the disk is there.
qdisk() {
    cmdline='xen_emul_unplug=all' linux_config our qd qdisk
    qemu-img create -q -f qcow2 /run/qe.qcow2 200M || return 1
    sed -i 's#^disk=\[\(.*\)\]#disk=[\1,"format=qcow2,vdev=xvde,access=rw,backendtype=qdisk,target=/run/qe.qcow2"]#; s#^serial=.*#serial="pty"#' /run/qd.cfg
    xl create -p /run/qd.cfg || { cat /var/log/xen/qemu-dm-qd.log; dmesg | grep type=1326; return 1; }
    rm -f /run/qd.in; mkfifo /run/qd.in
    $tools/bulkhead-bed terminal xl console qd </run/qd.in >/run/qd.out 2>&1 &
    exec 6<>/run/qd.in
    xl unpause qd
    await 480 said qd GUEST-COPIED || { trouble qd; bulkhead ps; xenstore-ls /local/domain/0/backend; return 1; }
    bulkhead ps qd; bulkhead inspect qd qdisk768; bulkhead inspect qd xenbus; bulkhead inspect qd grant
    $tools/bulkhead-bed processes "$(dm_pid qd)" || return 1
    # Who has the disks: their own processes, each its own.
    for f in qd.img qd.data qe.qcow2; do
        # The launcher, for a later life, and one process that serves it.
        $tools/bulkhead-bed holders "$(dm_pid qd)" "/run/$f" | cut -d' ' -f1 | paste -sd' ' >/run/qd.holders
        grep -x 'launcher qdisk' /run/qd.holders || { echo "$f is open in: $(cat /run/qd.holders)"; return 1; }
    done
    say begin
    # A line that is not yet whole has no dot.
    acks() { grep -o 'GUEST-ACK [0-9]*\.' /run/qd.out | tail -n 1 | tr -dc '0-9'; }
    past() { [ "$(acks)" -gt "$1" ] 2>/dev/null; }
    await 120 past 2 || { trouble qd; return 1; }
    for round in 1 2; do
        for role in qdisk xenbus qdisk grant; do
            $tools/bulkhead-bed moment 500
            before=$(acks)
            # Each of the disks in turn; which one is no matter.
            v=$(pids qd $role | sed -n "$((round % 3 + 1))p"); v=${v:-$(role_pid qd $role)}
            kill -KILL "$v"
            await 120 past $((before + 2)) || { echo "nothing goes on after $role was killed in round $round"; trouble qd; bulkhead ps qd; return 1; }
        done
    done
    silent_xenstored qd || return 1
    tell qd stop
    # A disk that comes while it runs, and goes.
    await 240 said qd GUEST-AGAIN || { trouble qd; return 1; }
    head -c 1048576 /dev/urandom >/run/qf.img
    xl block-attach qd 'format=raw,vdev=xvdf,access=ro,backendtype=qdisk,target=/run/qf.img' || { trouble qd; return 1; }
    await 80 said qd "GUEST-LATER $(sum /run/qf.img)" || { trouble qd; bulkhead ps qd; return 1; }
    { xl block-detach qd xvdf && await 80 said qd GUEST-GONE; } || { trouble qd; return 1; }
    await 400 gone qd || { trouble qd; return 1; }
    exec 6>&-; cat /run/qd.out
    ! grep GUEST-FAILED /run/qd.out || return 1
    last=$(acks); echo "acknowledged: $last"
    qemu-img check /run/qe.qcow2 && qemu-img convert -O raw /run/qe.qcow2 /run/qe.img || return 1
    $tools/bulkhead-bed records /run/qd.data $((30000 * 4096)) 4096 "$last" b && $tools/bulkhead-bed records /run/qe.img 0 65536 "$last" e || return 1
    said qd 'xvda xvdb xvde GUEST-BLOCK' && said qd "GUEST-SUM $(sum /run/qd.img 65536)" && said qd GUEST-AGAIN && copied qd && await 20 nothing_left
}
