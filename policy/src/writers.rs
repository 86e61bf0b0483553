//! Who has a file open.
use rustix::fd::{AsRawFd as _, BorrowedFd};

/// Whether a file is open for writing anywhere: in a process, or in a message that nobody has received. `fd` is open for reading
/// alone, and the file is the caller's own. On a file system without leases the answer is no.
///
/// # Errors
/// The descriptor is not as described.
pub fn is_open_for_writing(fd: BorrowedFd<'_>) -> std::io::Result<bool> {
    // The kernel grants a read lease on a file that nobody can write (fcntl(2), F_SETLEASE).
    // SAFETY: fcntl on an open descriptor with an integer.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } == 0 {
        // SAFETY: the same.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
        return Ok(false);
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Ok(true),
        Some(libc::EINVAL | libc::EOPNOTSUPP) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::{AsFd as _, OwnedFd};
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    #[test]
    fn a_writer_is_seen_also_in_a_message_on_its_way() {
        let path = std::env::temp_dir().join(format!("bulkhead-writers-{}", std::process::id()));
        let writer = OwnedFd::from(std::fs::File::create(&path).unwrap());
        let reader = OwnedFd::from(std::fs::File::open(&path).unwrap());
        let open = || is_open_for_writing(reader.as_fd()).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(open());
        let (near, far) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [writer.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        rustix::net::sendmsg(&near, &[std::io::IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        drop(writer);
        assert!(open(), "the message has it");
        drop(far);
        // Another test's child has a copy until it starts its program.
        while open() {
            std::thread::yield_now();
        }
        assert!(!open(), "no lease is left");
        assert!(is_open_for_writing(near.as_fd()).is_ok_and(|open| !open), "no file, no lease");
    }
}
