//! How much of a system call's argument the kernel looks at.
//!
//! A register has 64 bits. The kernel uses all of them for pointers, sizes and offsets, and the lower 32 for `int` and
//! `unsigned int`. A condition that compares less than the kernel uses lets a value through that only looks like the allowed one;
//! one that compares more refuses calls whose caller has left something in the part that nobody looks at.

/// The part of an argument that the kernel uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// `int`, `unsigned int`: the lower 32 bits.
    Half,
    /// Pointers, `size_t`, `off_t`, `long`, `unsigned long`.
    Whole,
}

use Width::{Half, Whole};

/// The arguments of each system call that a profile may have conditions on, as the kernel declares them: SYSCALL_DEFINE in the file
/// that is named.
const ARGUMENTS: &[(&str, &[Width])] = &[
    // fs/open.c: int fd, int mode, loff_t offset, loff_t len
    ("fallocate", &[Half, Half, Whole, Whole]),
    // fs/fcntl.c: unsigned int fd, unsigned int cmd, unsigned long arg
    ("fcntl", &[Half, Half, Whole]),
    // fs/open.c: unsigned int fd, off_t length
    ("ftruncate", &[Half, Whole]),
    // fs/ioctl.c: unsigned int fd, unsigned int cmd, unsigned long arg
    ("ioctl", &[Half, Half, Whole]),
    // arch/x86/kernel/sys_x86_64.c: unsigned long addr, len, prot, flags, fd, off; fget() takes an unsigned int of fd.
    ("mmap", &[Whole, Whole, Whole, Whole, Half, Whole]),
    // mm/mprotect.c: unsigned long start, size_t len, unsigned long prot
    ("mprotect", &[Whole, Whole, Whole]),
    // mm/mremap.c: unsigned long addr, old_len, new_len, flags, new_addr
    ("mremap", &[Whole, Whole, Whole, Whole, Whole]),
    // kernel/reboot.c: int magic1, int magic2, unsigned int cmd, void *arg
    ("reboot", &[Half, Half, Half, Whole]),
    // net/socket.c: int family, int type, int protocol
    ("socket", &[Half, Half, Half]),
    // net/socket.c: int family, int type, int protocol, int *fds
    ("socketpair", &[Half, Half, Half, Whole]),
    // net/socket.c: int fd, struct user_msghdr *msg, unsigned int flags
    ("sendmsg", &[Half, Whole, Half]),
    // net/socket.c: int fd, void *buff, size_t len, unsigned int flags, struct sockaddr *addr, int addr_len
    ("sendto", &[Half, Whole, Whole, Half, Whole, Half]),
];

/// The part of argument `arg`, from 0, of a system call that the kernel uses; `None` if the table does not have it.
pub fn width(syscall: &str, arg: u8) -> Option<Width> {
    let (_, arguments) = ARGUMENTS.iter().find(|(name, _)| *name == syscall)?;
    arguments.get(usize::from(arg)).copied()
}
