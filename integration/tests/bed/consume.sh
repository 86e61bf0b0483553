# shellcheck shell=sh
# What a compromised process can take of dom0, and of its stub domain: every role, every resource. Sourced by suite. Lines that begin with
# `cell` are cells of docs/results/consumption.md, which `integration/campaign consume` writes.

# The lines that the page needs, of an output.
cells() { grep -E '^(cell|before|during|after|control run|no control run|maptrack)|WRONG' "$1"; }
# Frames of dom0's table of mapped grants, which Xen prints for each domain.
maptrack() { xl debug-keys g && xl dmesg | grep -i maptrack | tail -n "$(xl list | tail -n +2 | wc -l)" | sed 's/.*(XEN) */maptrack: /; s/\[[^]]*\]//g'; }

# By itself, with the descriptors of its role: memory, descriptors, processes, files, grants, event channels.
consume_alone() { # consume_alone [ROLE...]
    our victim "$(disk hda /run/busy.img)" 'memory=64' >/run/victim.cfg
    xl create -p /run/victim.cfg || return 1
    maptrack
    $tools/bulkhead-bed consume alone dom0 "$(xl domid victim)" "$@" >/run/consume.out 2>&1; r=$?
    cat /run/consume.out; maptrack
    xl destroy victim
    [ $r = 0 ] && { await 20 nothing_left || { ps; ls -l /var/run/xen; return 1; }; }
}
consume_some() { consume_alone some; }

# A guest that reads a port without end, whose device answers each access.
reader() { # reader NAME [LINE...]
    cp /run/busy.img "/run/$1.img" && $tools/bulkhead-bed put-word "/run/$1.img" 500 4194450 || return 1
    g=$1; shift
    "${how:-our}" "$g" "$(disk hda "/run/$g.img")" 'memory=64' >"/run/$g.cfg"
    for l; do sed -i "/^${l%%=*}=/d" "/run/$g.cfg"; echo "$l" >>"/run/$g.cfg"; done
    # (One that an earlier guest of this name has left would read a part.)
    [ ! -f "/run/$g.reads" ] || kill "$(cat "/run/$g.reads")"
    (exec 9<>"/run/$g.com1"; exec cat "/run/$g.com1" >"/run/$g.out") & echo $! >"/run/$g.reads"
    xl create "/run/$g.cfg" || { cat "/var/log/xen/qemu-dm-$g.log"; return 1; }
    await 120 said "$g" BOOT-OK || { trouble "$g"; return 1; }
}
# Beside a guest that runs, through the descriptors of its processes; another guest's accesses are counted meanwhile.
consume_held() {
    networks || return 1
    head -c 1048576 /dev/zero >/run/more.img
    reader beside || return 1
    # (Every device that dom0 serves: two cards, USB, a viewer, PV disk, keyboard and console; fw_cfg for a setting of the firmware's menu.)
    reader held 'usb=1' 'usbdevice=["tablet"]' "$(vifs)" 'vkb_device=1' 'channel=["connection=pty,name=org.example.none","connection=pty,name=org.example.a"]' \
        "disk=[$(disk hda /run/held.img),$(disk xvdb /run/more.img)]" 'device_model_args_hvm=["-boot","splash-time=1"]' || return 1
    bulkhead ps held; maptrack
    $tools/bulkhead-bed consume held "$(dm_pid held)" "$(xl domid held)" "$(xl domid beside)" "$@" >/run/consume.out 2>&1; r=$?
    cat /run/consume.out; maptrack; grep -v guest: /var/log/xen/qemu-dm-held.log | cut -c1-200 | grep -v xxxxxxxx | tail -n 60
    xl destroy held; xl destroy beside
    [ $r = 0 ] && await 20 nothing_left
}
# The same for a PV guest's frame buffer and disks, whose launcher has no broker.
consume_pv() {
    reader beside || return 1
    linux_config our pv pv
    attached_config pv pv 'vfb=["vnc=1,vnclisten=127.0.0.1"]'
    xl create /run/pv.cfg || { cat /var/log/xen/qemu-dm-pv.log; return 1; }
    $tools/bulkhead-bed terminal xl console pv </dev/null >/run/pv.out 2>&1 &
    await 240 said pv GUEST-ASKS || { trouble pv; return 1; }
    $tools/bulkhead-bed consume held "$(dm_pid pv)" "$(xl domid pv)" "$(xl domid beside)" role=vfb role=qdisk 'xenstore nodes' grants log processor "broker's loop" "launcher's loop" >/run/consume.out 2>&1; r=$?
    cat /run/consume.out; xl destroy pv; xl destroy beside
    [ $r = 0 ] && await 20 nothing_left
}

# Inside a stub domain, by the debugging image: what is said there goes to its console, a part at a time.
stub_consume() { # stub_consume [ROLE...]
    debug_stub sc "$(disk hda /run/busy.img)" 'memory=64' | sed 's/^stubdomain_memory=.*/stubdomain_memory=160/' >/run/sc.cfg
    (exec 9<>/run/sc.com1; exec cat /run/sc.com1 >/run/sc.out) & c=$!
    xl create /run/sc.cfg || { cat /var/log/xen/qemu-dm-sc.log; return 1; }
    d=$(xl domid sc) b=/usr/lib/bulkhead-tests
    inside sc "$b/bulkhead-bed consume alone stub $d $* >/run/o 2>&1; r=\$?; wc -l </run/o; exit \$r" 600; r=$?
    # An answer has 3000 bytes at most.
    n=1
    while inside sc "sed -n '$n,$((n + 19))p' /run/o | cut -c1-140; test \$(wc -l </run/o) -ge $n" >/run/part; do grep -v '^status' /run/part; n=$((n + 20)); done
    xl destroy sc; kill $c
    [ $r = 0 ] && await 40 stub_left
}
stub_consume_some() { stub_consume some; }
# Through the descriptors of the processes of a stub domain: the hostile programs run inside, what others notice is counted in dom0.
stub_held() { # stub_held [RESOURCE...]
    networks || return 1
    reader beside || return 1
    how=debug_stub reader inner 'stubdomain_memory=160' 'usb=1' 'usbdevice=["tablet"]' "$(vifs)" 'device_model_args_hvm=["-boot","splash-time=1"]' || return 1
    bulkhead ps inner
    $tools/bulkhead-bed consume inside "$(xl domid inner)" "$(xl domid inner-dm)" "$(xl domid beside)" /var/log/xen/qemu-dm-inner.log "$@" >/run/consume.out 2>&1; r=$?
    cat /run/consume.out; cut -c1-160 /var/log/xen/qemu-dm-inner.log | grep -v -e guest: -e xxxxxxxx | tail -n 60
    xl destroy inner; xl destroy beside
    [ $r = 0 ] && await 40 stub_left
}
