//! Packet sockets (linux/if_packet.h): all frames of an interface, behind a virtio_net_hdr.
use rustix::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// ETH_P_ALL (linux/if_ether.h), in network order.
const ALL: u16 = 0x0003u16.to_be();
const ADD_MEMBERSHIP: libc::c_int = 1;
const AUXDATA: libc::c_int = 8;
const VNET_HDR: libc::c_int = 15;
const IGNORE_OUTGOING: libc::c_int = 23;
/// PACKET_MR_PROMISC.
const PROMISCUOUS: u16 = 1;
/// Bytes of the receive buffer: sixteen frames of the largest size.
const BUFFER: libc::c_int = 1 << 20;

/// struct packet_mreq.
#[repr(C)]
struct Membership {
    index: i32,
    kind: u16,
    length: u16,
    address: [u8; 8],
}

fn set<T>(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> std::io::Result<()> {
    let (at, len) = (std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t);
    // SAFETY: the kernel reads one T.
    match unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, at, len) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Opens a packet socket on the interface with this number. It is non-blocking, does not receive its own frames, and sends on this
/// interface: the process's filter must forbid the calls that name another one (sendto with an address, sendmsg). Needs
/// CAP_NET_RAW.
///
/// # Errors
/// The kernel's.
pub fn open(index: u32) -> std::io::Result<OwnedFd> {
    // Protocol 0: no frame arrives before the socket is bound.
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and no other code owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let index = i32::try_from(index).map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
    set(&fd, libc::SOL_PACKET, VNET_HDR, &1i32)?;
    set(&fd, libc::SOL_PACKET, AUXDATA, &1i32)?;
    set(&fd, libc::SOL_PACKET, IGNORE_OUTGOING, &1i32)?;
    set(&fd, libc::SOL_PACKET, ADD_MEMBERSHIP, &Membership { index, kind: PROMISCUOUS, length: 0, address: [0; 8] })?;
    // Without the right to a larger buffer, the default is enough.
    let _ = set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BUFFER);
    // SAFETY: all fields are integers, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ALL;
    address.sll_ifindex = index;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel reads one sockaddr_ll.
    match unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) } {
        0 => Ok(fd),
        _ => Err(std::io::Error::last_os_error()),
    }
}
