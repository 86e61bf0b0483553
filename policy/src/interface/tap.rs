//! Taps (linux/if_tun.h).
use rustix::fd::{AsRawFd as _, OwnedFd};

/// Bytes of an interface's name with its end (IFNAMSIZ).
const NAME: usize = 16;
const TUNSETIFF: u64 = 0x4004_54ca;
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
/// IFF_TAP, IFF_NO_PI, IFF_VNET_HDR.
const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000;
/// TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6: partial checksums and large TCP packets both ways.
const OFFLOADS: u64 = 1 | 2 | 4;
/// Bytes of struct virtio_net_hdr.
const HEADER: i32 = 10;

/// struct ifreq with flags.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    flags: u16,
    pad: [u8; 22],
}

/// Makes the tap `name`, or opens it if it is there and has no owner. It does not block, its frames have a virtio_net_hdr, and it
/// is gone when the descriptor is closed. Needs CAP_NET_ADMIN.
///
/// # Errors
/// The kernel's, or a name that is none.
pub fn open(name: &str) -> std::io::Result<OwnedFd> {
    if name.is_empty() || name.len() >= NAME || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "no name of an interface"));
    }
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
    let fd = rustix::fs::open("/dev/net/tun", flags, rustix::fs::Mode::empty())?;
    let mut request = Request { name: [0; NAME], flags: FLAGS, pad: [0; 22] };
    for (to, from) in request.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    let header = HEADER;
    // SAFETY: the kernel reads and writes one ifreq, takes a number, and reads one int.
    unsafe {
        for (what, argument) in [
            (TUNSETIFF, (&raw mut request) as u64),
            (TUNSETOFFLOAD, OFFLOADS),
            (TUNSETVNETHDRSZ, (&raw const header) as u64),
        ] {
            if libc::ioctl(fd.as_raw_fd(), what, argument) < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["", "a/b", "sixteen-letters-", "a b"] {
            assert_eq!(super::open(name).unwrap_err().kind(), std::io::ErrorKind::InvalidInput, "{name}");
        }
    }
}
