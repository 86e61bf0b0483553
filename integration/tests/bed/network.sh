# Part of the suite: guests with network cards, on bridges in dom0, with libxl's own hotplug scripts.
# Two bridges, one for each card of a guest: 10.9.0.0/24 and fd09:0::/64, 10.9.1.0/24 and fd09:1::/64. dnsmasq gives addresses,
# tells who routes, and serves what a card boots: by TFTP on the first, by HTTP on the second.
networks() {
    [ -d /sys/class/net/xenbr1 ] && return
    modprobe -a xen-netback tun bridge sch_ingress cls_bpf act_gact || return 1
    mkdir -p /run/boot /root/.ssh /var/lib/misc
    cp $guests/netboot.nbp /run/boot/
    for n in 0 1; do
        ip link add xenbr$n type bridge && ip link set xenbr$n up && ip addr add 10.9.$n.1/24 dev xenbr$n && ip addr add fd09:$n::1/64 dev xenbr$n || return 1
    done
    httpd -p 10.9.1.1:80 -h /run/boot
    # Whoever wants the tests' program has it from here.
    ( while :; do nc -l -p 5009 <$tools/bulkhead-bed; done ) >/dev/null 2>&1 &
    cat >/run/dnsmasq.conf <<'C'
port=0
interface=xenbr0
interface=xenbr1
bind-interfaces
user=root
dhcp-range=10.9.0.10,10.9.0.99
dhcp-range=10.9.1.10,10.9.1.99
dhcp-range=fd09:0::,ra-only
dhcp-range=fd09:1::,ra-only
enable-ra
ra-param=*,4,0
no-ping
dhcp-authoritative
enable-tftp
tftp-root=/run/boot
dhcp-boot=tag:xenbr0,netboot.nbp
dhcp-boot=tag:xenbr1,http://10.9.1.1/netboot.nbp
dhcp-leasefile=/run/leases
log-dhcp
log-facility=/out/dnsmasq.log
C
    echo 'root:x:0:0::/root:/bin/sh' >/etc/passwd; echo 'root:x:0:' >/etc/group
    dnsmasq -C /run/dnsmasq.conf || return 1
    dropbearkey -t ed25519 -f /root/.ssh/id_dropbear >/dev/null 2>&1
    ssh_key=$(dropbearkey -y -f /root/.ssh/id_dropbear | grep ^ssh-); echo "$ssh_key" >/root/.ssh/public
}
# vifs [OPTIONS...]: the two cards, with these options.
vifs() { echo "vif=[\"model=e1000,bridge=xenbr0,mac=02:16:3e:00:00:01,mtu=8000\",\"model=rtl8139,bridge=xenbr1,mac=02:16:3e:00:00:02\"]"; }
# net_guest MODE NAME [LINE...]: Linux with both cards as eth0 and eth1; it executes lines from its serial port (guest).
net_guest() {
    mode_=$1 name_=$2; shift 2
    networks || return 1
    { echo "key='$(cat /root/.ssh/public)'"; cat <<'S'; } >/run/net.script
load e1000 8139cp
mkdir -p /root/.ssh /etc/dropbear; echo "$key" >/root/.ssh/authorized_keys; chmod 700 / /root /root/.ssh
echo 'root:x:0:0::/root:/bin/sh' >/etc/passwd; echo 'root:x:0:' >/etc/group; echo /bin/sh >/etc/shells; mkdir -p /dev/pts; mount -t devpts devpts /dev/pts
printf '#!/bin/sh\n[ "$1" = bound ] && ip -4 addr flush dev $interface && ip addr add $ip/$mask dev $interface\nexit 0\n' >/run/bound; chmod 755 /run/bound
dhcp() { ip link set "$1" up; udhcpc -i "$1" -n -q -t 10 -T 2 -s /run/bound >/dev/null 2>&1; }
fetch() { nc "$1" "$2" <&5 | sha256sum; }
tool() { nc 10.9.0.1 5009 <&5 >/run/bed && chmod 755 /run/bed; }
both_ping() { ping -c 2 -W 5 10.9.0.1 && ping -c 2 -W 5 10.9.1.1; }
mkfifo /run/none; exec 5<>/run/none 8</dev/ttyS0
until echo "GUEST-READY"; read -t 1 -r l_ <&8 && [ "$l_" = begin ]; do :; done
echo "GUEST-LISTENS"
while read -r l_ <&8 && [ "$l_" != end ]; do eval "$l_"; echo "GUEST-STATUS $?"; done
S
    console_guest "$mode_" "$name_" "$(vifs)" "$@" </run/net.script || return 1
    await 120 said "$name_" GUEST-READY || return 1
    say begin; await 20 said "$name_" GUEST-LISTENS
}
# guest NAME SECONDS COMMAND: the guest executes it; fails if it fails there.
statuses() { grep -c 'GUEST-STATUS' "/run/$1.out"; }
guest() {
    before_=$(statuses "$1"); say "$3"
    more_() { [ "$(statuses "$1")" -gt "$2" ]; }
    await "$2" more_ "$1" "$before_" || { echo "no answer in $2 s: $3"; return 1; }
    grep 'GUEST-STATUS' "/run/$1.out" | tail -n 1 | tr -d '\r' | grep -q 'STATUS 0$' || { echo "in the guest: $3"; return 1; }
}
net_trouble() { trouble "$1"; bulkhead net show "$(xl domid "$1")"; bulkhead inspect "$(xl domid "$1")" nic0; grep -v RTR-ADV /out/dnsmasq.log | tail -n 20; cat /var/log/xen/xen-hotplug.log; }
# serve PORT FILE: once, to whoever comes; take PORT FILE BYTES: from whoever comes, until so much is there.
serve() { nc -l -p "$1" <"$2" >/dev/null 2>&1 & }
take() { : >"$2"; ( until [ "$(wc -c <"$2")" -ge "$3" ]; do usleep 200000; done ) | nc -l -p "$1" >>"$2" 2>/dev/null & }
sum() { sha256sum <"$1" | cut -d' ' -f1; }
# transfers NAME BYTES: a file each way over each card, both cards at once; equal checksums.
transfers() {
    head -c "$2" /dev/urandom >/run/net.file; want=$(sum /run/net.file)
    for n in 0 1; do serve 500$n /run/net.file; take 501$n /run/net.got$n "$2"; done
    guest "$1" 300 "fetch 10.9.0.1 5000 >/run/got0 & fetch 10.9.1.1 5001 >/run/got1 & wait; echo GUEST-GOT \$(cut -d' ' -f1 /run/got0 /run/got1)" || return 1
    guest "$1" 300 "head -c $2 /dev/hda | nc 10.9.0.1 5010 & head -c $2 /dev/hda | nc 10.9.1.1 5011; wait" || return 1
    sent=$(head -c "$2" "/run/$1.img" | sha256sum | cut -d' ' -f1)
    await 60 sh -c "[ \$(sha256sum </run/net.got0 | cut -d' ' -f1) = $sent ] && [ \$(sha256sum </run/net.got1 | cut -d' ' -f1) = $sent ]" ||
        { wc -c /run/net.got?; return 1; }
    said "$1" "GUEST-GOT $want $want"
}
# What every guest must be able to do.
net_basics() { # net_basics NAME
    guest "$1" 60 'dhcp eth0 && dhcp eth1' && cat /run/leases && guest "$1" 30 both_ping || return 1
    a0=$(awk '/02:16:3e:00:00:01/ { print $3 }' /run/leases) a1=$(awk '/02:16:3e:00:00:02/ { print $3 }' /run/leases)
    a1=${second:-$a1}
    ping -c 2 -W 5 "$a0" && ping -c 2 -W 5 "$a1" || return 1
    # By IPv6: an address of its own making, and one that the router's word has given it.
    guest "$1" 30 'await 10 ping6 -c 1 -W 2 fd09:0::1 && ping6 -c 2 -W 5 fd09:1::1' || return 1
    ping6 -c 2 -W 5 -I xenbr0 fe80::16:3eff:fe00:1 && ping6 -c 2 -W 5 fd09:1::16:3eff:fe00:2 || return 1
    # Somebody logs in, over either card.
    guest "$1" 60 'dropbear -R -s -E 2>/run/dropbear.log' || return 1
    for a in "$a0" "$a1"; do
        timeout 90 dbclient -y -y "root@$a" 'echo "logged in: $(cat /proc/uptime)"' </dev/null >/run/ssh.out 2>/run/ssh.err; grep -q '^logged in' /run/ssh.out || { cat /run/ssh.out /run/ssh.err; return 1; }
        cat /run/ssh.out
    done
    transfers "$1" 400000
}
# net_more NAME: the link goes down and up, the drivers are loaded again, jumbo frames; the guest has seen no error.
net_more() {
    bulkhead net set "$(xl domid "$1")" nic0 link=down || return 1
    guest "$1" 20 'await 10 grep -q 0 /sys/class/net/eth0/carrier' && ! ping -c 1 -W 2 "$a0" && guest "$1" 20 'ping -c 2 -W 5 10.9.1.1' || return 1
    qmp "$1" '{"execute":"set_link","arguments":{"name":"nic0","up":true}}' && guest "$1" 20 'await 10 grep -q 1 /sys/class/net/eth0/carrier; ping -c 2 -W 5 10.9.0.1' || return 1
    guest "$1" 90 'rmmod e1000 && rmmod 8139cp && load e1000 8139cp && dhcp eth0 && dhcp eth1 && both_ping' || return 1
    ip link set xenbr0 mtu 8000; guest "$1" 20 'ip link set eth0 mtu 8000 && ping -c 2 -s 7900 -W 5 10.9.0.1' || return 1
    guest "$1" 10 '[ "$(cat /sys/class/net/eth?/statistics/rx_errors /sys/class/net/eth?/statistics/tx_errors | tr -d "\n")" = 0000 ]'
}
# Dom0 mode: both cards at once. Addresses, IPv6, SSH, files; the link goes down and up, the drivers are loaded again, jumbo frames.
net() {
    net_guest our nt || { net_trouble nt; return 1; }
    net_basics nt || { net_trouble nt; return 1; }
    net_more nt || { net_trouble nt; return 1; }
    say end; await 60 gone nt || { net_trouble nt; return 1; }
    exec 6>&-
    grep -E 'bulkhead-dm' /var/log/xen/qemu-dm-nt.log
    ! grep -q SIGSYS /var/log/xen/qemu-dm-nt.log && await 5 nothing_left && ! ls /sys/class/net | grep -q emu
}
# seen INTERFACE COMMAND...: the names of the forbidden frames that arrive on an interface while the command runs, in /run/seen.
seen() {
    on_=$1; shift
    : >/run/seen; $tools/bulkhead-bed watch "$on_" >/run/seen & w_=$!
    await 5 grep -q watching /run/seen && "$@" && await 20 grep -q 'arrived honest' /run/seen; r_=$?
    [ $r_ = 0 ] || { kill $w_; echo "the honest frame did not arrive"; }
    wait $w_ 2>/dev/null; sed -n 's/^arrived //p' /run/seen | tr '\n' ' '; echo
    return $r_
}
arrived() { sed -n 's/^arrived //p' /run/seen | tr '\n' ' '; }
all_frames='mac ipv4 arp dhcp router hidden-router neighbour ipv6 vlan ethertype honest '
# dropped NAME PLACE WANTED: what the rules have dropped: in the process, on the interface.
dropped() {
    bulkhead net show "$(xl domid "$1")" | tee /run/show
    got_=$(awk '/^nic1/ { exit } { print }' /run/show | sed -n "s/^    $2: \(.*\): \([1-9][0-9]*\) dropped/\1=\2/p" | tr '\n' ';')
    [ "$got_" = "$3" ] || { echo "dropped in $2: $got_, not $3"; return 1; }
}
# spoofing NAME HOSTILE: frames that a guest may not send, from inside it and, by HOSTILE (a command and its arguments), from a program
# in the place of its card's process. Without rules all arrive, with rules none, each counted once; the guest goes on.
spoofing() {
    d=$(xl domid "$1"); n_=$1; shift
    forge() { guest "$n_" 60 "/run/bed spoof eth0 02:16:3e:00:00:01 $a0"; }
    guest "$n_" 60 tool || return 1
    seen xenbr0 forge && [ "$(arrived)" = "$all_frames" ] || { echo "without rules: $(arrived)"; return 1; }
    seen xenbr0 "$@" && [ "$(arrived)" = "$all_frames" ] || { echo "by hand, without rules: $(arrived)"; return 1; }
    bulkhead net set "$d" nic0 level=addresses ip="$a0" ip=fd09::16:3eff:fe00:1 || return 1
    seen xenbr0 forge && [ "$(arrived)" = 'honest ' ] || { echo "with rules: $(arrived)"; return 1; }
    dropped "$n_" process 'ARP=1;DHCP server=1;EtherType=1;VLAN=1;neighbour discovery=1;router=2;source IPv4=1;source IPv6=1;source MAC=1;' || return 1
    dropped "$n_" interface '' || return 1
    seen xenbr0 "$@" && [ "$(arrived)" = 'honest ' ] || { echo "by hand, with rules: $(arrived)"; return 1; }
    dropped "$n_" interface 'ARP=1;DHCP server=1;EtherType=1;VLAN=1;neighbour discovery=1;router=2;source IPv4=1;source IPv6=1;source MAC=1;' || return 1
    # What an honest guest needs still goes.
    guest "$n_" 60 'dhcp eth0 && both_ping && await 10 ping6 -c 1 -W 2 fd09:0::1' || return 1
    bulkhead net set "$d" nic0 link=down || return 1
    : >/run/seen; $tools/bulkhead-bed watch xenbr0 >/run/seen & w_=$!
    await 5 grep -q watching /run/seen && "$@"; forge; usleep 500000; kill $w_
    [ -z "$(arrived)" ] || { echo "with the cable out: $(arrived)"; return 1; }
    bulkhead net set "$d" nic0 link=up level=off && seen xenbr0 "$@" && [ "$(arrived)" = "$all_frames" ] || { echo "off again: $(arrived)"; return 1; }
}
# killed NAME CARD BYTES KILL: that card's process is killed in the middle of a download by the command KILL. Meanwhile other devices answer
# as fast as before, and the other card works; the download ends, whole.
killed() {
    n_=$1 card_=$2 bytes_=$3; shift 3
    head -c "$bytes_" /dev/urandom >/run/net.file; want=$(sum /run/net.file)
    serve 500$card_ /run/net.file
    guest "$n_" 60 'echo "GUEST-IDLE $(/run/bed ports 113 300)"' || return 1
    guest "$n_" 60 "fetch 10.9.$card_.1 500$card_ >/run/down & down=\$!; rx=/sys/class/net/eth$card_/statistics/rx_bytes; then=\$(cat \$rx); more() { [ \$(cat \$rx) -gt \$((then + 500000)) ]; }; await 60 more" || return 1
    # From before the kill until the card is back.
    guest "$n_" 20 '{ /run/bed ports 113 150000 >/run/busy; echo gone >>/run/busy; } & ports=$!' || return 1
    "$@" || return 1
    guest "$n_" 10 'kill -0 $down && kill -0 $ports' || { echo "it was over before the card was back"; return 1; }
    guest "$n_" 60 'ping -c 2 -W 5 '"10.9.$((1 - card_)).1" || return 1
    guest "$n_" 120 'wait $ports; echo "GUEST-BUSY $(head -n 1 /run/busy)"' || return 1
    guest "$n_" 120 'wait $down; echo "GUEST-DOWN $(cut -d" " -f1 /run/down)"; ping -c 2 -W 5 '"10.9.$card_.1" || return 1
    idle=$(sed -n 's/.*GUEST-IDLE ports: median \([0-9]*\).*/\1/p' "/run/$n_.out" | tail -n 1) busy=$(sed -n 's/.*GUEST-BUSY ports: median \([0-9]*\).*/\1/p' "/run/$n_.out" | tail -n 1)
    echo "another device's port: $idle ns idle, $busy ns from before the kill until the card was back"
    said "$n_" "GUEST-DOWN $want" && [ "$idle" ] && [ "$busy" ] && [ "$busy" -le $((idle * 3)) ]
}
addresses() { a0=$(awk '/02:16:3e:00:00:01/ { print $3 }' /run/leases) a1=$(awk '/02:16:3e:00:00:02/ { print $3 }' /run/leases); }
# Dom0 mode: spoofing, a card killed during a download, a capture.
net_attacked() {
    guest_limit=400 net_guest our na && guest na 60 'dhcp eth0 && dhcp eth1' || { net_trouble na; return 1; }
    addresses
    by_hand_here() { $tools/bulkhead-bed spoof-fd "$(role_pid na e1000)" 02:16:3e:00:00:01 "$a0"; }
    spoofing na by_hand_here || { net_trouble na; return 1; }
    bulkhead trace net "$(xl domid na)" nic0 /out/na.pcap 600 & trace=$!
    kill_here() { v=$(role_pid na "$1"); kill -KILL "$v" && await 20 new_role na "$1" "$v"; }
    killed na 0 4000000 kill_here e1000 && killed na 1 4000000 kill_here rtl8139 || { net_trouble na; return 1; }
    kill $trace; ls -l /out/na.pcap
    say end; await 60 gone na || { net_trouble na; return 1; }
    exec 6>&-
    ! grep -q SIGSYS /var/log/xen/qemu-dm-na.log && await 5 nothing_left && [ "$(wc -c </out/na.pcap)" -gt 3000000 ]
}
# A guest without a disk boots from either card's firmware: by TFTP over one, by HTTP over the other.
net_boot() {
    networks || return 1
    for card in e1000:xenbr0 rtl8139:xenbr1; do
        our nb '' 'memory=64' 'boot="n"' "vif=[\"model=${card%:*},bridge=${card#*:},mac=02:16:3e:00:00:0${card#*:xenbr}\"]" >/run/nb.cfg
        ( i=0; while [ $i -lt 150 ] && ! grep -q NET-BOOT-OK /run/nb.out; do usleep 1000000; i=$((i + 1)); done; usleep 3000000; xl destroy nb ) >/dev/null 2>&1 & w=$!
        guest_run /run/nb.cfg >/run/nb.out; r=$?
        cat /run/nb.out; grep -q NET-BOOT-OK /run/nb.out && [ $r = 0 ] || { cat /var/log/xen/qemu-dm-nb.log; tail -n 30 /out/dnsmasq.log; return 1; }
        kill $w
    done
    await 5 nothing_left
}
# The guest's kernel unplugs its emulated cards (it has PV ones): their processes end, their interfaces are gone, whoever listens is told,
# and nothing of them is on the bus. Its disk has a PV back end that is no process, so that unplugging is offered at all.
net_unplug() { unplugs our && await 5 nothing_left && ! ls /sys/class/net | grep -q emu; }
stub_unplug() { unplugs debug_stub && await 10 stub_left; }
unplugs() { # unplugs MODE
    networks || return 1
    cmdline='xen_emul_unplug=nics' linux_config "$1" nu "$(vifs)" 'on_poweroff="destroy"' 'stubdomain_memory=96' <<'S'
load ata_piix
echo "GUEST-SEES $(lspci -n | grep -c -E '8086:100e|10ec:8139') cards"
hears end
S
    modprobe -a loop xen-blkback; losetup /dev/loop0 /run/nu.img; losetup /dev/loop1 /run/nu.data
    sed -i 's#^disk=.*#disk=["phy:/dev/loop0,hda,w","phy:/dev/loop1,hdb,w"]#; s#^serial=.*#serial="pty"#' /run/nu.cfg
    xl create -p /run/nu.cfg || { cat /var/log/xen/qemu-dm-nu.log /var/log/xen/xen-hotplug.log; return 1; }
    d=$(xl domid nu)
    rm -f /run/nu.in; mkfifo /run/nu.in
    $tools/bulkhead-bed terminal xl console nu </run/nu.in >/run/nu.out 2>&1 &
    exec 6<>/run/nu.in
    bulkhead events "$d" >/run/nu.events & e=$!
    bulkhead ps "$d" | grep nic || return 1
    xl unpause nu
    await 90 said nu 'GUEST-SEES [0-9]' || { cat /run/nu.out /var/log/xen/qemu-dm-nu.log; return 1; }
    # While the guest still runs: no process, no interface that leads anywhere.
    bulkhead ps "$d"; [ "$(bulkhead ps "$d" | awk '/^ *nic/ && $2 != 0 { n++ } END { print n + 0 }')" = 0 ] || return 1
    case $1 in
        our) ls /sys/class/net | grep emu && return 1;;
        *) inside nu 'cat /sys/class/net/eth0/flags /sys/class/net/eth1/flags /proc/net/packet' || return 1
            # IFF_UP is the lowest bit; one line of /proc/net/packet is its heading.
            [ "$(grep -c '^0x[0-9a-f]*[02468ace]$' /run/inside.out)" = 2 ] && [ "$(grep -c . /run/inside.out)" = 4 ] || return 1;;
    esac
    say end; await 60 gone nu || return 1
    exec 6>&-
    kill $e; losetup -d /dev/loop0; losetup -d /dev/loop1
    cat /run/nu.out /run/nu.events; tail -n 8 /var/log/xen/qemu-dm-nu.log
    said nu 'GUEST-SEES 0 cards' && [ "$(grep -c DEVICE_DELETED /run/nu.events)" = 2 ] && grep -q '"device":"nic0"' /run/nu.events && ! grep -q DEVICE_DIED /run/nu.events
}
# The same in a stub domain: the cards' other ends are packet sockets on its interfaces, the rules are at their egress. Basics and both
# attacks (the debugging image has a shell and the hostile program; all else in it is the release's).
stub_net() {
    # The second card's address is a lease that its process gives.
    guest_limit=400 net_guest debug_stub sn 'stubdomain_memory=96' 'device_model_args_hvm=["-nic-lease","id=nic1,ip=10.9.1.200/24,gateway=10.9.1.1"]' || { net_trouble sn; return 1; }
    second=10.9.1.200 net_basics sn && net_more sn || { net_trouble sn; return 1; }
    row() { bulkhead ps "$(xl domid sn)" | awk -v p="$1" '$1 == p { print $2 }'; }
    by_hand_inside() { inside sn "/usr/lib/bulkhead-tests/bulkhead-bed spoof-fd $(row nic0) 02:16:3e:00:00:01 $a0" 60 >/run/by-hand; r_=$?; cat /run/by-hand; return $r_; }
    spoofing sn by_hand_inside || { net_trouble sn; return 1; }
    other() { r_=$(row nic0); [ "$r_" ] && [ "$r_" != 0 ] && [ "$r_" != "$1" ]; }
    kill_inside() { v=$(row nic0); inside sn "kill -KILL $v" && await 30 other "$v"; }
    killed sn 0 20000000 kill_inside || { net_trouble sn; return 1; }
    say end; await 60 gone sn || { net_trouble sn; return 1; }
    exec 6>&-
    grep -E 'bulkhead-dm: (network|nic)' /var/log/xen/qemu-dm-sn.log
    await 10 stub_left
}

# What takes too long for CI: integration/campaign network. A machine without KVM needs minutes for each of these.
# A quarter of a gibibyte each way over card N.
net_transfer() {
    guest_limit=9000 net_guest our nl && guest nl 60 'dhcp eth0 && dhcp eth1 && tool' || { net_trouble nl; return 1; }
    n_bytes=$((${NET_MIB:-256} << 20))
    b_=$(uptime_s)
    $tools/bulkhead-bed tcp listen "10.9.$1.1:5001" send $n_bytes checked >/run/sum & l=$!
    guest nl 3000 "echo \"GUEST-SUM \$(/run/bed tcp connect 10.9.$1.1:5001 receive checked)\"" && wait $l && said nl "GUEST-SUM $(cat /run/sum)" || { cat /run/sum; net_trouble nl; return 1; }
    echo "card $1: $n_bytes bytes to the guest in $(awk "BEGIN { print $(uptime_s) - $b_ }") s, equal: $(cat /run/sum)"
    b_=$(uptime_s)
    $tools/bulkhead-bed tcp listen "10.9.$1.1:5002" receive checked >/run/sum & l=$!
    guest nl 3000 "echo \"GUEST-SENT \$(/run/bed tcp connect 10.9.$1.1:5002 send $n_bytes checked)\"" && wait $l && said nl "GUEST-SENT $(cat /run/sum)" || { cat /run/sum; net_trouble nl; return 1; }
    echo "card $1: $n_bytes bytes from the guest in $(awk "BEGIN { print $(uptime_s) - $b_ }") s, equal: $(cat /run/sum)"
    net_over nl
}
net_transfer_e1000() { net_transfer 0; }
net_transfer_rtl8139() { net_transfer 1; }
# Fifty times both drivers anew.
net_reload() {
    guest_limit=9000 net_guest our nl && guest nl 60 'dhcp eth0 && dhcp eth1' || { net_trouble nl; return 1; }
    i=0; b_=$(uptime_s)
    while [ $i -lt "${NET_RELOADS:-50}" ]; do
        guest nl 120 'rmmod e1000 && rmmod 8139cp && load e1000 8139cp && dhcp eth0 && dhcp eth1 && both_ping' || { echo "reload $i"; net_trouble nl; return 1; }
        i=$((i + 1))
    done
    echo "card both: $i reloads of both drivers in $(awk "BEGIN { print $(uptime_s) - $b_ }") s"
    net_over nl
}
# Guest NAME's cards have counted no errors; the guest ends and leaves nothing behind.
net_over() {
    guest "$1" 10 '[ "$(cat /sys/class/net/eth?/statistics/rx_errors /sys/class/net/eth?/statistics/tx_errors | tr -d "\n")" = 0000 ]' || { net_trouble "$1"; return 1; }
    say end; await 60 gone "$1"; exec 6>&-; await 5 nothing_left
}
# A minute of smallest frames both ways over both cards: no process grows by more than 512 KiB after the first twenty seconds.
net_flood() {
    guest_limit=900 net_guest our nf && guest nf 60 'dhcp eth0 && dhcp eth1 && tool' || { net_trouble nf; return 1; }
    pss() { sed -n 's/^Pss: *\([0-9]*\).*/\1/p' "/proc/$(role_pid nf "$1")/smaps_rollup"; }
    say '/run/bed flood eth0 60 & /run/bed flood eth1 60; wait; echo GUEST-FLOODED'
    $tools/bulkhead-bed flood xenbr0 60 & a=$!; $tools/bulkhead-bed flood xenbr1 60 & b=$!
    sleep 20; e1=$(pss e1000) r1=$(pss rtl8139)
    await 200 said nf '^GUEST-FLOODED'; wait $a $b; e2=$(pss e1000) r2=$(pss rtl8139)
    sed 's/^/guest: /' /run/nf.out | grep 'flood:'; echo "PSS after 20 s and at the end: e1000 $e1 $e2 kB, rtl8139 $r1 $r2 kB"
    guest nf 30 both_ping || { net_trouble nf; return 1; }
    say end; await 60 gone nf; exec 6>&-
    # Both have sent.
    [ "$(grep -c 'flood: [1-9][0-9]* frames' /run/nf.out)" = 2 ] && [ $((e2 - e1)) -le 512 ] && [ $((r2 - r1)) -le 512 ] && await 5 nothing_left
}
