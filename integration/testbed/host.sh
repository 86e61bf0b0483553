# shellcheck shell=sh
# Sourced by setup and run: where things are and how to run the cached programs.
cache=${BULKHEAD_TESTBED_CACHE:-$HOME/.cache/bulkhead-testbed}
root=$cache/root                         # all Debian packages, unpacked
lib=$root/usr/lib/x86_64-linux-gnu
ld=$lib/ld-linux-x86-64.so.2             # the cached programs use the cached libc, not the host's
die() { echo "$(basename "$0"): $*" >&2; exit 2; }
bb() { "$root/usr/bin/busybox" "$@"; }   # busybox is static
prog() { p=$1; shift; "$ld" --library-path "$lib" "$root/usr/bin/$p" "$@"; }
# cpio_of DIR...: one newc archive per directory, concatenated, every file owned by root.
cpio_of() { for d; do (cd "$d" && find . | LC_ALL=C sort | bb cpio -o -H newc -R 0:0 --ignore-devno --renumber-inodes 2>/dev/null); done; }
