# What operators do with a guest beside starting it: a kernel of theirs, vCPUs, lists. Sourced by suite.


# Kernel and ramdisk from dom0 by fw_cfg; the boot sector of hda would start the same kernel without these words.
direct_boot() {
    linux_guest direct "kernel=\"$guests/vmlinuz\"" "ramdisk=\"$guests/initrd\"" 'cmdline="console=ttyS0 quiet panic=-1 mitigations=off nokaslr bulkhead=direct"' <<'S'
grep -o 'bulkhead=direct' /proc/cmdline; ls -d /sys/firmware/qemu_fw_cfg 2>/dev/null
head -c 65536 /dev/hda | sha256sum | cut -d' ' -f1
S
    await 60 bulkhead inspect direct fwcfg || { trouble direct; return 1; }
    bulkhead ps >/run/direct.ps; bulkhead inspect direct fwcfg >/run/direct.fw
    wait $running; r=$?; cat /run/direct.out /run/direct.ps /run/direct.fw
    [ $r = 0 ] && grep -q 'bulkhead=direct' /run/direct.out && grep -q "$(head -c 65536 /run/direct.img | sha256sum | cut -d' ' -f1)" /run/direct.out && grep -q '^ *fwcfg' /run/direct.ps || return 1
    await 5 nothing_left || return 1
    # No kernel: one line, at once.
    refused 'kernel: this is no Linux kernel that a BIOS guest can start' /run/tiny.img "kernel=\"$guests/initrd\"" || return 1
    refused 'kernel: it needs .* MiB with its ramdisk, the guest has' /run/tiny.img "kernel=\"$guests/vmlinuz\"" "ramdisk=\"$guests/initrd\"" 'memory=40' || return 1
    refused 'kernel /run/no-such: No such file' /run/tiny.img 'kernel="/run/no-such"'
}

# vCPUs come by ACPI's hot-plug. They go by xenstore, where a PV kernel listens; an HVM Linux does not, with QEMU neither.
vcpu_set() {
    console_guest our vs 'vcpus=1' 'maxvcpus=3' <<'S'
exec 8</dev/ttyS0
online() { cat /sys/devices/system/cpu/online; }
echo GUEST-READY; read -r l_ <&8
until [ "$(online)" = 0-2 ]; do for c in /sys/devices/system/cpu/cpu[12]/online; do [ ! -e $c ] || echo 1 >$c; done; usleep 100000; done 2>/dev/null
dmesg | grep -i 'hot-added\|hotplug'
grep acpi /proc/interrupts; echo "GUEST-UP $(online) $(nproc)"
read -r l_ <&8
S
    await 60 said vs GUEST-READY || { trouble vs; return 1; }
    cpus() { qmp vs '{"execute":"query-cpus-fast"}' | grep -o cpu-index | wc -l; }
    [ "$(cpus)" = 1 ] || return 1
    xl vcpu-set --ignore-host vs 3 || { trouble vs; return 1; }
    [ "$(cpus)" = 3 ] && say up || return 1
    await 30 said vs 'GUEST-UP 0-2 3' || { trouble vs; return 1; }
    xl vcpu-list vs
    xl list -l vs >/run/vs.list || return 1; grep -q '"max_vcpus": 3' /run/vs.list || { cat /run/vs.list; return 1; }
    xl vcpu-set vs 1 && [ "$(xenstore-read "/local/domain/$(xl domid vs)/cpu/2/availability")" = offline ] || { xenstore-ls "/local/domain/$(xl domid vs)/cpu"; return 1; }
    cat /run/vs.out
    # What dom0's tools say of disks: the names and counts of the device model.
    xentop -b -f -i 1 >/run/vs.top && cat /run/vs.top && grep -q '^ *vs ' /run/vs.top || return 1
    qmp vs '{"execute":"query-blockstats"}' | tee /run/vs.stats; grep -q '"device":"ide0-hd0"' /run/vs.stats || return 1
    say end; await 60 gone vs; exec 6>&-; await 5 nothing_left
}
