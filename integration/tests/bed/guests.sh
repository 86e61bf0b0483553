# Linux guests, for the suite and for figures: from disk, with a script of their own, talked to at their serial line.
# linux_config MODE NAME [LINE...]: disks and /run/NAME.cfg of the Linux guest that runs the script on standard input; its
# lines take the place of others. MODE is the function that makes a configuration; $cmdline takes the place of the end of its
# kernel's command line, which is to keep emulated devices.
linux_config() {
    mode=$1 name=$2; shift 2
    cat >"/run/$name.script"; cp "/run/$name.script" "/run/$name.data"; truncate -s 130M "/run/$name.data"
    cp $guests/linux.img "/run/$name.img"; truncate -s 32M "/run/$name.img"
    # It keeps the emulated devices that are tested, unless it is told to go on with PV ones.
    printf '%-23.23s' "${cmdline:-xen_emul_unplug=never}" | dd "of=/run/$name.img" bs=1 seek="$(cat $guests/linux.img.cmdline)" conv=notrunc 2>/dev/null
    $mode "$name" "$(disk hda "/run/$name.img"),$(disk hdb "/run/$name.data")" >"/run/$name.cfg.0"
    for l; do sed -i "/^${l%%=*}=/d" "/run/$name.cfg.0"; done
    { cat "/run/$name.cfg.0"; for l; do echo "$l"; done; } >"/run/$name.cfg"
}
# linux_guest NAME [LINE...]: starts the Linux guest from disk with the script on standard input; output in /run/NAME.out,
# the pid of what waits for its end in $running; $how is another function than `our`. A guest that does not end in 400 s is destroyed.
linux_guest() {
    name=$1; shift
    linux_config "${how:-our}" "$name" "$@"
    guest_run "/run/$name.cfg" >"/run/$name.out" & running=$!
    ( i=0; while [ $i -lt 400 ] && kill -0 $running; do usleep 1000000; i=$((i + 1)); done; xl destroy "$name" ) >/dev/null 2>&1 &
}
# tell NAME WORD: the guest's host_says WORD becomes true.
tell() { printf '%s' "$2" | dd of="/run/$1.data" bs=512 seek=128 conv=notrunc 2>/dev/null; }
said() { grep -q "$2" "/run/$1.out"; }
# The Linux guest at its serial line by `xl console`: say WORD types there, said NAME WORDS looks.
console_guest() { # console_guest MODE NAME [LINE...]: the script is standard input
    mode=$1 name=$2; shift 2
    linux_config "$mode" "$name" 'serial="pty"' "$@"
    xl create "/run/$name.cfg" || { cat "/var/log/xen/qemu-dm-$name.log"; return 1; }
    rm -f "/run/$name.in"; mkfifo "/run/$name.in"
    $tools/bulkhead-bed terminal xl console "$name" <"/run/$name.in" >"/run/$name.out" 2>&1 &
    exec 6<>"/run/$name.in"
    ( i=0; while [ $i -lt ${guest_limit:-300} ] && xl domid "$name"; do usleep 1000000; i=$((i + 1)); done; xl destroy "$name" ) >/dev/null 2>&1 &
}
say() { echo "$1" >&6; }
gone() { ! xl domid "$1"; }
trouble() { cat "/run/$1.out" "/var/log/xen/qemu-dm-$1.log"; xl list; dmesg | grep type=1326; }

# copied NAME: what `copy 16` and `copy 80` of the guest have written is what it read.
copied() {
    want=$(head -c 33554432 "/run/$1.img" | sha256sum)
    for mib in 16 80; do
        got=$(dd if="/run/$1.data" bs=1M skip=$mib count=32 2>/dev/null | sha256sum)
        echo "at $mib MiB: $got, wanted $want"
        [ "$got" = "$want" ] || return 1
    done
}
