# shellcheck shell=sh
# Toolstacks other than xl, and drivers that an operating system is not the first to have. Read by the suite.

# libvirt's Xen driver, Debian's own, with the path that its AppArmor profile allows.
virsh() { /usr/bin/virsh -q -c xen:///system "$@"; }
libvirt_daemon() {
    [ -e /etc/passwd ] || echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
    [ -e /etc/group ] || printf 'root:x:0:\nlibvirt:x:1:\n' >/etc/group
    [ -e /etc/machine-id ] || echo 0123456789abcdef0123456789abcdef >/etc/machine-id
    mkdir -p /var/lib/libvirt /var/log/libvirt /run/libvirt /etc/libvirt
    printf 'unix_sock_group = "root"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\nhost_uuid = "11111111-2222-3333-4444-555555555555"\nlog_outputs = "2:file:/out/libvirtd.log"\n' >/etc/libvirt/libvirtd.conf
    pidof libvirtd >/dev/null || /usr/sbin/libvirtd --config /etc/libvirt/libvirtd.conf >/run/libvirtd.out 2>&1 &
    await 240 virsh version || { cat /run/libvirtd.out; tail -n 30 /out/libvirtd.log; return 1; }
    virsh version
}
state_is() { [ "$(virsh domstate "$1")" = "$2" ]; }
libvirt() {
    emulator=/usr/lib/xen/bin/bulkhead-dm
    { [ -f $emulator ] && [ ! -L $emulator ]; } || { echo "$emulator is no file"; return 1; }
    $emulator -help | head -n 2
    libvirt_daemon || return 1
    linux_config our lv libvirt
    cat >/run/lv.xml <<X
<domain type='xen'>
  <name>lv</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='xenfv'>hvm</type><loader type='rom'>/usr/lib/xen-4.17/boot/hvmloader</loader><boot dev='hd'/></os>
  <features><acpi/><apic/><pae/></features><clock offset='utc'><timer name='tsc' mode='native'/></clock>
  <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>$emulator</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/run/lv.img'/><target dev='hda' bus='ide'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/run/lv.data'/><target dev='hdb' bus='ide'/></disk>
    <serial type='file'><source path='/run/lv.out'/><target port='0'/></serial>
    <input type='tablet' bus='usb'/>
    <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>
    <video><model type='vga' vram='16384'/></video>
  </devices>
</domain>
X
    : >/run/lv.out
    virsh define /run/lv.xml || { tail -n 20 /out/libvirtd.log; return 1; }
    virsh start lv || { tail -n 20 /out/libvirtd.log; cat /var/log/xen/qemu-dm-lv.log /var/log/libvirt/libxl/*; return 1; }
    state_is lv running && bulkhead ps lv || return 1
    readlink "/proc/$(dm_pid lv)/exe" | grep -qx $emulator || { echo "something else runs"; return 1; }
    await 480 said lv GUEST-READY || { cat /run/lv.out /var/log/xen/qemu-dm-lv.log; return 1; }
    virsh dumpxml lv | grep -E '<emulator>|vnc port'
    { virsh shutdown lv && await 240 state_is lv 'shut off'; } || { cat /run/lv.out; virsh list --all; return 1; }
    await 40 nothing_left || return 1
    # Its last life is cleaned up behind the word `shut off`.
    await 120 virsh start lv && state_is lv running && virsh destroy lv && state_is lv 'shut off' && await 40 nothing_left || return 1
    virsh undefine lv; r=$?
    tr -d '\r' </run/lv.out | grep GUEST; grep -v guest: /var/log/xen/qemu-dm-lv.log
    kill "$(pidof libvirtd)"
    [ $r = 0 ]
}

# A PV driver that comes to its disks before anybody has unplugged the emulated ones, as OVMF's does: it sets its end to 4 and waits for
# the back end's 4 or more. Here dom0 writes what it writes, while the guest waits. Linux, which comes after it, unplugs and runs on xvda.
comes_early() { # comes_early NAME: to two disks and a CD, gives up, and takes what it has written away
    f=/local/domain/$(xl domid "$1")/device/vbd b=/local/domain/0/backend/qdisk/$(xl domid "$1")
    for v in 768 832 5632; do
        xenstore-write "$f/$v/ring-ref" 8 "$f/$v/event-channel" 9 "$f/$v/protocol" x86_64-abi "$f/$v/state" 4
    done
    closed() { [ "$(xenstore-read "$b/$1/state")" = 6 ]; }
    for v in 768 832 5632; do await 40 closed $v || { echo "disk $v leaves its driver waiting"; xenstore-ls "$b"; return 1; }; done
    for v in 768 832 5632; do xenstore-rm "$f/$v/ring-ref" "$f/$v/event-channel" "$f/$v/protocol"; done
}
pv_before_unplug() {
    cmdline='xen_emul_unplug=all' linux_config our pb pv-before-unplug
    sed -i 's#^disk=\[#&"format=raw,vdev=hdc,access=ro,devtype=cdrom,target='$guests/grub.iso'",#' /run/pb.cfg
    # A launcher that has given its rights up answers too.
    users; { cat /run/pb.cfg; echo 'dm_restrict=1'; } >/run/pb.restricted
    xl create -p /run/pb.restricted && comes_early pb; r=$?
    cat /var/log/xen/qemu-dm-pb.log; xl destroy pb
    [ $r = 0 ] && await 40 nothing_left || return 1
    (exec 9<>/run/pb.com1; exec cat /run/pb.com1 >/run/pb.out) & c=$!
    { xl create -p /run/pb.cfg && comes_early pb; } || { cat /var/log/xen/qemu-dm-pb.log; xl destroy pb; kill $c; return 1; }
    xl unpause pb
    await 400 gone pb || { trouble pb; xenstore-ls "$b"; xenstore-ls "$f"; kill $c; return 1; }
    kill $c; cat /run/pb.out; grep -v guest: /var/log/xen/qemu-dm-pb.log
    said pb 'xvda xvdb GUEST-BLOCK' && said pb GUEST-PROMPT && said pb "GUEST-SUM $(sum /run/pb.img 65536)" && said pb GUEST-COPIED &&
        $tools/bulkhead-bed same /run/pb.img 0 /run/pb.data 16M 4M && await 20 nothing_left
}
