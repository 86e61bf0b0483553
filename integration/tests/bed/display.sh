# The guest seen and touched as its people do. Sourced by suite.
# Where the viewer of a guest listens: what `xl vncviewer` reads.
vnc_address() { port=$(xenstore-read "/local/domain/$(xl domid "$1")/console/vnc-port") && echo "127.0.0.1:$port"; }
# Linux from its disk: sees both disks, is talked to by `xl console`, seen and touched by VNC in text mode and in a graphics mode, copies 64 MiB by DMA, switches itself off.
seen_linux() { # seen_linux MODE NAME [LINE...]
    how=$1 g=$2; shift 2
    console_guest "$how" "$g" "$@" <<'S' || return 1
load psmouse evdev
echo "GUEST-SEES $(echo /dev/hd?)"
mouse() { awk '/^N:.*Mouse/ { f = 1 } f && /^H:/ { print; exit }' /proc/bus/input/devices | sed 's/.*\(event[0-9]*\).*/\1/' | grep event; }
await 20 mouse; mouse=$(mouse)
until echo "GUEST-READY"; hears_now() { read -t 1 -r l_ </dev/ttyS0 && [ "$l_" = begin ]; }; hears_now; do :; done
printf '\033[2J\033[H\033[?25lname? ' >/dev/tty1; echo "GUEST-ASKS"
read -r name </dev/tty1; echo "GUEST-READ <$name>"
cat "/dev/input/$mouse" >/run/moves & cat=$!
echo "GUEST-POINTER $mouse"
hears moved
kill $cat
hexdump -v -e '12/2 "%u " "\n"' /run/moves | awk '{ v = $11; if (v > 32767) v -= 65536 }
    $9 == 2 && $10 == 0 { x += v } $9 == 2 && $10 == 1 { y += v } $9 == 2 && $10 == 8 { w += v } $9 == 1 { b = b " " $10 ":" $11 } END { print "GUEST-MOVED x=" x " y=" y " wheel=" w " buttons=" b }'
load bochs
printf '\033[2J\033[H\033[?25lin a graphics mode\n' >/dev/tty1; echo "GUEST-GRAPHICS $(cat /sys/class/graphics/fb0/virtual_size)"
hears copy
(cd /sys/class/drm/card0-*-1 && { echo detect >status; echo "GUEST-PROBES $(head -n 1 modes)"; })
copy 16; copy 80
sync; echo "GUEST-WROTE"
S
    await 120 said $g GUEST-READY || { trouble $g; return 1; }
    say begin; await 20 said $g GUEST-ASKS || { trouble $g; return 1; }
    vnc=$(vnc_address $g) || { xenstore-ls -f | grep vnc; return 1; }
    view() { # view NAME: the viewer's picture is ours, pixel by pixel
        rm -f "/out/$1.ppm" "/out/$1.png"
        $tools/bulkhead-bed vnc "$vnc" picture "/out/$1.ppm" && screenshot "$g" "$1" && $tools/bulkhead-bed same-picture "/out/$1.png" "/out/$1.ppm"
    }
    await 20 view $g-text || { view $g-text; return 1; }
    # With AltGr (ISO_Level3_Shift) held, by which Linux' own keymap would make braces of 7 and 0: the viewer shows 7 and 0.
    $tools/bulkhead-bed vnc "$vnc" type "Hello, World_42" chord 65027,55 chord 65027,48 type "
" || return 1
    await 20 said $g 'GUEST-READ <Hello, World_4270>' || { trouble $g; return 1; }
    await 20 view $g-typed || { view $g-typed; return 1; }
    cmp -s /out/$g-text.ppm /out/$g-typed.ppm && { echo "nothing was seen of what was typed"; return 1; }
    await 20 said $g GUEST-POINTER || { trouble $g; return 1; }
    # To a place, from there 50 right and 20 down, a click of each button, two steps of the wheel.
    $tools/bulkhead-bed vnc "$vnc" pointer 100 100 0 pointer 150 120 0 pointer 150 120 1 pointer 150 120 0 pointer 150 120 4 pointer 150 120 0 \
        pointer 150 120 8 pointer 150 120 0 pointer 150 120 8 pointer 150 120 0 || return 1
    # A viewer's wish is what the monitor prefers when the driver looks.
    size=; [ "$how" != our ] || { $tools/bulkhead-bed vnc "$vnc" wish 1000 700 || return 1; size=' 1000,700'; }
    usleep 500000; say moved; await 20 said $g GUEST-MOVED || { trouble $g; return 1; }
    grep GUEST-MOVED /run/$g.out
    said $g 'GUEST-MOVED x=50 y=20 wheel=2 buttons= 272:1 272:0 273:1 273:0' || return 1
    await 30 said $g "GUEST-GRAPHICS$size" || { trouble $g; return 1; }
    await 30 view $g-graphics || { view $g-graphics; return 1; }
    head -c 15 /out/$g-graphics.ppm
    [ ! "$size" ] || $tools/bulkhead-bed vnc "$vnc" wish 1200 800 || return 1
    say copy; await 200 said $g GUEST-WROTE || { trouble $g; return 1; }
    await 60 gone $g || { trouble $g; return 1; }
    exec 6>&-
    cat /run/$g.out
    copied $g && said $g 'GUEST-SEES /dev/hda /dev/hdb' && said $g GUEST-DONE
}

# The same with a newer kernel, booted directly (integration/testbed/setup-guest-6.12): what it makes of a viewer's wish.
newer_kernel() {
    seen_linux our nk "kernel=\"$guests/vmlinuz-6.12\"" "ramdisk=\"$guests/initrd-6.12\"" 'cmdline="console=ttyS0 quiet panic=-1 mitigations=off xen_emul_unplug=never"' &&
        await 5 nothing_left
}

# In dom0: by our own server. It and the display die while somebody looks; a password that libxl sets is asked for.
vnc() {
    seen_linux our vn && await 5 nothing_left || return 1
    our vp "$(disk hda /run/busy.img)" 'memory=64' 'vncpasswd="secret"' >/run/vp.cfg
    (exec 9<>/run/vp.com1; exec cat /run/vp.com1 >/run/vp.out) &
    xl create /run/vp.cfg || { cat /var/log/xen/qemu-dm-vp.log; return 1; }
    await 30 said vp BOOT-OK || { trouble vp; return 1; }
    at=$(vnc_address vp); xenstore-read "/local/domain/$(xl domid vp)/console/vnc-pass"
    qmp vp '{"execute":"query-vnc"}' | tee /run/vp.vnc; grep -q '"auth":"vnc"' /run/vp.vnc || return 1
    $tools/bulkhead-bed vnc "$at" picture /run/vp.ppm 2>&1 | tee /run/vp.err; grep -q 'security types \[2\]' /run/vp.err || return 1
    for p in vnc vga; do old=$(role_pid vp $p); kill -KILL "$old"; await 20 new_role vp $p "$old" || { trouble vp; return 1; }; done
    qmp vp '{"execute":"change-vnc-password","arguments":{"password":""}}' || return 1
    bulkhead inspect vp vnc; bulkhead ps vp
    xl destroy vp; await 5 nothing_left
}

# USB: a tablet and a keyboard by UHCI. Viewers point at places that the guest reads exactly, type on the USB keyboard; the
# controller's process dies, and both go on. In a stub domain the viewer's way is dom0's frame buffer.
tablet() { tablet_guest our tb && await 5 nothing_left; }
stub_tablet() { tablet_guest stub tb && await 10 stub_left; }
# The same by the PV keyboard and pointer that libxl gives every guest if nobody says no. Those whom they ask die too.
vkbd() { tablet_guest our kb vkbd && await 5 nothing_left; }
tablet_guest() { # tablet_guest MODE NAME [ROLE]
    role=${3:-usb} how=$1 g=$2
    # (Linux' PV drivers are for guests that may unplug.)
    case $role in vkbd) cmdline='xen_emul_unplug=all'; set -- vkb_device=1;; *) set -- 'usb=1' 'usbdevice=["tablet","keyboard"]';; esac
    console_guest $how $g "$@" <<'S' || return 1
load evdev; [ ! -e /sys/bus/pci/devices/0000:00:01.2 ] || load uhci-hcd usbhid hid-generic
event() { awk -v n="$1" '$0 ~ "^N:.*" n { f = 1 } f && /^H:/ { print; exit }' /proc/bus/input/devices | sed 's/.*\(event[0-9]*\).*/\1/' | grep event; }
pointer='Tablet|Virtual Pointer'
await 30 event "$pointer" && await 30 event Keyboard
grep -E '^N:.*(USB|Xen)' /proc/bus/input/devices; cat /sys/bus/usb/devices/*/product 2>/dev/null; dmesg | grep -i 'xenbus.*timeout'
until echo "GUEST-READY"; read -t 1 -r l_ </dev/ttyS0 && [ "$l_" = begin ]; do :; done
# pointed NAME COMMAND...: what the tablet said while the command ran: the last place, buttons, wheel.
pointed() {
    cat "/dev/input/$(event "$pointer")" >/run/points & cat=$!
    n_=$1; shift; "$@"; kill $cat; set -- "$n_"
    hexdump -v -e '12/2 "%u " "\n"' /run/points | awk -v n="$1" '{ v = $11; if (v > 32767) v -= 65536 }
        $9 == 3 && $10 == 0 { x = v } $9 == 3 && $10 == 1 { y = v } $9 == 2 && $10 == 8 { w += v } $9 == 1 { b = b " " $10 ":" $11 } END { print "GUEST-" n " x=" x " y=" y " wheel=" w " buttons=" b }'
}
first() { echo "GUEST-POINTS-first"; hears first; }
pointed first first
printf '\033[2J\033[Hname? ' >/dev/tty1; echo "GUEST-ASKS"; read -r name </dev/tty1; echo "GUEST-READ <$name>"
grep -c uhci /proc/interrupts
hears killed; echo GUEST-POINTS-second
# A driver that read all ones meanwhile may have found its devices anew.
until pointed second usleep 1500000 >/run/last; grep -q 'y=32[67].*273:0' /run/last; do :; done; cat /run/last
dmesg | grep -iE "usb [0-9]-[0-9]:|uhci" | tail -n 12
S
    await 120 said $g GUEST-READY || { trouble $g; return 1; }
    say begin; await 20 said $g GUEST-POINTS-first || { trouble $g; return 1; }
    at=$(vnc_address $g)
    # On 720x400 characters' pixels: 0x7fff * 719 / 719, 0x7fff * 100 / 399.
    x=32767 y=8212 last=32767
    $tools/bulkhead-bed vnc "$at" pointer 10 10 0 pointer 719 100 0 pointer 719 100 1 pointer 719 100 0 pointer 719 100 8 pointer 719 100 0 || return 1
    usleep 500000; say first; await 20 said $g 'GUEST-first ' || { trouble $g; return 1; }
    grep GUEST-first /run/$g.out
    said $g "GUEST-first x=$x y=$y wheel=1 buttons= 272:1 272:0" || { bulkhead inspect $g $role; bulkhead inspect $g vnc; return 1; }
    await 20 said $g GUEST-ASKS; $tools/bulkhead-bed vnc "$at" type "By USB_7
" || return 1
    await 20 said $g 'GUEST-READ <By USB_7>' || { trouble $g; bulkhead inspect $g $role; return 1; }
    bulkhead inspect $g $role; [ $role = usb ] || { bulkhead inspect $g xenbus; bulkhead ps $g; }; [ $how = stub ] || bulkhead top $g --count 1
    [ $how = stub ] || { p=$(role_pid $g $role); kill -KILL "$p"; await 20 new_role $g $role "$p"; } || { trouble $g; return 1; }
    for r in xenbus grant; do [ $role = usb ] || { p=$(role_pid $g $r); kill -KILL "$p"; await 20 new_role $g $r "$p"; } || { trouble $g; return 1; }; done
    say killed; await 20 said $g GUEST-POINTS-second || { trouble $g; return 1; }
    again() { $tools/bulkhead-bed vnc "$at" pointer 9 9 0 pointer 0 399 0 pointer 0 399 4 pointer 0 399 0; said $g "GUEST-second x=0 y=$last"; }
    await 40 again || { trouble $g; return 1; }
    await 60 gone $g || { trouble $g; return 1; }
    exec 6>&-; cat /run/$g.out
    ! grep -i 'xenbus.*timeout' /run/$g.out && said $g "GUEST-second x=0 y=$last wheel= buttons=.* 273:0" && said $g GUEST-DONE
}

# A USB controller by `usbctrl`, which libxl adds to the machine that it has made; detached and attached while the guest runs, which hears of
# both by ACPI; a tablet plugged into it is pointed with, also after the controller's process has died.
usbctrl() {
    g=uc; console_guest our uc 'usbctrl=["type=devicemodel,version=1,ports=2"]' <<'S' || return 1
load evdev uhci-hcd usbhid hid-generic
uhci() { grep -l 0x7020 /sys/bus/pci/devices/*/device; }
none() { ! uhci; }
tablet() { grep -q 'Name=.*Tablet' /proc/bus/input/devices; }
await 20 uhci; echo "GUEST-HAS $(uhci)"
await 120 none && echo GUEST-NONE
await 120 uhci; echo "GUEST-AGAIN $(uhci)"
await 120 tablet; echo GUEST-TABLET
last_place() { hexdump -v -e '12/2 "%u " "\n"' /run/points | awk '$9 == 3 && $10 == 0 { x = $11 } $9 == 3 && $10 == 1 { y = $11 } $9 == 1 && $10 == 272 { b = b $11 } END { print "x=" x " y=" y " left=" b }'; }
listen() { cat "/dev/input/$(awk '/^N:.*Tablet/ { f = 1 } f && /^H:/ { print; exit }' /proc/bus/input/devices | sed 's/.*\(event[0-9]*\).*/\1/')" >/run/points & }
listen; echo GUEST-LISTENS; hears points
last_place | sed 's/^/GUEST-POINTS /'
hears killed; kill %1; await 60 tablet; listen; echo GUEST-SECOND; hears points
last_place | sed 's/^/GUEST-AGAIN-POINTS /'
dmesg | grep -iE 'acpiphp|pci 0000:00:0[5-9]|uhci|usb 1' | tail -n 20
S
    await 120 said uc GUEST-HAS || { trouble uc; return 1; }
    xl usb-list uc; said uc 'GUEST-HAS /sys/bus/pci' || { trouble uc; return 1; }
    xl usbctrl-detach uc 0 && await 30 said uc GUEST-NONE || { trouble uc; bulkhead inspect uc platform | grep PCI; return 1; }
    await 10 sh -c '! bulkhead ps uc | grep -q usb' || { bulkhead ps uc; return 1; }
    xl usbctrl-attach uc type=devicemodel version=1 ports=2 && await 30 said uc 'GUEST-AGAIN /sys' || { trouble uc; bulkhead inspect uc platform | grep PCI; return 1; }
    qmp uc '{"execute":"device_add","arguments":{"driver":"usb-tablet","id":"t","bus":"xenusb-0.0"}}'
    await 30 said uc GUEST-TABLET && await 10 said uc GUEST-LISTENS || { trouble uc; bulkhead inspect uc usb; return 1; }
    at=$(vnc_address uc) || return 1
    $tools/bulkhead-bed vnc "$at" pointer 10 10 0 pointer 719 100 0 pointer 719 100 1 pointer 719 100 0 || return 1
    points() { say points; await 5 said uc "$1"; }
    usleep 500000; points 'GUEST-POINTS x=32767 y=8212 left=10' || { trouble uc; bulkhead inspect uc usb; return 1; }
    p=$(role_pid uc usb); kill -KILL "$p"; await 20 new_role uc usb "$p" || { trouble uc; return 1; }
    say killed; await 60 said uc GUEST-SECOND || { trouble uc; return 1; }
    $tools/bulkhead-bed vnc "$at" pointer 10 10 0 pointer 0 399 0 pointer 0 399 1 pointer 0 399 0 || return 1
    usleep 500000; points 'GUEST-AGAIN-POINTS x=0 y=32767 left=10' || { trouble uc; bulkhead inspect uc usb; return 1; }
    await 60 gone uc || { trouble uc; return 1; }
    exec 6>&-; cat /run/uc.out; await 5 nothing_left
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
    linux_config our pv <<'S'
echo "GUEST-HAS $(ls /sys/block | grep xvd | tr '\n' ' ') $(cat /proc/fb) $(grep -c 'Name="Xen Virtual' /proc/bus/input/devices)"
copy 16; echo GUEST-COPIED
printf '\033[2J\033[H\033[?25lname? ' >/dev/tty1; echo "GUEST-ASKS"
read -r name </dev/tty1; echo "GUEST-READ <$name>"
copy 80; echo GUEST-AGAIN
for k in 1 2; do
    await 60 test -b /dev/xvdc && echo "GUEST-DISK-$k $(sha256sum </dev/xvdc)"
    await 60 test ! -e /dev/xvdc && echo "GUEST-GONE-$k"
done
read -r end </dev/tty1
S
    attached_config pv pv 'vfb=["vnc=1,vnclisten=127.0.0.1"]'
    xl create /run/pv.cfg || { cat /var/log/xen/qemu-dm-pv.log; return 1; }
    mkfifo /run/pv.in; exec 6<>/run/pv.in
    $tools/bulkhead-bed terminal xl console pv </run/pv.in >/run/pv.out 2>&1 &
    await 60 said pv GUEST-ASKS || { trouble pv; xenstore-ls /local/domain/0/backend; return 1; }
    bulkhead ps pv; bulkhead inspect pv vfb; bulkhead inspect pv qdisk51728 | tee /run/pv.disk
    grep -q 'ring entries  *512' /run/pv.disk && grep -q 'persistent grants  *false' /run/pv.disk && grep -q 'copied requests  *[1-9]' /run/pv.disk && grep -q 'pages mapped  *0' /run/pv.disk || return 1
    vnc=$(vnc_address pv) || return 1
    view() { rm -f /out/pv.ppm /out/pv.png; $tools/bulkhead-bed vnc "$vnc" picture /out/pv.ppm && screenshot pv pv && $tools/bulkhead-bed same-picture /out/pv.png /out/pv.ppm; }
    await 20 view || { view; return 1; }
    cp /out/pv.ppm /out/pv-asks.ppm
    # Those whom all ask die, and one that asks: what is copied next needs the new ones.
    for r in xenbus grant qdisk; do p=$(role_pid pv $r); kill -KILL "$p"; await 20 sh -c "bulkhead --json ps pv | grep -q '\"name\":\"$r[0-9]*\"[^}]*\"restarts\":1'" || { bulkhead ps pv; trouble pv; return 1; }; done
    $tools/bulkhead-bed vnc "$vnc" type "By PV_7
" && await 20 said pv 'GUEST-READ <By PV_7>' || { trouble pv; return 1; }
    await 20 view && ! cmp -s /out/pv.ppm /out/pv-asks.ppm || { echo "nothing was seen of what was typed"; return 1; }
    await 60 said pv GUEST-AGAIN || { trouble pv; return 1; }
    # A disk that comes while it runs, goes, and comes again with another image.
    for n in 1 2; do
        head -c 1048576 /dev/urandom >/run/pv.more$n
        xl block-attach pv "format=raw,vdev=xvdc,access=ro,backendtype=qdisk,target=/run/pv.more$n" || { trouble pv; return 1; }
        await 20 said pv "GUEST-DISK-$n $(sha256sum </run/pv.more$n | cut -d' ' -f1)" || { trouble pv; bulkhead ps pv; xenstore-ls /local/domain/0/backend; return 1; }
        bulkhead ps pv | grep 51744; bulkhead inspect pv qdisk51744 | grep 'sectors read' || return 1
        xl block-detach pv xvdc && await 20 said pv "GUEST-GONE-$n" || { trouble pv; return 1; }
        await 10 sh -c '! bulkhead ps pv | grep -q 51744' || { bulkhead ps pv; trouble pv; return 1; }
    done
    # The display dies, and the viewer goes on.
    p=$(role_pid pv vfb); kill -KILL "$p"; await 20 new_role pv vfb "$p" && await 20 view || { trouble pv; return 1; }
    $tools/bulkhead-bed vnc "$vnc" type "
"
    await 60 gone pv || { trouble pv; return 1; }
    exec 6>&-; cat /run/pv.out
    said pv 'GUEST-HAS xvda xvdb  0 xen 2' && copied pv && await 5 nothing_left
}

# Consoles beyond the first: channels, one to a pseudo terminal and one to a socket, of an HVM, a PVH and a PV guest. Lines go both ways, also
# by processes that have taken the place of killed ones. (libxl 4.17 numbers channels from 0, which is the first console's number: it makes
# no device of the first one.)
channels() {
    cat >/run/channels.sh <<'S'
for c in 1 2 3; do
    ( await 20 stty -F /dev/hvc$c raw -echo || exit; echo "GUEST-OPEN $c"; exec 5<>/dev/hvc$c; echo "channel" >&5
        while read -r l <&5; do echo "heard <$l>" >&5; [ "$l" != end ] || { : >/run/end$c; exit; }; done ) &
done
both() { [ "$(ls /run/end? | wc -l)" = 2 ]; }
await 600 both
S
    console_guest our ch 'channel=["connection=pty,name=org.example.none","connection=pty,name=org.example.a","connection=socket,name=org.example.b,path=/run/ch.sock"]' </run/channels.sh && channels_of ch || return 1
    for kind in pvh pv; do
        linux_config our $kind </run/channels.sh || return 1
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
    for n in 1 2; do await 100 grep -q "^channel" "/run/$g.$n" || { trouble "$g"; cat "/run/$g.$n"; bulkhead ps "$g"; bulkhead inspect "$g" console$pty; return 1; }; done
    echo one >&7; echo two >&8
    await 20 grep -q 'heard <one>' "/run/$g.1" && await 20 grep -q 'heard <two>' "/run/$g.2" || { trouble "$g"; cat "/run/$g.1" "/run/$g.2"; return 1; }
    qmp "$g" '{"execute":"query-chardev"}' | tee "/run/$g.q"; grep -q "$tty\"[^}]*\"libxl-channel$pty\"" "/run/$g.q" || return 1
    kill -KILL $(tree "$g" | sed -n 's/^console //p')
    for r in xenbus grant; do kill -KILL "$(role_pid "$g" $r)"; done
    for r in console$pty console$socket xenbus grant; do await 20 sh -c "bulkhead --json ps $g | grep -q '\"name\":\"$r\"[^}]*\"restarts\":1'" || { bulkhead ps "$g"; trouble "$g"; return 1; }; done
    # The socket's peer has gone with the process; the pseudo terminal stays.
    $tools/bulkhead-bed line "/run/$g.sock" <"/run/$g.in2" >>"/run/$g.2" &
    echo end >&7; echo end >&8
    await 60 gone "$g" || { trouble "$g"; cat "/run/$g.1" "/run/$g.2"; bulkhead inspect "$g" console$pty; bulkhead inspect "$g" console$socket; return 1; }
    exec 7>&- 8>&-; cat "/run/$g.1" "/run/$g.2"
    grep -q 'heard <end>' "/run/$g.1" && grep -q 'heard <end>' "/run/$g.2" && [ ! -e "/run/$g.sock" ] && await 5 nothing_left
}
