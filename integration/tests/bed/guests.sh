# shellcheck shell=sh
# Linux guests, for the suite and for figures: from disk, with a script of their own, talked to at their serial line.
# linux_config MODE NAME SCRIPT [LINE...]: disks and /run/NAME.cfg of the Linux guest that runs SCRIPT, a file of guests/ (or a path); its
# lines take the place of others. MODE is the function that makes a configuration; $cmdline takes the place of the end of its
# kernel's command line, which is to keep emulated devices.
linux_config() {
    mode=$1 name=$2 script=$3; shift 3
    case $script in /*) ;; *) script=$tools/guests/$script;; esac
    cp "$script" "/run/$name.data" || return 1; truncate -s 130M "/run/$name.data"
    # What the guest's `tool` takes from there.
    dd if=$tools/bulkhead-bed of="/run/$name.data" bs=1M seek=1 conv=notrunc 2>/dev/null
    cp $guests/linux.img "/run/$name.img"; truncate -s 32M "/run/$name.img"
    # It keeps the emulated devices that are tested, unless it is told to go on with PV ones.
    kernel_says "/run/$name.img" "${cmdline:-xen_emul_unplug=never}"
    $mode "$name" "$(disk hda "/run/$name.img"),$(disk hdb "/run/$name.data")" >"/run/$name.cfg.0"
    for l; do sed -i "/^${l%%=*}=/d" "/run/$name.cfg.0"; done
    { cat "/run/$name.cfg.0"; for l; do echo "$l"; done; } >"/run/$name.cfg"
}
# kernel_says IMAGE WORDS: the end of the kernel's command line in a copy of linux.img.
kernel_says() { $tools/bulkhead-bed put "$1" "$(cat $guests/linux.img.cmdline)" "$2" 23; }
# linux_guest NAME SCRIPT [LINE...]: starts the Linux guest from disk with that script; output in /run/NAME.out,
# the pid of what waits for its end in $running; $how is another function than `our`. A guest that does not end in 400 s is destroyed.
linux_guest() {
    name=$1; shift
    linux_config "${how:-our}" "$name" "$@" || return 1
    guest_run "/run/$name.cfg" >"/run/$name.out" & running=$!
    ( i=0; while [ $i -lt 400 ] && kill -0 $running; do usleep 1000000; i=$((i + 1)); done; xl destroy "$name" ) >/dev/null 2>&1 &
}
# tell NAME WORD: the guest's host_says WORD becomes true.
tell() { $tools/bulkhead-bed put "/run/$1.data" 64k "$2"; }
said() { grep -q "$2" "/run/$1.out"; }
# after NAME WORD: what the guest has said behind WORD, the last time.
after() { $tools/bulkhead-bed after "/run/$1.out" "$2"; }
# sum FILE [BYTES]: its checksum, or that of its first bytes.
sum() { if [ "${2:-}" ]; then head -c "$2" "$1" | sha256sum; else sha256sum <"$1"; fi | cut -d' ' -f1; }
# cost WHAT NAME: what the processes of a guest's device model have cost so far (ran, waits, pss, thread-waits of bulkhead-bed).
# shellcheck disable=SC2046 # a list of pids
cost() { $tools/bulkhead-bed "$1" $(pids "$2"); }
# The Linux guest at its serial line by `xl console`: say WORD types there, said NAME WORDS looks.
console_guest() { # console_guest MODE NAME SCRIPT [LINE...]
    mode=$1 name=$2 script=$3; shift 3
    linux_config "$mode" "$name" "$script" 'serial="pty"' "$@" || return 1
    xl create "/run/$name.cfg" || { cat "/var/log/xen/qemu-dm-$name.log"; return 1; }
    rm -f "/run/$name.in"; mkfifo "/run/$name.in"
    $tools/bulkhead-bed terminal xl console "$name" <"/run/$name.in" >"/run/$name.out" 2>&1 &
    exec 6<>"/run/$name.in"
    ( i=0; while [ $i -lt "${guest_limit:-300}" ] && xl domid "$name"; do usleep 1000000; i=$((i + 1)); done; xl destroy "$name" ) >/dev/null 2>&1 &
}
say() { echo "$1" >&6; }
gone() { ! xl domid "$1"; }
trouble() { cat "/run/$1.out" "/var/log/xen/qemu-dm-$1.log"; xl list; dmesg | grep type=1326; }

# copied NAME: what `copy 16` and `copy 80` of the guest have written is what it read.
copied() {
    for mib in 16 80; do $tools/bulkhead-bed same "/run/$1.img" 0 "/run/$1.data" ${mib}M 32M || return 1; echo "at $mib MiB: as it was read"; done
}
