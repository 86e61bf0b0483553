# shellcheck shell=sh
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
# no_emulated_interface: none of an emulated card is left in dom0.
no_emulated_interface() { for i_ in /sys/class/net/*emu*; do [ ! -e "$i_" ] || { echo "${i_##*/} is there"; return 1; }; done; }
# vifs [OPTIONS...]: the two cards, with these options.
vifs() { echo "vif=[\"model=e1000,bridge=xenbr0,mac=02:16:3e:00:00:01,mtu=8000\",\"model=rtl8139,bridge=xenbr1,mac=02:16:3e:00:00:02\"]"; }
# net_guest MODE NAME [LINE...]: Linux with both cards as eth0 and eth1; it executes lines from its serial port (guest).
net_guest() {
    mode_=$1 name_=$2; shift 2
    networks || return 1
    { echo "key='$(cat /root/.ssh/public)'"; cat $tools/guests/net; } >/run/net.script
    console_guest "$mode_" "$name_" /run/net.script "$(vifs)" "$@" || return 1
    await 480 said "$name_" GUEST-READY || return 1
    say begin; await 80 said "$name_" GUEST-LISTENS
}
# guest NAME SECONDS COMMAND: the guest executes it; fails if it fails there.
statuses() { grep -c 'GUEST-STATUS' "/run/$1.out"; }
guest() {
    before_=$(statuses "$1"); say "$3"
    more_() { [ "$(statuses "$1")" -gt "$2" ]; }
    await "$2" more_ "$1" "$before_" || { echo "no answer in $2 s: $3"; return 1; }
    [ "$(after "$1" GUEST-STATUS)" = 0 ] || { echo "in the guest: $3"; return 1; }
}
net_trouble() { trouble "$1"; bulkhead net show "$(xl domid "$1")"; bulkhead inspect "$(xl domid "$1")" nic0; grep -v RTR-ADV /out/dnsmasq.log | tail -n 20; cat /var/log/xen/xen-hotplug.log; }
# serve PORT FILE: once, to whoever comes; take PORT FILE BYTES: from whoever comes, until so much is there.
serve() { nc -l -p "$1" <"$2" >/dev/null 2>&1 & }
# shellcheck disable=SC2094 # it looks at the size of what grows
take() { : >"$2"; ( until [ "$(wc -c <"$2")" -ge "$3" ]; do usleep 200000; done ) | nc -l -p "$1" >>"$2" 2>/dev/null & }
# transfers NAME BYTES: a file each way over each card, both cards at once; equal checksums.
transfers() {
    head -c "$2" /dev/urandom >/run/net.file; want=$(sum /run/net.file)
    for n in 0 1; do serve 500$n /run/net.file; take 501$n /run/net.got$n "$2"; done
    guest "$1" 800 "fetch 10.9.0.1 5000 >/run/got0 & fetch 10.9.1.1 5001 >/run/got1 & wait; echo GUEST-GOT \$(cut -d' ' -f1 /run/got0 /run/got1)" || return 1
    guest "$1" 800 "head -c $2 /dev/hda | nc 10.9.0.1 5010 & head -c $2 /dev/hda | nc 10.9.1.1 5011; wait" || return 1
    got() { for got_ in 0 1; do "$tools/bulkhead-bed" same "$1" 0 "/run/net.got$got_" 0 "$2" || return 1; done; }
    await 240 got "/run/$1.img" "$2" ||
        { wc -c /run/net.got?; return 1; }
    said "$1" "GUEST-GOT $want $want"
}
# What every guest must be able to do.
net_basics() { # net_basics NAME
    guest "$1" 240 'dhcp eth0 && dhcp eth1' && cat /run/leases && guest "$1" 120 both_ping || return 1
    addresses; a1=${second:-$a1}
    ping -c 2 -W 5 "$a0" && ping -c 2 -W 5 "$a1" || return 1
    # By IPv6: an address of its own making, and one that the router's word has given it.
    guest "$1" 120 'await 30 ping6 -c 1 -W 2 fd09:0::1 && ping6 -c 2 -W 5 fd09:1::1' || return 1
    ping6 -c 2 -W 5 -I xenbr0 fe80::16:3eff:fe00:1 && ping6 -c 2 -W 5 fd09:1::16:3eff:fe00:2 || return 1
    # Somebody logs in, over either card.
    guest "$1" 240 'dropbear -R -s -E 2>/run/dropbear.log' || return 1
    for a in "$a0" "$a1"; do
        # shellcheck disable=SC2016 # the guest's shell expands it
        timeout 90 dbclient -y -y "root@$a" 'echo "logged in: $(cat /proc/uptime)"' </dev/null >/run/ssh.out 2>/run/ssh.err; grep -q '^logged in' /run/ssh.out || { cat /run/ssh.out /run/ssh.err; return 1; }
        cat /run/ssh.out
    done
    transfers "$1" 400000
}
# net_more NAME: the link goes down and up, the drivers are loaded again, jumbo frames; the guest has seen no error.
net_more() {
    bulkhead net set "$(xl domid "$1")" nic0 link=down || return 1
    guest "$1" 80 'await 30 grep -q 0 /sys/class/net/eth0/carrier' && ! ping -c 1 -W 2 "$a0" && guest "$1" 80 'ping -c 2 -W 5 10.9.1.1' || return 1
    qmp "$1" '{"execute":"set_link","arguments":{"name":"nic0","up":true}}' && guest "$1" 80 'await 30 grep -q 1 /sys/class/net/eth0/carrier; ping -c 2 -W 5 10.9.0.1' || return 1
    guest "$1" 360 'rmmod e1000 && rmmod 8139cp && load e1000 8139cp && dhcp eth0 && dhcp eth1 && both_ping' || return 1
    ip link set xenbr0 mtu 8000; guest "$1" 80 'ip link set eth0 mtu 8000 && ping -c 2 -s 7900 -W 5 10.9.0.1' || return 1
    guest "$1" 40 unhurt
}
# Dom0 mode: both cards at once. Addresses, IPv6, SSH, files; the link goes down and up, the drivers are loaded again, jumbo frames.
net() {
    net_guest our nt || { net_trouble nt; return 1; }
    net_basics nt || { net_trouble nt; return 1; }
    net_more nt || { net_trouble nt; return 1; }
    say end; await 240 gone nt || { net_trouble nt; return 1; }
    exec 6>&-
    grep -E 'bulkhead-dm' /var/log/xen/qemu-dm-nt.log
    ! grep -q SIGSYS /var/log/xen/qemu-dm-nt.log && await 20 nothing_left && no_emulated_interface
}
# seen INTERFACE COMMAND...: the names of the forbidden frames that arrive on an interface while the command runs, in /run/seen.
seen() {
    on_=$1; shift
    : >/run/seen; $tools/bulkhead-bed watch "$on_" >/run/seen & w_=$!
    await 20 grep -q watching /run/seen && "$@" && await 80 grep -q 'arrived honest' /run/seen; r_=$?
    [ $r_ = 0 ] || { kill $w_; echo "the honest frame did not arrive"; }
    wait $w_ 2>/dev/null; sed -n 's/^arrived //p' /run/seen | tr '\n' ' '; echo
    return $r_
}
arrived() { sed -n 's/^arrived //p' /run/seen | tr '\n' ' '; }
all_frames='mac ipv4 arp dhcp router hidden-router neighbour ipv6 vlan ethertype honest '
all_dropped='{"ARP":1,"DHCP server":1,"EtherType":1,"VLAN":1,"neighbour discovery":1,"router":2,"source IPv4":1,"source IPv6":1,"source MAC":1}'
# dropped NAME PLACE WANTED: what the rules have dropped: in-process, on-interface.
dropped() {
    bulkhead net show "$(xl domid "$1")"
    got_=$(bulkhead --json net show "$(xl domid "$1")" | picked device=nic0 "dropped-$2" nonzero)
    [ "$got_" = "$3" ] || { echo "dropped in $2: $got_, not $3"; return 1; }
}
# spoofing NAME HOSTILE: frames that a guest may not send, from inside it and, by HOSTILE (a command and its arguments), from a program
# in the place of its card's process. Without rules all arrive, with rules none, each counted once; the guest goes on.
spoofing() {
    d=$(xl domid "$1"); n_=$1; shift
    forge() { guest "$n_" 240 "/run/bed spoof eth0 02:16:3e:00:00:01 $a0"; }
    guest "$n_" 240 tool || return 1
    { seen xenbr0 forge && [ "$(arrived)" = "$all_frames" ]; } || { echo "without rules: $(arrived)"; return 1; }
    { seen xenbr0 "$@" && [ "$(arrived)" = "$all_frames" ]; } || { echo "by hand, without rules: $(arrived)"; return 1; }
    bulkhead net set "$d" nic0 level=addresses ip="$a0" ip=fd09::16:3eff:fe00:1 || return 1
    { seen xenbr0 forge && [ "$(arrived)" = 'honest ' ]; } || { echo "with rules: $(arrived)"; return 1; }
    dropped "$n_" in-process "$all_dropped" || return 1
    dropped "$n_" on-interface '{}' || return 1
    { seen xenbr0 "$@" && [ "$(arrived)" = 'honest ' ]; } || { echo "by hand, with rules: $(arrived)"; return 1; }
    dropped "$n_" on-interface "$all_dropped" || return 1
    # What an honest guest needs still goes.
    guest "$n_" 240 'dhcp eth0 && both_ping && await 30 ping6 -c 1 -W 2 fd09:0::1' || return 1
    bulkhead net set "$d" nic0 link=down || return 1
    : >/run/seen; $tools/bulkhead-bed watch xenbr0 >/run/seen & w_=$!
    await 20 grep -q watching /run/seen && "$@"; forge; usleep 500000; kill $w_
    [ -z "$(arrived)" ] || { echo "with the cable out: $(arrived)"; return 1; }
    { bulkhead net set "$d" nic0 link=up level=off && seen xenbr0 "$@" && [ "$(arrived)" = "$all_frames" ]; } || { echo "off again: $(arrived)"; return 1; }
}
# killed NAME CARD BYTES KILL: that card's process is killed in the middle of a download by the command KILL. Meanwhile other devices answer
# as fast as before, and the other card works; the download ends, whole.
killed() {
    n_=$1 card_=$2 bytes_=$3; shift 3
    head -c "$bytes_" /dev/urandom >/run/net.file; want=$(sum /run/net.file)
    serve "500$card_" /run/net.file
    guest "$n_" 240 idle || return 1
    guest "$n_" 240 "download $card_" || return 1
    # From before the kill until the card is back.
    guest "$n_" 80 busy || return 1
    "$@" || return 1
    guest "$n_" 40 both_run || { echo "it was over before the card was back"; return 1; }
    guest "$n_" 240 "ping -c 2 -W 5 10.9.$((1 - card_)).1" || return 1
    guest "$n_" 480 busy_done || return 1
    guest "$n_" 480 "download_done; ping -c 2 -W 5 10.9.$card_.1" || return 1
    idle=$(after "$n_" 'GUEST-IDLE ports: median ') busy=$(after "$n_" 'GUEST-BUSY ports: median '); idle=${idle%% *} busy=${busy%% *}
    echo "another device's port: $idle ns idle, $busy ns from before the kill until the card was back"
    said "$n_" "GUEST-DOWN $want" && [ "$idle" ] && [ "$busy" ] && [ "$busy" -le $((idle * 3)) ]
}
# addresses: $a0 and $a1, the leases of the cards.
lease() { while read -r _ mac_ address_ _; do [ "$mac_" != "$1" ] || echo "$address_"; done </run/leases; }
addresses() { a0=$(lease 02:16:3e:00:00:01) a1=$(lease 02:16:3e:00:00:02); }
# Dom0 mode: spoofing, a card killed during a download, a capture.
net_attacked() {
    { guest_limit=400 net_guest our na && guest na 240 'dhcp eth0 && dhcp eth1'; } || { net_trouble na; return 1; }
    addresses
    by_hand_here() { "$tools/bulkhead-bed" spoof-fd "$(role_pid na e1000)" 02:16:3e:00:00:01 "$a0"; }
    spoofing na by_hand_here || { net_trouble na; return 1; }
    bulkhead trace net "$(xl domid na)" nic0 /out/na.pcap 600 & trace=$!
    kill_here() {
        v=$(role_pid na "$1"); kill -KILL "$v" && await 80 new_role na "$1" "$v" || return 1
        # What the first process gave.
        if [ "$1" = e1000 ]; then kept=0; [ ! -f /out/na.pcap ] || kept=$(wc -c </out/na.pcap); fi
    }
    { killed na 0 4000000 kill_here e1000 && killed na 1 4000000 kill_here rtl8139; } || { net_trouble na; return 1; }
    kill $trace; ls -l /out/na.pcap
    say end; await 240 gone na || { net_trouble na; return 1; }
    exec 6>&-
    # The capture goes on with the next process. What passes until the client asks again is in none: how much that is depends on the machine.
    echo "captured: $kept bytes until the kill, $(wc -c </out/na.pcap) in all"
    ! grep -q SIGSYS /var/log/xen/qemu-dm-na.log && await 20 nothing_left && [ "$(wc -c </out/na.pcap)" -gt $((kept + 100000)) ]
}
# A guest without a disk boots from either card's firmware: by TFTP over one, by HTTP over the other.
net_boot() {
    networks || return 1
    for card in e1000:xenbr0 rtl8139:xenbr1; do
        our nb '' 'memory=64' 'boot="n"' "vif=[\"model=${card%:*},bridge=${card#*:},mac=02:16:3e:00:00:0${card#*:xenbr}\"]" >/run/nb.cfg
        ( i=0; while [ $i -lt 150 ] && ! grep -q NET-BOOT-OK /run/nb.out; do usleep 1000000; i=$((i + 1)); done; usleep 3000000; xl destroy nb ) >/dev/null 2>&1 & w=$!
        guest_run /run/nb.cfg >/run/nb.out; r=$?
        cat /run/nb.out; { grep -q NET-BOOT-OK /run/nb.out && [ $r = 0 ]; } || { cat /var/log/xen/qemu-dm-nb.log; tail -n 30 /out/dnsmasq.log; return 1; }
        kill $w
    done
    await 20 nothing_left
}
# The guest's kernel unplugs its emulated cards (it has PV ones): their processes end, their interfaces are gone, whoever listens is told,
# and nothing of them is on the bus. Its disk has a PV back end that is no process, so that unplugging is offered at all.
net_unplug() { unplugs our && await 20 nothing_left && no_emulated_interface; }
stub_unplug() { unplugs debug_stub && await 40 stub_left; }
unplugs() { # unplugs MODE
    networks || return 1
    cmdline='xen_emul_unplug=nics' linux_config "$1" nu unplugs "$(vifs)" 'on_poweroff="destroy"' 'stubdomain_memory=96'
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
    await 360 said nu 'GUEST-SEES [0-9]' || { cat /run/nu.out /var/log/xen/qemu-dm-nu.log; return 1; }
    # While the guest still runs: no process, no interface that leads anywhere.
    bulkhead ps "$d"; ! process nu 'nic*' pid '!=0' || return 1
    case $1 in
        our) no_emulated_interface || return 1;;
        *) inside nu 'cat /sys/class/net/eth0/flags /sys/class/net/eth1/flags /proc/net/packet' || return 1
            # IFF_UP is the lowest bit; one line of /proc/net/packet is its heading.
            [ "$(grep -c '^0x[0-9a-f]*[02468ace]$' /run/inside.out)" = 2 ] && [ "$(grep -c . /run/inside.out)" = 4 ] || return 1;;
    esac
    say end; await 240 gone nu || return 1
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
    { second=10.9.1.200 net_basics sn && net_more sn; } || { net_trouble sn; return 1; }
    row() { process sn "$1" pid; }
    by_hand_inside() { inside sn "/usr/lib/bulkhead-tests/bulkhead-bed spoof-fd $(row nic0) 02:16:3e:00:00:01 $a0" 240 >/run/by-hand; r_=$?; cat /run/by-hand; return "$r_"; }
    spoofing sn by_hand_inside || { net_trouble sn; return 1; }
    other() { r_=$(row nic0); [ "$r_" ] && [ "$r_" != 0 ] && [ "$r_" != "$1" ]; }
    kill_inside() { v=$(row nic0); inside sn "kill -KILL $v" && await 120 other "$v"; }
    killed sn 0 20000000 kill_inside || { net_trouble sn; return 1; }
    say end; await 240 gone sn || { net_trouble sn; return 1; }
    exec 6>&-
    grep -E 'bulkhead-dm: (network|nic)' /var/log/xen/qemu-dm-sn.log
    await 40 stub_left
}

# What takes too long for CI: integration/campaign network. A machine without KVM needs minutes for each of these.
# A quarter of a gibibyte each way over card N.
net_transfer() {
    { guest_limit=9000 net_guest our nl && guest nl 240 'dhcp eth0 && dhcp eth1 && tool'; } || { net_trouble nl; return 1; }
    n_bytes=$((${NET_MIB:-256} << 20))
    now; b_=$now_
    $tools/bulkhead-bed tcp listen "10.9.$1.1:5001" send $n_bytes checked >/run/sum & l=$!
    { guest nl 6000 "echo \"GUEST-SUM \$(/run/bed tcp connect 10.9.$1.1:5001 receive checked)\"" && wait $l && said nl "GUEST-SUM $(cat /run/sum)"; } || { cat /run/sum; net_trouble nl; return 1; }
    echo "card $1: $n_bytes bytes to the guest in $(seconds "$b_") s, equal: $(cat /run/sum)"
    now; b_=$now_
    $tools/bulkhead-bed tcp listen "10.9.$1.1:5002" receive checked >/run/sum & l=$!
    { guest nl 6000 "echo \"GUEST-SENT \$(/run/bed tcp connect 10.9.$1.1:5002 send $n_bytes checked)\"" && wait $l && said nl "GUEST-SENT $(cat /run/sum)"; } || { cat /run/sum; net_trouble nl; return 1; }
    echo "card $1: $n_bytes bytes from the guest in $(seconds "$b_") s, equal: $(cat /run/sum)"
    net_over nl
}
net_transfer_e1000() { net_transfer 0; }
net_transfer_rtl8139() { net_transfer 1; }
# Fifty times both drivers anew.
net_reload() {
    { guest_limit=9000 net_guest our nl && guest nl 240 'dhcp eth0 && dhcp eth1'; } || { net_trouble nl; return 1; }
    i=0; now; b_=$now_
    while [ $i -lt "${NET_RELOADS:-50}" ]; do
        guest nl 480 'rmmod e1000 && rmmod 8139cp && load e1000 8139cp && dhcp eth0 && dhcp eth1 && both_ping' || { echo "reload $i"; net_trouble nl; return 1; }
        i=$((i + 1))
    done
    echo "card both: $i reloads of both drivers in $(seconds "$b_") s"
    net_over nl
}
# Guest NAME's cards have counted no errors; the guest ends and leaves nothing behind.
net_over() {
    guest "$1" 40 unhurt || { net_trouble "$1"; return 1; }
    say end; await 240 gone "$1"; exec 6>&-; await 20 nothing_left
}
# A minute of smallest frames both ways over both cards: no process grows by more than 512 KiB after the first twenty seconds.
net_flood() {
    { guest_limit=900 net_guest our nf && guest nf 240 'dhcp eth0 && dhcp eth1 && tool'; } || { net_trouble nf; return 1; }
    pss() { kb_=$($tools/bulkhead-bed pss "$(role_pid nf "$1")"); kb_=${kb_#*= }; echo "${kb_% kB}"; }
    say '/run/bed flood eth0 60 & /run/bed flood eth1 60; wait; echo GUEST-FLOODED'
    $tools/bulkhead-bed flood xenbr0 60 & a=$!; $tools/bulkhead-bed flood xenbr1 60 & b=$!
    sleep 20; e1=$(pss e1000) r1=$(pss rtl8139)
    await 800 said nf '^GUEST-FLOODED'; wait $a $b; e2=$(pss e1000) r2=$(pss rtl8139)
    sed 's/^/guest: /' /run/nf.out | grep 'flood:'; echo "PSS after 20 s and at the end: e1000 $e1 $e2 kB, rtl8139 $r1 $r2 kB"
    guest nf 120 both_ping || { net_trouble nf; return 1; }
    say end; await 240 gone nf; exec 6>&-
    # Both have sent.
    [ "$(grep -c 'flood: [1-9][0-9]* frames' /run/nf.out)" = 2 ] && [ $((e2 - e1)) -le 512 ] && [ $((r2 - r1)) -le 512 ] && await 20 nothing_left
}
