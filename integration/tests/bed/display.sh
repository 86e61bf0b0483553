# shellcheck shell=sh
# The guest seen and touched as its people do. Sourced by suite.
# Where the viewer of a guest listens: what `xl vncviewer` reads.
vnc_address() { port=$(xenstore-read "/local/domain/$(xl domid "$1")/console/vnc-port") && echo "127.0.0.1:$port"; }
# without NAME PROCESS: the guest's table has rows, but none of that process.
without() { process "$1" '*' name >/run/names && ! process "$1" "$2" name; }
# Linux from its disk: sees both disks, is talked to by `xl console`, seen and touched by VNC in text mode and in a graphics mode, copies 64 MiB by DMA, switches itself off.
seen_linux() { # seen_linux MODE NAME [LINE...]
    how=$1 g=$2; shift 2
    console_guest "$how" "$g" seen "$@" || return 1
    await 480 said "$g" GUEST-READY || { trouble "$g"; return 1; }
    say begin; await 80 said "$g" GUEST-ASKS || { trouble "$g"; return 1; }
    vnc=$(vnc_address "$g") || { xenstore-ls -f | grep vnc; return 1; }
    view() { # view NAME: the viewer's picture is ours, pixel by pixel
        rm -f "/out/$1.ppm" "/out/$1.png"
        $tools/bulkhead-bed vnc "$vnc" picture "/out/$1.ppm" && screenshot "$g" "$1" && $tools/bulkhead-bed same-picture "/out/$1.png" "/out/$1.ppm"
    }
    await 80 view "$g-text" || { view "$g-text"; return 1; }
    # With AltGr (ISO_Level3_Shift) held, by which Linux' own keymap would make braces of 7 and 0: the viewer shows 7 and 0.
    $tools/bulkhead-bed vnc "$vnc" type "Hello, World_42" chord 65027,55 chord 65027,48 line '' || return 1
    await 80 said "$g" 'GUEST-READ <Hello, World_4270>' || { trouble "$g"; return 1; }
    await 80 view "$g-typed" || { view "$g-typed"; return 1; }
    cmp -s "/out/$g-text.ppm" "/out/$g-typed.ppm" && { echo "nothing was seen of what was typed"; return 1; }
    await 80 said "$g" GUEST-POINTER || { trouble "$g"; return 1; }
    # To a place, from there 50 right and 20 down, a click of each button, two steps of the wheel.
    $tools/bulkhead-bed vnc "$vnc" pointer 100 100 0 pointer 150 120 0 pointer 150 120 1 pointer 150 120 0 pointer 150 120 4 pointer 150 120 0 \
        pointer 150 120 8 pointer 150 120 0 pointer 150 120 8 pointer 150 120 0 || return 1
    # A viewer's wish is what the monitor prefers when the driver looks.
    size=; [ "$how" != our ] || { $tools/bulkhead-bed vnc "$vnc" wish 1000 700 || return 1; size=' 1000,700'; }
    usleep 500000; say moved; await 80 said "$g" GUEST-MOVED || { trouble "$g"; return 1; }
    grep GUEST-MOVED "/run/$g.out"
    said "$g" 'GUEST-MOVED x=50 y=20 wheel=2 buttons= 272:1 272:0 273:1 273:0' || return 1
    await 120 said "$g" "GUEST-GRAPHICS$size" || { trouble "$g"; return 1; }
    await 120 view "$g-graphics" || { view "$g-graphics"; return 1; }
    head -c 15 "/out/$g-graphics.ppm"
    [ ! "$size" ] || $tools/bulkhead-bed vnc "$vnc" wish 1200 800 || return 1
    say copy; await 800 said "$g" GUEST-WROTE || { trouble "$g"; return 1; }
    await 240 gone "$g" || { trouble "$g"; return 1; }
    exec 6>&-
    cat "/run/$g.out"
    copied "$g" && said "$g" 'GUEST-SEES /dev/hda /dev/hdb' && said "$g" GUEST-DONE
}

# The same with a newer kernel, booted directly (integration/testbed/setup-guest-6.12): what it makes of a viewer's wish.
newer_kernel() {
    seen_linux our nk "kernel=\"$guests/vmlinuz-6.12\"" "ramdisk=\"$guests/initrd-6.12\"" 'cmdline="console=ttyS0 quiet panic=-1 mitigations=off xen_emul_unplug=never"' &&
        await 20 nothing_left
}

# In dom0: by our own server. It and the display die while somebody looks; a password that libxl sets is asked for.
vnc() {
    seen_linux our vn && await 20 nothing_left || return 1
    our vp "$(disk hda /run/busy.img)" 'memory=64' 'vncpasswd="secret"' >/run/vp.cfg
    (exec 9<>/run/vp.com1; exec cat /run/vp.com1 >/run/vp.out) &
    xl create /run/vp.cfg || { cat /var/log/xen/qemu-dm-vp.log; return 1; }
    await 120 said vp BOOT-OK || { trouble vp; return 1; }
    at=$(vnc_address vp); xenstore-read "/local/domain/$(xl domid vp)/console/vnc-pass"
    qmp vp '{"execute":"query-vnc"}' | picked return auth =vnc || return 1
    $tools/bulkhead-bed vnc "$at" picture /run/vp.ppm 2>&1 | tee /run/vp.err; grep -q 'security types \[2\]' /run/vp.err || return 1
    for p in vnc vga; do old=$(role_pid vp $p); kill -KILL "$old"; await 80 new_role vp $p "$old" || { trouble vp; return 1; }; done
    qmp vp '{"execute":"change-vnc-password","arguments":{"password":""}}' || return 1
    bulkhead inspect vp vnc; bulkhead ps vp
    xl destroy vp; await 20 nothing_left
}

# USB: a tablet and a keyboard by UHCI. Viewers point at places that the guest reads exactly, type on the USB keyboard; the
# controller's process dies, and both go on. In a stub domain the viewer's way is dom0's frame buffer.
tablet() { tablet_guest our tb && await 20 nothing_left; }
stub_tablet() { tablet_guest stub tb && await 40 stub_left; }
# The same by the PV keyboard and pointer that libxl gives every guest if nobody says no. Those whom they ask die too.
vkbd() { tablet_guest our kb vkbd && await 20 nothing_left; }
tablet_guest() { # tablet_guest MODE NAME [ROLE]
    role=${3:-usb} how=$1 g=$2
    # (Linux' PV drivers are for guests that may unplug.)
    case $role in vkbd) cmdline='xen_emul_unplug=all'; set -- vkb_device=1;; *) set -- 'usb=1' 'usbdevice=["tablet","keyboard"]';; esac
    console_guest "$how" "$g" pointed "$@" || return 1
    await 480 said "$g" GUEST-READY || { trouble "$g"; return 1; }
    say begin; await 80 said "$g" GUEST-POINTS-first || { trouble "$g"; return 1; }
    at=$(vnc_address "$g")
    # On 720x400 characters' pixels: 0x7fff * 719 / 719, 0x7fff * 100 / 399.
    x=32767 y=8212 last=32767
    $tools/bulkhead-bed vnc "$at" shown 720 400 pointer 10 10 0 pointer 719 100 0 pointer 719 100 1 pointer 719 100 0 pointer 719 100 8 pointer 719 100 0 || return 1
    usleep 500000; say first; await 80 said "$g" 'GUEST-first ' || { trouble "$g"; return 1; }
    grep GUEST-first "/run/$g.out"
    said "$g" "GUEST-first x=$x y=$y wheel=1 buttons= 272:1 272:0" || { bulkhead inspect "$g" "$role"; bulkhead inspect "$g" vnc; return 1; }
    await 80 said "$g" GUEST-ASKS; $tools/bulkhead-bed vnc "$at" line 'By USB_7' || return 1
    await 80 said "$g" 'GUEST-READ <By USB_7>' || { trouble "$g"; bulkhead inspect "$g" "$role"; return 1; }
    bulkhead inspect "$g" "$role"; [ "$role" = usb ] || { bulkhead inspect "$g" xenbus; bulkhead ps "$g"; }; [ "$how" = stub ] || bulkhead top "$g" --count 1
    [ "$how" = stub ] || { p=$(role_pid "$g" "$role"); kill -KILL "$p"; await 80 new_role "$g" "$role" "$p"; } || { trouble "$g"; return 1; }
    for r in xenbus grant; do [ "$role" = usb ] || { p=$(role_pid "$g" $r); kill -KILL "$p"; await 80 new_role "$g" $r "$p"; } || { trouble "$g"; return 1; }; done
    say killed; await 80 said "$g" GUEST-POINTS-second || { trouble "$g"; return 1; }
    again() { "$tools/bulkhead-bed" vnc "$at" pointer 9 9 0 pointer 0 399 0 pointer 0 399 4 pointer 0 399 0; said "$g" "GUEST-second x=0 y=$last"; }
    await 160 again || { trouble "$g"; return 1; }
    await 240 gone "$g" || { trouble "$g"; return 1; }
    exec 6>&-; cat "/run/$g.out"
    ! grep -i 'xenbus.*timeout' "/run/$g.out" && said "$g" "GUEST-second x=0 y=$last wheel=0 buttons=.* 273:0" && said "$g" GUEST-DONE
}

# A USB controller by `usbctrl`, which libxl adds to the machine that it has made; detached and attached while the guest runs, which hears of
# both by ACPI; a tablet plugged into it is pointed with, also after the controller's process has died.
usbctrl() {
    g=uc; console_guest our uc usbctrl 'usbctrl=["type=devicemodel,version=1,ports=2"]' || return 1
    await 480 said uc GUEST-HAS || { trouble uc; return 1; }
    xl usb-list uc; said uc 'GUEST-HAS /sys/bus/pci' || { trouble uc; return 1; }
    { xl usbctrl-detach uc 0 && await 120 said uc GUEST-NONE; } || { trouble uc; bulkhead inspect uc platform | grep PCI; return 1; }
    await 40 without uc 'usb*' || { bulkhead ps uc; return 1; }
    { xl usbctrl-attach uc type=devicemodel version=1 ports=2 && await 120 said uc 'GUEST-AGAIN /sys'; } || { trouble uc; bulkhead inspect uc platform | grep PCI; return 1; }
    qmp uc '{"execute":"device_add","arguments":{"driver":"usb-tablet","id":"t","bus":"xenusb-0.0"}}'
    { await 120 said uc GUEST-TABLET && await 40 said uc GUEST-LISTENS; } || { trouble uc; bulkhead inspect uc usb; return 1; }
    at=$(vnc_address uc) || return 1
    $tools/bulkhead-bed vnc "$at" shown 720 400 pointer 10 10 0 pointer 719 100 0 pointer 719 100 1 pointer 719 100 0 || return 1
    points() { say points; await 20 said uc "$1"; }
    usleep 500000; points 'GUEST-POINTS x=32767 y=8212 wheel=0 buttons= 272:1 272:0' || { trouble uc; bulkhead inspect uc usb; return 1; }
    p=$(role_pid uc usb); kill -KILL "$p"; await 80 new_role uc usb "$p" || { trouble uc; return 1; }
    say killed; await 240 said uc GUEST-SECOND || { trouble uc; return 1; }
    again() { "$tools/bulkhead-bed" vnc "$at" pointer 10 10 0 pointer 0 399 0 pointer 0 399 1 pointer 0 399 0; said uc 'GUEST-AGAIN-POINTS'; }
    await 160 again || { trouble uc; bulkhead inspect uc usb; return 1; }
    said uc 'GUEST-AGAIN-POINTS x=0 y=32767 wheel=0 buttons=.* 272:0' || { trouble uc; return 1; }
    await 240 gone uc || { trouble uc; return 1; }
    exec 6>&-; cat /run/uc.out; await 20 nothing_left
}

# attached_config NAME TYPE [LINE...]: a guest without emulated devices, whose device model serves its PV back ends alone. Its disks are
# those that linux_config has made.
attached_config() {
    name=$1 type=$2; shift 2
    cat >"/run/$name.cfg" <<C
name="$name"
type="$type"
kernel="$guests/vmlinuz"
ramdisk="$guests/initrd"
cmdline="console=hvc0 quiet panic=-1 mitigations=off xen_blkfront.feature_persistent=0 xen_blkfront.max_ring_page_order=4"
memory=256
vcpus=1
disk=[$(disk xvda "/run/$name.img"),$(disk xvdb "/run/$name.data")]
device_model_version="qemu-xen"
device_model_override="$dm"
on_poweroff="destroy"
on_reboot="destroy"
on_crash="destroy"
C
    for l; do echo "$l"; done >>"/run/$name.cfg"
}
# A PV guest, which has no emulated devices at all: its disks, its frame buffer and its keyboard are served, without QEMU. Its disks' driver
# is told to take its grants back after each request, so that all is copied, and to use rings of sixteen pages.
pv_guest() {
    mv /usr/libexec/xen-qemu-system-i386 /usr/libexec/away || return 1
    trap 'mv /usr/libexec/away /usr/libexec/xen-qemu-system-i386' EXIT
    linux_config our pv pv
    attached_config pv pv 'vfb=["vnc=1,vnclisten=127.0.0.1"]'
    xl create /run/pv.cfg || { cat /var/log/xen/qemu-dm-pv.log; return 1; }
    mkfifo /run/pv.in; exec 6<>/run/pv.in
    $tools/bulkhead-bed terminal xl console pv </run/pv.in >/run/pv.out 2>&1 &
    await 240 said pv GUEST-ASKS || { trouble pv; xenstore-ls /local/domain/0/backend; return 1; }
    bulkhead ps pv; bulkhead inspect pv vfb; bulkhead inspect pv qdisk51728
    shows pv qdisk51728 'ring entries' =512 && shows pv qdisk51728 'persistent grants' =false && shows pv qdisk51728 'copied requests' '!=0' && shows pv qdisk51728 'pages mapped' =0 || return 1
    vnc=$(vnc_address pv) || return 1
    view() { rm -f /out/pv.ppm /out/pv.png; $tools/bulkhead-bed vnc "$vnc" picture /out/pv.ppm && screenshot pv pv && $tools/bulkhead-bed same-picture /out/pv.png /out/pv.ppm; }
    await 80 view || { view; return 1; }
    cp /out/pv.ppm /out/pv-asks.ppm
    # Those whom all ask die, and one that asks: what is copied next needs the new ones.
    for r in xenbus grant qdisk; do p=$(role_pid pv $r); kill -KILL "$p"; await 80 process pv "$r*" restarts =1 || { bulkhead ps pv; trouble pv; return 1; }; done
    { $tools/bulkhead-bed vnc "$vnc" line 'By PV_7' && await 80 said pv 'GUEST-READ <By PV_7>'; } || { trouble pv; return 1; }
    { await 80 view && ! cmp -s /out/pv.ppm /out/pv-asks.ppm; } || { echo "nothing was seen of what was typed"; return 1; }
    await 240 said pv GUEST-AGAIN || { trouble pv; return 1; }
    # A disk that comes while it runs, goes, and comes again with another image.
    for n in 1 2; do
        head -c 1048576 /dev/urandom >/run/pv.more$n
        xl block-attach pv "format=raw,vdev=xvdc,access=ro,backendtype=qdisk,target=/run/pv.more$n" || { trouble pv; return 1; }
        await 80 said pv "GUEST-DISK-$n $(sum /run/pv.more$n)" || { trouble pv; bulkhead ps pv; xenstore-ls /local/domain/0/backend; return 1; }
        bulkhead ps pv | grep 51744; bulkhead inspect pv qdisk51744 | grep 'sectors read' || return 1
        { xl block-detach pv xvdc && await 80 said pv "GUEST-GONE-$n"; } || { trouble pv; return 1; }
        await 40 without pv qdisk51744 || { bulkhead ps pv; trouble pv; return 1; }
    done
    # The display dies, and the viewer goes on.
    p=$(role_pid pv vfb); kill -KILL "$p"; { await 80 new_role pv vfb "$p" && await 80 view; } || { trouble pv; return 1; }
    $tools/bulkhead-bed vnc "$vnc" line ''
    await 240 gone pv || { trouble pv; return 1; }
    exec 6>&-; cat /run/pv.out
    said pv 'GUEST-HAS xvda xvdb  0 xen 2' && copied pv && await 20 nothing_left
}

# Consoles beyond the first: channels, one to a pseudo terminal and one to a socket, of an HVM, a PVH and a PV guest. Lines go both ways, also
# by processes that have taken the place of killed ones. (libxl 4.17 numbers channels from 0, which is the first console's number: it makes
# no device of the first one.)
channels() {
    console_guest our ch channels 'channel=["connection=pty,name=org.example.none","connection=pty,name=org.example.a","connection=socket,name=org.example.b,path=/run/ch.sock"]' && channels_of ch || return 1
    for kind in pvh pv; do
        linux_config our $kind channels || return 1
        attached_config $kind $kind "channel=[\"connection=pty,name=org.example.none\",\"connection=pty,name=org.example.a\",\"connection=socket,name=org.example.b,path=/run/$kind.sock\"]"
        xl create /run/$kind.cfg || { cat /var/log/xen/qemu-dm-$kind.log; return 1; }
        $tools/bulkhead-bed terminal xl console $kind </dev/null >/run/$kind.out 2>&1 &
        channels_of $kind || return 1
    done
}
# channels_of NAME
channels_of() {
    g=$1 d=$(xl domid "$1"); xenstore-ls "/local/domain/$d/device/console"; xenstore-ls "/local/domain/0/backend/console/$d"
    for n in $(xenstore-list "/local/domain/$d/device/console"); do
        case $(xenstore-read "/local/domain/$d/device/console/$n/name") in org.example.a) pty=$n;; org.example.b) socket=$n;; esac
    done
    tty=$(xenstore-read "/local/domain/$d/device/console/$pty/tty") || return 1
    stty -F "$tty" raw -echo; cat "$tty" >"/run/$g.1" & exec 7>"$tty"
    rm -f "/run/$g.in2"; mkfifo "/run/$g.in2"
    $tools/bulkhead-bed line "/run/$g.sock" <"/run/$g.in2" >"/run/$g.2" & exec 8<>"/run/$g.in2"
    for n in 1 2; do await 400 grep -q "^channel" "/run/$g.$n" || { trouble "$g"; cat "/run/$g.$n"; bulkhead ps "$g"; bulkhead inspect "$g" "console$pty"; return 1; }; done
    echo one >&7; echo two >&8
    { await 80 grep -q 'heard <one>' "/run/$g.1" && await 80 grep -q 'heard <two>' "/run/$g.2"; } || { trouble "$g"; cat "/run/$g.1" "/run/$g.2"; return 1; }
    qmp "$g" '{"execute":"query-chardev"}' | tee "/run/$g.q"; picked return "label=libxl-channel$pty" filename <"/run/$g.q" | grep -F "$tty" || return 1
    pids "$g" console | xargs kill -KILL
    for r in xenbus grant; do kill -KILL "$(role_pid "$g" $r)"; done
    for r in console$pty console$socket xenbus grant; do await 80 process "$g" "$r" restarts =1 || { bulkhead ps "$g"; trouble "$g"; return 1; }; done
    # The socket's peer has gone with the process; the pseudo terminal stays.
    $tools/bulkhead-bed line "/run/$g.sock" <"/run/$g.in2" >>"/run/$g.2" &
    echo end >&7; echo end >&8
    await 240 gone "$g" || { trouble "$g"; cat "/run/$g.1" "/run/$g.2"; bulkhead inspect "$g" "console$pty"; bulkhead inspect "$g" "console$socket"; return 1; }
    exec 7>&- 8>&-; cat "/run/$g.1" "/run/$g.2"
    grep -q 'heard <end>' "/run/$g.1" && grep -q 'heard <end>' "/run/$g.2" && [ ! -e "/run/$g.sock" ] && await 20 nothing_left
}
