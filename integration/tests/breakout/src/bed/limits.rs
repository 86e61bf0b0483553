//! What dm_restrict's limits do (docs/decisions/0005).
use crate::Done;
use rustix::fd::AsRawFd;

/// Runs `attempt` in a child; its result, or the signal that it died of.
fn in_child(attempt: impl FnOnce() -> std::io::Result<()>) -> String {
    // SAFETY: a single-threaded process; the child runs `attempt` and ends.
    unsafe {
        match libc::fork() {
            0 => {
                let errno = attempt().err().map_or(0, |e| e.raw_os_error().unwrap_or(255));
                libc::_exit(errno)
            }
            pid => {
                let mut status = 0;
                libc::waitpid(pid, &raw mut status, 0);
                if libc::WIFSIGNALED(status) {
                    return format!("signal {}", libc::WTERMSIG(status));
                }
                match libc::WEXITSTATUS(status) {
                    0 => "works".into(),
                    errno => std::io::Error::from_raw_os_error(errno).to_string(),
                }
            }
        }
    }
}

/// libxl's child sets RLIMIT_FSIZE to 256 KiB, and QEMU then changes its root and its user. What of that stands in the way of
/// shared memory and of the processes' namespaces?
pub(crate) fn limits() -> Done {
    let check = |result: i32| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
    let limit = |soft: u64, hard: u64| {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: reads one rlimit.
        check(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) })
    };
    let memfd = |bytes: u64| {
        let fd = rustix::fs::memfd_create("spike", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, bytes)?;
        std::io::Result::Ok(())
    };
    // SAFETY of this and the calls below: system calls on integers and constant strings, in a child that ends afterwards. What is
    // tried is the kernel's answer to them, so they are called as they are.
    let namespaces = || {
        check(unsafe {
            libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET)
        })
    };
    const LIMIT: u64 = 256 << 10;
    std::fs::create_dir_all("/run/spike-root")?;
    let user = || {
        check(unsafe { libc::setresgid(65534, 65534, 65534) })
            .and_then(|()| check(unsafe { libc::setresuid(65534, 65534, 65534) }))
    };
    let results = [
        (
            "a memfd of 200 KiB under the limit",
            "works",
            in_child(|| limit(LIMIT, LIMIT).and_then(|()| memfd(200 << 10))),
        ),
        (
            "a memfd of 64 MiB under the limit",
            "signal 25",
            in_child(|| limit(LIMIT, LIMIT).and_then(|()| memfd(64 << 20))),
        ),
        (
            "a memfd of 64 MiB after root has raised the limit",
            "works",
            in_child(|| {
                limit(LIMIT, LIMIT)?;
                limit(libc::RLIM_INFINITY, libc::RLIM_INFINITY)?;
                memfd(64 << 20)
            }),
        ),
        (
            "raising the limit as another user",
            "Operation not permitted (os error 1)",
            in_child(|| {
                limit(LIMIT, LIMIT)?;
                user()?;
                limit(libc::RLIM_INFINITY, libc::RLIM_INFINITY)
            }),
        ),
        (
            "writing a mapping of a memfd made before the limit",
            "works",
            in_child(|| {
                let area = rustix::fs::memfd_create("spike", rustix::fs::MemfdFlags::CLOEXEC)?;
                rustix::fs::ftruncate(&area, 1 << 20)?;
                limit(LIMIT, LIMIT)?;
                // SAFETY: a new mapping of a memfd of 1 MiB, written inside.
                unsafe {
                    let at = libc::mmap(
                        std::ptr::null_mut(),
                        1 << 20,
                        libc::PROT_READ | libc::PROT_WRITE,
                        libc::MAP_SHARED,
                        area.as_raw_fd(),
                        0,
                    );
                    if at == libc::MAP_FAILED {
                        return Err(std::io::Error::last_os_error());
                    }
                    at.cast::<u8>().add(512 << 10).write_volatile(1);
                }
                Ok(())
            }),
        ),
        ("new namespaces as root", "works", in_child(namespaces)),
        (
            "new namespaces after chroot",
            "Operation not permitted (os error 1)",
            in_child(|| {
                check(unsafe { libc::chroot(c"/run/spike-root".as_ptr()) })?;
                check(unsafe { libc::chdir(c"/".as_ptr()) })?;
                namespaces()
            }),
        ),
        ("new namespaces as another user", "works", in_child(|| user().and_then(|()| namespaces()))),
        (
            "new namespaces with an empty root that a mount was moved to, in a namespace of its own",
            "works",
            in_child(|| {
                check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
                let none = std::ptr::null();
                check(unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) })?;
                check(unsafe {
                    libc::mount(c"none".as_ptr(), c"/run/spike-root".as_ptr(), c"tmpfs".as_ptr(), 0, none.cast())
                })?;
                check(unsafe { libc::chdir(c"/run/spike-root".as_ptr()) })?;
                // SAFETY: changes this child's root; the old one is left mounted below nothing.
                let pivoted = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
                if pivoted == 0 {
                    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })?;
                } else {
                    // The initial RAM file system cannot be pivoted away.
                    check(unsafe { libc::mount(c".".as_ptr(), c"/".as_ptr(), none, libc::MS_MOVE, none.cast()) })?;
                    check(unsafe { libc::chroot(c".".as_ptr()) })?;
                }
                check(unsafe { libc::chdir(c"/".as_ptr()) })?;
                namespaces()
            }),
        ),
    ];
    let mut wrong = 0;
    for (what, want, got) in results {
        println!("{what}: {got}");
        if want != got {
            println!("  (expected: {want})");
            wrong += 1;
        }
    }
    if wrong == 0 { Ok(()) } else { Err(format!("{wrong} results are not as docs/decisions/0005 says").into()) }
}
