//! The first process of a stub domain's debugging image, and its shell.
use crate::Done;
use rustix::fd::AsFd;

/// The debugging image's first process: a shell's programs, room for files, the tests' command loop; then the launcher takes this
/// process's place. Returns why it did not. (The kernel knows ELF programs only, so this is no script.)
pub(crate) fn init() -> std::io::Error {
    use std::os::unix::process::CommandExt as _;
    for (kind, place) in
        [(c"proc", c"/proc"), (c"sysfs", c"/sys"), (c"devtmpfs", c"/dev"), (c"tmpfs", c"/run"), (c"tmpfs", c"/tmp")]
    {
        // SAFETY: constant strings.
        if unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) } != 0 {
            return std::io::Error::last_os_error();
        }
    }
    let installed = std::process::Command::new("/bin/busybox").args(["--install", "-s", "/bin"]).status();
    match installed
        .and_then(|_| std::process::Command::new("/usr/lib/bulkhead-tests/bulkhead-bed").arg("commands").spawn())
    {
        Ok(_) => std::process::Command::new("/usr/lib/bulkhead/bulkhead-dm").exec(),
        Err(e) => e,
    }
}

/// The debugging image's shell: one command after the other; output and status go to data/bulkhead-debug/answer.
pub(crate) fn commands() -> Done {
    let mut xenstore = bulkhead_xen::Xenstore::connect()?;
    xenstore.write("data/bulkhead-debug/answer", "")?;
    xenstore.watch("data/bulkhead-debug/command")?;
    let mut last = String::new();
    loop {
        rustix::event::poll(&mut [rustix::event::PollFd::new(&xenstore.as_fd(), rustix::event::PollFlags::IN)], None)?;
        xenstore.changed()?;
        let command = xenstore.read("data/bulkhead-debug/command").unwrap_or_default();
        if command == last || command.is_empty() {
            continue;
        }
        last.clone_from(&command);
        let out = std::process::Command::new("/bin/sh").args(["-c", &command]).output()?;
        let mut text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        text.truncate(text.floor_char_boundary(3000));
        xenstore.write("data/bulkhead-debug/answer", &format!("{text}\nstatus {}", out.status.code().unwrap_or(-1)))?;
    }
}
