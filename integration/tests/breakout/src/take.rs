//! Attempts to take as much of something as can be had, `WHAT=MOST`: until it is refused, or MOST is taken. What was taken is reported
//! and kept until the starter closes the socket. Attempts that have no end report once they have begun.
use bulkhead_breakout::{DESCRIPTORS, Taken};
use bulkhead_bus::pv::{Side, means};
use bulkhead_plan::pv_calls::{GrantCall, GrantReply, XenbusCall, XenbusReply};
use bulkhead_plan::{Ask, FromProcess};
use bulkhead_xen_abi::ioctl;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};

/// Bytes of a step of the attempts that take memory, and of those that fill files.
const STEP: usize = 1 << 20;
const BLOCK: usize = 4096;

/// Makes the attempt with these descriptors, reports to `socket`, and returns when the starter has closed its end.
pub fn take(what: &str, given: &[OwnedFd], socket: &OwnedFd) {
    let (what, argument) = what.split_once('=').unwrap_or((what, "0"));
    let (most, domid) = argument.split_once('@').unwrap_or((argument, "0"));
    let (most, domid) = (most.parse().unwrap_or(0), domid.parse().unwrap_or(0));
    let mut step = match endless(what, given) {
        Some(step) => {
            report(socket, Taken { amount: 0, errno: 0 });
            step
        }
        None => {
            let (amount, errno) = amount(what, most, domid, given, socket);
            report(socket, Taken { amount, errno });
            Box::new(|| ())
        }
    };
    let mut waits = RecvFlags::DONTWAIT;
    if endless(what, given).is_none() {
        waits = RecvFlags::empty();
    }
    // Until the other end is closed. (A system call that every profile has.)
    let mut byte = [0];
    loop {
        let (mut pieces, mut nothing) = ([std::io::IoSliceMut::new(&mut byte)], RecvAncillaryBuffer::default());
        match rustix::net::recvmsg(socket, &mut pieces, &mut nothing, waits) {
            Ok(got) if got.bytes > 0 => {}
            Err(Errno::AGAIN) => step(),
            _ => return,
        }
    }
}

fn report(socket: &OwnedFd, taken: Taken) {
    let _ = rustix::io::write(socket, &taken.to_bytes());
}

/// The work of an attempt that has no end, between two looks at the socket.
fn endless<'a>(what: &str, given: &'a [OwnedFd]) -> Option<Box<dyn FnMut() + 'a>> {
    match what {
        // A processor.
        "cpu" => Some(Box::new(|| {
            for n in 0..100_000u32 {
                std::hint::black_box(n);
            }
        })),
        // The doorbells, or whatever the eventfds are.
        "bells" => Some(Box::new(move || {
            for bell in given {
                let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
            }
        })),
        // Requests to the launcher, without a pause. (Each has an answer that is not read.)
        "requests" => Some(Box::new(move || {
            let ask = FromProcess { serial: 7, ask: Ask::Processes }.to_bytes();
            for socket in given {
                let _ = rustix::net::send(socket, &ask, SendFlags::NOSIGNAL);
            }
        })),
        // Lines of the log, to a pipe.
        "log" => Some(Box::new(move || {
            let mut line = [b'x'; 1000];
            line[999] = b'\n';
            for pipe in given {
                let _ = rustix::io::write(pipe, &line);
            }
        })),
        _ => None,
    }
}

fn errno() -> u8 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(254) as u8
}

/// Makes `step` until it has given `most` together, or fails; the sum, and the errno.
fn steps(most: u64, mut step: impl FnMut(u64) -> Result<u64, u8>) -> (u64, u8) {
    let mut amount = 0;
    while amount < most {
        match step(amount) {
            Ok(more) => amount += more,
            Err(errno) => return (amount, errno),
        }
    }
    (amount, 0)
}

fn amount(what: &str, most: u64, domid: u32, given: &[OwnedFd], socket: &OwnedFd) -> (u64, u8) {
    let fd = given.first().map_or(-1, AsRawFd::as_raw_fd);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    match what {
        "private memory" => steps(most, |_| map(flags)),
        "shared memory" => steps(most, |_| map(libc::MAP_SHARED | libc::MAP_ANONYMOUS)),
        "memory that grows down" => steps(most, |_| map(flags | libc::MAP_GROWSDOWN)),
        "memory by mremap" => by_mremap(most),
        "memory by brk" => by_brk(most),
        "memory of a memfd" => {
            // SAFETY: a constant name.
            let memfd = unsafe { libc::memfd_create(c"taken".as_ptr(), 0) };
            let piece = vec![1u8; STEP];
            steps(most, |_| write(memfd, &piece))
        }
        "processes" => steps(most, |_| process()),
        "threads" => steps(most, |_| {
            let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(std::thread::park);
            thread.map(|_| 1).map_err(|e| e.raw_os_error().unwrap_or(254) as u8)
        }),
        // SAFETY: integers.
        "descriptors by dup" => steps(most, |_| one(unsafe { libc::fcntl(3, libc::F_DUPFD, 0) })),
        "descriptors received" => received(socket),
        "disk by write" => steps(most, |_| write(fd, &[1; BLOCK])),
        "disk by pwrite" => steps(most, |at| {
            // SAFETY: a constant buffer.
            let n = unsafe { libc::pwrite(fd, [1u8; BLOCK].as_ptr().cast(), BLOCK, at as i64) };
            u64::try_from(n).map_err(|_| errno())
        }),
        // SAFETY: integers.
        "disk by truncation" => steps(most, |_| one(unsafe { libc::ftruncate(fd, most as i64) }).map(|_| most)),
        "disk by allocation" => {
            // SAFETY: integers.
            steps(most, |_| {
                one(unsafe { libc::fallocate(fd, libc::FALLOC_FL_KEEP_SIZE, 0, most as i64) }).map(|_| most)
            })
        }
        "buffers" => buffers(most, given),
        "larger buffers" => {
            larger(given);
            buffers(most, given)
        }
        "nodes of devices" => steps(most, |_| {
            let path = if domid == 0 { c"/dev/xen/privcmd" } else { c"/dev/net/tun" };
            // SAFETY: constant strings.
            one(unsafe { libc::open(path.as_ptr(), libc::O_RDWR) })
        }),
        "event channels" => {
            let mut port = 0;
            steps(most, |_| {
                port += 1;
                let arg = ioctl::BindInterdomain { remote_domain: domid, remote_port: port };
                // SAFETY: the kernel reads one BindInterdomain.
                let bound = unsafe { libc::ioctl(fd, u64::from(ioctl::EVTCHN_BIND_INTERDOMAIN), &raw const arg) };
                // Ports that cannot be bound are passed over.
                match bound {
                    0.. => Ok(1),
                    _ if u64::from(port) < 4 * most => Ok(0),
                    _ => Err(errno()),
                }
            })
        }
        "new event channels" => steps(most, |_| {
            // SAFETY: the kernel reads one domain's number.
            one(unsafe { libc::ioctl(fd, u64::from(ioctl::EVTCHN_BIND_UNBOUND_PORT), &raw const domid) })
        }),
        "grants" => {
            let mut gref = 0u64;
            steps(most, |_| {
                let mut arg = vec![256u64, 0];
                arg.extend((0..256).map(|n| (gref + n) << 32 | u64::from(domid)));
                gref += 256;
                // SAFETY: the kernel reads the head and 256 references, and writes the head.
                one(unsafe { libc::ioctl(fd, u64::from(ioctl::GNTDEV_MAP_GRANT_REF), arg.as_mut_ptr()) }).map(|_| 256)
            })
        }
        "nodes by a connection" => steps(most, |n| {
            // XS_WRITE (xen/include/public/io/xs_wire.h) of a node that nobody looks at.
            let body = format!("/tool/consume/{n}\0x");
            let head: Vec<u8> = [11u32, 7, 0, body.len() as u32].iter().flat_map(|w| w.to_ne_bytes()).collect();
            write(fd, &[head, body.into_bytes()].concat()).map(|_| 1)
        }),
        "nodes by calls" => nodes_by_calls(most, given),
        "grants by calls" => grants_by_calls(most, given),
        "frames" => {
            // Behind a virtio_net_hdr of zeroes, a broadcast of no known kind.
            let mut frame = [0u8; 70];
            frame[10..16].fill(0xff);
            frame[16..18].copy_from_slice(&[2, 0xbd]);
            frame[22..24].copy_from_slice(&[0x88, 0xb5]);
            let mut full = 0u32;
            steps(most, |_| match write(fd, &frame) {
                Ok(_) => Ok(1),
                Err(e) if i32::from(e) == libc::ENOBUFS || i32::from(e) == libc::EAGAIN => {
                    full += 1;
                    if full < 1_000_000 { Ok(0) } else { Err(e) }
                }
                Err(e) => Err(e),
            })
        }
        _ => (0, libc::EINVAL as u8),
    }
}

fn one(result: i32) -> Result<u64, u8> {
    if result < 0 { Err(errno()) } else { Ok(1) }
}

fn write(fd: i32, bytes: &[u8]) -> Result<u64, u8> {
    // SAFETY: the buffer is as long as said.
    let n = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    u64::try_from(n).map_err(|_| errno())
}

/// Writes to each page of a step.
///
/// # Safety
/// The memory must be mapped for writing.
unsafe fn touch(at: *mut u8) {
    for page in (0..STEP).step_by(BLOCK) {
        // SAFETY: as the caller promises.
        unsafe { at.add(page).write_volatile(1) };
    }
}

/// A step of memory of this kind.
fn map(flags: i32) -> Result<u64, u8> {
    // SAFETY: a new mapping at an address of the kernel's choice; it is as long as it is touched.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), STEP, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if at == libc::MAP_FAILED {
            return Err(errno());
        }
        touch(at.cast());
    }
    Ok(STEP as u64)
}

/// In steps as large as there is room for: the kernel may move all of it at each.
fn by_mremap(most: u64) -> (u64, u8) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let mut step = 16 * STEP;
    // SAFETY: a new mapping, which grows step by step; each step is touched once it is there.
    unsafe {
        let mut at = libc::mmap(std::ptr::null_mut(), BLOCK, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        let mut long = BLOCK;
        steps(most, |_| {
            let grown = libc::mremap(at, long, long + step, libc::MREMAP_MAYMOVE);
            if grown == libc::MAP_FAILED {
                if step == STEP {
                    return Err(errno());
                }
                step /= 2;
                return Ok(0);
            }
            at = grown;
            for part in (0..step).step_by(STEP) {
                touch(at.cast::<u8>().add(long + part));
            }
            long += step;
            Ok(step as u64)
        })
    }
}

fn by_brk(most: u64) -> (u64, u8) {
    steps(most, |_| {
        // SAFETY: the break grows; nobody else of this process, which has one thread, uses the new part.
        unsafe {
            let end = libc::syscall(libc::SYS_brk, 0);
            if libc::syscall(libc::SYS_brk, end + STEP as i64) != end + STEP as i64 {
                return Err(libc::ENOMEM as u8);
            }
            touch(end as *mut u8);
        }
        Ok(STEP as u64)
    })
}

/// A child that waits, and ends with this process.
fn process() -> Result<u64, u8> {
    // SAFETY: a process with one thread; the child only waits.
    match unsafe { libc::fork() } {
        0 => loop {
            // SAFETY: no memory is involved.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::pause();
            }
        },
        pid => one(pid),
    }
}

/// Descriptors that the starter sends until it sends none.
fn received(socket: &OwnedFd) -> (u64, u8) {
    let mut amount = 0;
    loop {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let (mut byte, mut control) = ([0; 8], RecvAncillaryBuffer::new(&mut space));
        let mut pieces = [std::io::IoSliceMut::new(&mut byte)];
        let Ok(got) = rustix::net::recvmsg(socket, &mut pieces, &mut control, RecvFlags::empty()) else {
            return (amount, errno());
        };
        let mut here = 0;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                here += fds.map(std::mem::forget).count() as u64;
            }
        }
        amount += here;
        if here == 0 && !got.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
            return (amount, 0);
        }
    }
}

/// Fills the socket and the pipe that were given, neither of which waits.
fn buffers(most: u64, given: &[OwnedFd]) -> (u64, u8) {
    let mut amount = 0;
    for fd in given {
        let (n, _) = steps(most, |_| match rustix::net::send(fd, &[1; BLOCK], SendFlags::DONTWAIT) {
            Ok(n) => Ok(n as u64),
            Err(Errno::NOTSOCK) => write(fd.as_raw_fd(), &[1; BLOCK]),
            Err(e) => Err(e.raw_os_error() as u8),
        });
        amount += n;
    }
    (amount, libc::EAGAIN as u8)
}

/// Asks for more room in them.
fn larger(given: &[OwnedFd]) {
    let bytes: libc::c_int = 1 << 20;
    let (at, len) = ((&raw const bytes).cast(), size_of_val(&bytes) as libc::socklen_t);
    for fd in given {
        // SAFETY: the kernel reads one number.
        unsafe {
            libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, at, len);
            libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes);
        }
    }
}

/// Waits for the answer to the call with this serial; `None` if there is none, or no more.
fn answer(socket: &OwnedFd, serial: u8) -> Option<Vec<u8>> {
    // The filters have no system call that waits for a socket with a limit, so this looks so often, and lets others run between.
    for _ in 0..300_000 {
        let mut packet = vec![0; 2048];
        match rustix::net::recv(socket, packet.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((0, _)) => return None,
            Ok((n, _)) if packet.first() == Some(&serial) => {
                packet.truncate(n);
                return Some(packet.split_off(1));
            }
            Ok(_) => {}
            Err(Errno::AGAIN) => std::thread::yield_now(),
            Err(_) => return None,
        }
    }
    None
}

/// Writes every node that any kind of back end may write, as long as may be, and as many others, until there is no answer any more.
/// The amount is that of the calls that were answered.
fn nodes_by_calls(most: u64, given: &[OwnedFd]) -> (u64, u8) {
    let Some(socket) = given.first() else { return (0, libc::EBADF as u8) };
    let kinds = [&means::QDISK, &means::VKBD, &means::CONSOLE, &means::VFB];
    let mut calls: Vec<XenbusCall> = kinds
        .iter()
        .flat_map(|means| means.nodes())
        .flat_map(|node| {
            let value = |n: usize| XenbusCall::Write(node.name.to_owned(), "1".repeat(n));
            // The state is left as it is, so that the guest's end does nothing.
            if node.name == "state" { vec![] } else { vec![value(node.longest), value(node.longest + 1)] }
        })
        .collect();
    calls.push(XenbusCall::Read(Side::Back, "state".to_owned()));
    let mut number = 0usize;
    steps(most, |_| {
        number += 1;
        let other = XenbusCall::Write(format!("n{number}"), "1".repeat(1000));
        let call = if number.is_multiple_of(2) { &other } else { &calls[number / 2 % calls.len()] };
        let serial = (number % 250 + 1) as u8;
        let packet = [vec![serial], call.to_bytes()].concat();
        rustix::net::send(socket, &packet, SendFlags::NOSIGNAL).map_err(|e| e.raw_os_error() as u8)?;
        let reply = answer(socket, serial).and_then(|a| XenbusReply::from_bytes(&a));
        reply.map(|_| 1).ok_or(libc::ETIMEDOUT as u8)
    })
}

/// Has pages named until there are no more for this life. The amount is that of the pages.
fn grants_by_calls(most: u64, given: &[OwnedFd]) -> (u64, u8) {
    let Some(socket) = given.first() else { return (0, libc::EBADF as u8) };
    let (mut serial, mut gref) = (0u8, 0u32);
    let mut ask = |call: &GrantCall| {
        serial = serial % 250 + 1;
        let packet = [vec![serial], call.to_bytes()].concat();
        rustix::net::send(socket, &packet, SendFlags::NOSIGNAL).ok()?;
        answer(socket, serial).and_then(|a| GrantReply::from_bytes(&a))
    };
    let mut piece = 256u32;
    steps(most, |_| {
        loop {
            let refs = (0..piece).map(|n| gref.wrapping_add(n)).collect();
            gref = gref.wrapping_add(piece);
            match ask(&GrantCall::Name(refs)) {
                Some(GrantReply::Done(_)) => return Ok(u64::from(piece)),
                Some(GrantReply::Spent) if piece > 1 => {
                    // What is forgotten may still be mapped, and does not come back.
                    let _ = ask(&GrantCall::Reset);
                    piece /= 2;
                }
                Some(GrantReply::Spent) => return Err(libc::ENOSPC as u8),
                Some(GrantReply::Failed) => return Err(libc::EIO as u8),
                None => return Err(libc::ETIMEDOUT as u8),
            }
        }
    })
}
