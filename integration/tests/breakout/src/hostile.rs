//! A hostile program instead of a role: reads from descriptor 3 the layers of the sandbox to apply and the attempt to make, makes
//! it, and reports the result as one byte, 0 for success, else the errno. It reports nothing if the filter kills it. An attempt to take
//! as much of something as it can is in take.rs.
mod take;

use bulkhead_breakout::{DESCRIPTORS, WAITS};
use bulkhead_plan::Level;
use bulkhead_policy::{Reach, Sandbox, profile};
use bulkhead_xen_abi::ioctl;
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

fn main() {
    let role = std::env::args().next().unwrap_or_default();
    // SAFETY: the starter of this program passes the socket as descriptor 3.
    let socket = unsafe { OwnedFd::from_raw_fd(3) };
    let mut bytes = [0; 1024];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        &socket,
        &mut [std::io::IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    );
    let n = got.map_or(0, |g| g.bytes);
    let mut given: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            given.extend(fds);
        }
    }
    let mut fd = given.first().map_or(-1, AsRawFd::as_raw_fd);
    let order = String::from_utf8_lossy(&bytes[..n]).into_owned();
    let (layer, attempt) = order.split_once(' ').unwrap_or(("all", ""));
    let pipe = prepare(attempt);
    fd = pipe.as_ref().map_or(fd, AsRawFd::as_raw_fd);
    let sandbox = || Sandbox::new(profile(&role).expect("a profile"), Level::Kernel, 0);
    let entered = match layer {
        "none" => Ok(()),
        // The launcher's own; it has no profile of the processes' kind.
        "cage" => bulkhead_policy::enter_cage(false),
        // The launcher of a prepared machine, which writes to /tmp.
        "closed" => bulkhead_policy::enter_cage(false).and_then(|()| {
            let reach = Reach { written: Vec::new(), made: vec!["/tmp".into()] };
            bulkhead_policy::close_cage(false, Some(&reach)).map(|_| ())
        }),
        // As every process of a launcher, which inherits the starter's filter.
        "cage,filter" => bulkhead_policy::enter_cage(false).and_then(|()| sandbox().filter_alone()),
        "one-thread" => {
            std::thread::spawn(wait_for_ever);
            filter_this_thread();
            Ok(())
        }
        "filter" => sandbox().filter_alone(),
        "landlock" => sandbox().landlock_alone(),
        "namespaces" => sandbox().confine_without_landlock(),
        "confined" => sandbox().confine().map(|_| ()),
        _ => {
            let sandbox = sandbox();
            sandbox.confine().and_then(|_| sandbox.seal())
        }
    };
    if let Err(e) = entered {
        eprintln!("{e}");
        let _ = rustix::io::write(&socket, &[255]);
        return;
    }
    if attempt == "wait" {
        let _ = rustix::io::write(&socket, &[WAITS]);
        // A system call that every profile has. It returns when the starter has closed its end.
        let mut nothing = RecvAncillaryBuffer::default();
        let mut pieces = [std::io::IoSliceMut::new(&mut bytes)];
        let _ = rustix::net::recvmsg(&socket, &mut pieces, &mut nothing, RecvFlags::empty());
        // SAFETY: as below.
        unsafe { libc::_exit(0) }
    }
    if let Some(what) = attempt.strip_prefix("take ") {
        take::take(what, &given, &socket);
        // SAFETY: as below.
        unsafe { libc::_exit(0) }
    }
    let outcome = attempt_of(attempt, fd);
    let _ = rustix::io::write(&socket, &[outcome]);
    // SAFETY: ends the process by a system call that the filter allows.
    unsafe { libc::_exit(0) }
}

/// A thread that only waits.
fn wait_for_ever() {
    loop {
        std::thread::park();
    }
}

/// Installs a filter that allows everything, for the calling thread alone.
fn filter_this_thread() {
    /// BPF_RET | BPF_K.
    const RETURN: u16 = 0x06;
    let mut all = libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let program = libc::sock_fprog { len: 1, filter: &raw mut all };
    rustix::thread::set_no_new_privs(true).expect("no new privileges");
    // SAFETY: the kernel reads the program, which outlives the call.
    let r = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    assert_eq!(r, 0, "a filter");
}

/// The part of an attempt that the sandbox is not about: memory at a chosen address, for the address of a socket that lies there; a
/// pipe.
fn prepare(attempt: &str) -> Option<OwnedFd> {
    if attempt == "a larger pipe" {
        return Some(rustix::pipe::pipe().expect("a pipe").1);
    }
    let (at, socket) = attempt.strip_prefix("send to an address=").and_then(|a| a.split_once('@'))?;
    let at: usize = at.parse().expect("an address");
    // SAFETY: a new mapping that replaces nothing; the name is written inside of its one page.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let page = libc::mmap(at as *mut libc::c_void, 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_eq!(page as usize, at, "the page at {at:#x}");
        let name = page.cast::<libc::sockaddr_un>();
        (*name).sun_family = libc::AF_UNIX as u16;
        // An abstract name begins with a zero.
        for (to, byte) in (*name).sun_path.iter_mut().skip(1).zip(socket.bytes()) {
            *to = byte as libc::c_char;
        }
    }
    None
}

/// Maps `bytes` of memory of this kind, at `at` if the kernel likes that, and touches its ends; -1 if it is refused.
///
/// # Safety
/// The mapping must replace nothing: MAP_FIXED is not among the flags.
unsafe fn touch(at: usize, bytes: i64, flags: i32) -> i64 {
    let (len, prot) = (bytes as usize, libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: as the caller promises; the touched bytes are the first and the last of the new mapping. The last of memory that
    // grows down is at its start, which is touched too.
    unsafe {
        let p = libc::mmap(at as *mut libc::c_void, len, prot, flags, -1, 0);
        if p == libc::MAP_FAILED {
            return -1;
        }
        p.cast::<u8>().write_volatile(1);
        p.cast::<u8>().add(len - 1).write_volatile(1);
    }
    0
}

/// A page of the allocator's kind.
///
/// # Safety
/// As [`touch`].
unsafe fn page() -> *mut libc::c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice.
    unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) }
}
/// An offset far beyond the end of every image.
const FAR: i64 = (1 << 40) + 4096;

/// Makes one attempt, in some cases with the descriptor `fd`; returns 0 if it worked, else the errno.
fn attempt_of(name: &str, fd: i32) -> u8 {
    let errno = || std::io::Error::last_os_error().raw_os_error().unwrap_or(254) as u8;
    let (name, argument) = name.split_once('=').unwrap_or((name, "0"));
    let number: i64 = argument.parse().unwrap_or(0);
    // SAFETY: each call gets constants, or pointers to constants and to buffers of this frame.
    let result: i64 = unsafe {
        match name {
            "open a file" => i64::from(libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY)),
            "list the root" => i64::from(libc::open(c"/".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY)),
            "make a file" => {
                i64::from(libc::open(c"/tmp/bulkhead-breakout".as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600))
            }
            "make a file elsewhere" => {
                let made = libc::open(c"/var/bulkhead-breakout".as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600);
                if made >= 0 {
                    libc::unlink(c"/var/bulkhead-breakout".as_ptr());
                }
                i64::from(made)
            }
            "write to a setting of the kernel" => {
                i64::from(libc::open(c"/proc/sys/kernel/core_pattern".as_ptr(), libc::O_WRONLY))
            }
            "write to a setting of its own" => {
                i64::from(libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY))
            }
            "truncate a file of the host" => {
                let path = c"/var/bulkhead-truncated".as_ptr();
                i64::from(libc::open(path, libc::O_RDONLY | libc::O_TRUNC))
            }
            "an ioctl of a device" => {
                /// RNDGETENTCNT (linux/random.h).
                const ENTROPY: libc::Ioctl = 0x8004_5200;
                let (device, mut bits) = (libc::open(c"/dev/urandom".as_ptr(), libc::O_RDONLY), 0);
                i64::from(libc::ioctl(device, ENTROPY, &raw mut bits))
            }
            // NETLINK_KOBJECT_UEVENT: what root says there, udev believes.
            "a netlink of another protocol" => i64::from(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 15)),
            "routes' netlink" => i64::from(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)),
            "connect by sending" => {
                let address: libc::sockaddr_in = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: 1u16.to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
                    sin_zero: [0; 8],
                };
                let mut message: libc::msghdr = std::mem::zeroed();
                message.msg_name = (&raw const address).cast_mut().cast();
                message.msg_namelen = size_of_val(&address) as libc::socklen_t;
                // On the socket that it has: the flag is looked at before anything else.
                libc::sendmsg(3, &raw const message, libc::MSG_FASTOPEN) as i64
            }
            "send to a local address" => {
                // The kernel's, on the one socket that it may make.
                let (mut address, byte): (libc::sockaddr_nl, u8) = (std::mem::zeroed(), 0);
                address.nl_family = libc::AF_NETLINK as u16;
                let (at, len) = ((&raw const address).cast(), size_of_val(&address) as libc::socklen_t);
                let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0);
                libc::sendto(socket, (&raw const byte).cast(), 1, libc::MSG_DONTWAIT, at, len) as i64
            }
            "a pair of datagram sockets" => {
                let mut pair: [libc::c_int; 2] = [0; 2];
                i64::from(libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, pair.as_mut_ptr()))
            }
            "write to a file of the host" => i64::from(libc::open(c"/etc/passwd".as_ptr(), libc::O_WRONLY)),
            "an internet socket" => i64::from(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)),
            "a unix socket" => i64::from(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)),
            "signal another process" => i64::from(libc::kill(number as i32, 0)),
            "ptrace another process" => libc::ptrace(libc::PTRACE_SEIZE, number as i32, 0, 0),
            "fork" => match libc::fork() {
                0 => libc::_exit(0),
                pid => i64::from(pid),
            },
            "exec" => {
                let argv = [c"/bin/true".as_ptr(), std::ptr::null()];
                match libc::fork() {
                    0 => {
                        libc::execv(argv[0], argv.as_ptr());
                        libc::_exit(1)
                    }
                    pid => {
                        let mut status = 0;
                        libc::waitpid(pid, &raw mut status, 0);
                        if status == 0 { 0 } else { -1 }
                    }
                }
            }
            "executable memory" => {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                let p = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_EXEC, flags, -1, 0);
                if p == libc::MAP_FAILED { -1 } else { 0 }
            }
            "shared memory" => touch(0, number, libc::MAP_SHARED | libc::MAP_ANONYMOUS),
            "memory that grows down" => touch(0, number, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN),
            "memory at a chosen address" => touch(0x1000_0000_0000, 4096, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
            "private memory" => touch(0, number, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
            "private memory in pieces" => {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                (0..number >> 20).map(|_| touch(0, 1 << 20, flags)).find(|r| *r < 0).unwrap_or(0)
            }
            "memory by mremap" => {
                let grown = libc::mremap(page(), 4096, number as usize, libc::MREMAP_MAYMOVE);
                if grown == libc::MAP_FAILED { -1 } else { 0 }
            }
            "memory by brk" => {
                // The system call returns the break: the old one if it refuses.
                let end = libc::syscall(libc::SYS_brk, 0);
                if libc::syscall(libc::SYS_brk, end + number) == end + number {
                    0
                } else {
                    return libc::ENOMEM as u8;
                }
            }
            "move memory to a chosen address" => {
                let (flags, at) = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, 0x1000_0000_0000usize);
                let moved = libc::mremap(page(), 4096, 4096, flags, at as *mut libc::c_void);
                if moved == libc::MAP_FAILED { -1 } else { 0 }
            }
            "leave memory where it moves from" => {
                let (flags, anywhere) = (libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP, 0usize);
                let moved = libc::mremap(page(), 4096, 4096, flags, anywhere as *mut libc::c_void);
                if moved == libc::MAP_FAILED { -1 } else { 0 }
            }
            "change the protection of memory" => i64::from(libc::mprotect(page(), 4096, libc::PROT_READ)),
            "a memfd" => i64::from(libc::memfd_create(c"outside".as_ptr(), 0)),
            "a larger pipe" => i64::from(libc::fcntl(fd, libc::F_SETPIPE_SZ, 1 << 17)),
            "a larger socket buffer" => {
                let bytes: libc::c_int = 1 << 17;
                let (at, len) = ((&raw const bytes).cast(), size_of_val(&bytes) as libc::socklen_t);
                i64::from(libc::setsockopt(3, libc::SOL_SOCKET, libc::SO_SNDBUF, at, len))
            }
            "a lock on a file" => {
                let mut lock: libc::flock = std::mem::zeroed();
                lock.l_type = libc::F_WRLCK as libc::c_short;
                i64::from(libc::fcntl(0, libc::F_OFD_SETLK, &raw const lock))
            }
            "io_uring" => {
                let mut params = [0u8; 120];
                libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr())
            }
            "change O_NONBLOCK" => i64::from(libc::fcntl(3, libc::F_SETFL, libc::O_NONBLOCK)),
            "a new namespace" => i64::from(libc::unshare(libc::CLONE_NEWUSER)),
            "more privileges" => i64::from(libc::setuid(0)),
            // With arguments that no call accepts. Whatever else the kernel answers, it has looked at them.
            "reach a call" => match libc::syscall(number, -1, 0, 0, 0, 0, 0) {
                -1 if errno() == libc::EPERM as u8 || errno() == libc::ENOSYS as u8 => -1,
                _ => 0,
            },
            "a socket of another family" => match libc::socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0) {
                -1 if errno() == libc::EPERM as u8 => -1,
                _ => 0,
            },
            "a thread" => libc::syscall(libc::SYS_clone3, 0, 0).max(if errno() == libc::EINVAL as u8 { 0 } else { -1 }),
            "device model operation" => {
                // XEN_DMOP_nr_vcpus, which changes nothing.
                let mut op = [20u64, 0, 0, 0];
                let buf = ioctl::DmOpBuf { uptr: op.as_mut_ptr() as u64, size: 32 };
                let arg = ioctl::DmOpArg { dom: number as u16, num: 1, pad: 0, ubufs: (&raw const buf) as u64 };
                i64::from(libc::ioctl(fd, u64::from(ioctl::PRIVCMD_DM_OP), &raw const arg))
            }
            "hypercall" => {
                // xen_version(XENVER_version).
                let arg = ioctl::Hypercall { op: 17, arg: [0; 5] };
                i64::from(libc::ioctl(fd, u64::from(ioctl::PRIVCMD_HYPERCALL), &raw const arg))
            }
            "map guest memory" => {
                let at =
                    libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0);
                let (gfn, mut error) = (1u64, 0i32);
                let arg = ioctl::MmapBatchV2 {
                    num: 1,
                    dom: number as u16,
                    pad: 0,
                    addr: at as u64,
                    arr: (&raw const gfn) as u64,
                    err: (&raw mut error) as u64,
                };
                if at == libc::MAP_FAILED {
                    -1
                } else {
                    i64::from(libc::ioctl(fd, u64::from(ioctl::PRIVCMD_MMAPBATCH_V2), &raw const arg))
                }
            }
            "bind an event channel" => {
                let arg = ioctl::BindInterdomain { remote_domain: number as u32, remote_port: 1 };
                let port = libc::ioctl(fd, u64::from(ioctl::EVTCHN_BIND_INTERDOMAIN), &raw const arg);
                // EINVAL is Xen's answer to the port, so the sandbox has let the call pass.
                if port < 0 && errno() == libc::EINVAL as u8 { 0 } else { i64::from(port) }
            }
            "name a granted page" => {
                // The head, then one reference of the domain.
                let mut arg = [1u64, 0, (8u64 << 32) | number as u64];
                i64::from(libc::ioctl(fd, u64::from(ioctl::GNTDEV_MAP_GRANT_REF), arg.as_mut_ptr()))
            }
            "copy a granted page" => {
                let mut page = [0u8; 512];
                let (far, near) = (
                    ioctl::GntdevCopySide::foreign(8, 0, number as u16),
                    ioctl::GntdevCopySide(page.as_mut_ptr() as u64),
                );
                let mut segment = ioctl::GntdevCopySegment {
                    source: far,
                    dest: near,
                    len: 512,
                    flags: ioctl::GNTCOPY_SOURCE_GREF,
                    status: 0,
                    pad: 0,
                };
                let arg = ioctl::GntdevCopy { count: 1, pad: 0, segments: (&raw mut segment) as u64 };
                // (The ioctl succeeds even if the guest has not granted the page: the sandbox has let the call pass.)
                i64::from(libc::ioctl(fd, u64::from(ioctl::GNTDEV_GRANT_COPY), &raw const arg))
            }
            "write a frame" => {
                // Behind a virtio_net_hdr of zeroes.
                let mut frame = vec![0; 10];
                frame.extend(
                    (0..argument.len() / 2)
                        .filter_map(|i| u8::from_str_radix(argument.get(i * 2..i * 2 + 2)?, 16).ok()),
                );
                i64::try_from(libc::write(fd, frame.as_ptr().cast(), frame.len())).unwrap_or(-1)
            }
            "send to an address" => {
                let (at, socket) = argument.split_once('@').unwrap_or_default();
                let len = size_of::<libc::sa_family_t>() + 1 + socket.len();
                let at: usize = at.parse().unwrap_or(0);
                libc::syscall(libc::SYS_sendto, fd, b"out".as_ptr(), 3usize, 0, at, len)
            }
            "write the area" => i64::try_from(libc::write(fd, [1u8].as_ptr().cast(), 1)).unwrap_or(-1),
            "map the area for writing" => {
                let p =
                    libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0);
                if p == libc::MAP_FAILED { -1 } else { 0 }
            }
            "make the area's mapping writable" => {
                let p = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, fd, 0);
                if p == libc::MAP_FAILED {
                    -1
                } else {
                    i64::from(libc::mprotect(p, 4096, libc::PROT_READ | libc::PROT_WRITE))
                }
            }
            "cut the area" => i64::from(libc::ftruncate(fd, 0)),
            "write a file far beyond its end" => {
                i64::try_from(libc::pwrite(fd, [1u8; 512].as_ptr().cast(), 512, FAR)).unwrap_or(-1)
            }
            "write a file beyond its end" => {
                let end = libc::lseek(fd, 0, libc::SEEK_END);
                i64::try_from(libc::pwrite(fd, [1u8; 512].as_ptr().cast(), 512, end)).unwrap_or(-1)
            }
            "fill the disk" => {
                // Until something refuses, or 2 MiB are there.
                let piece = [1u8; 4096];
                (0..512)
                    .map(|_| libc::write(fd, piece.as_ptr().cast(), piece.len()) as i64)
                    .find(|n| *n < 0)
                    .unwrap_or(0)
            }
            "lengthen a file" => i64::from(libc::ftruncate(fd, FAR)),
            // fallocate with each of its modes (linux/falloc.h), at and beyond the end.
            "allocate" => {
                let end = libc::lseek(fd, 0, libc::SEEK_END);
                i64::from(libc::fallocate(fd, number as i32, end, 1 << 20))
            }
            _ => -1,
        }
    };
    if result < 0 { errno().max(1) } else { 0 }
}
