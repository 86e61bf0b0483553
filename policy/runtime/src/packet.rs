//! Receives from a packet socket (packet(7)): the kernel removes the outer VLAN tag from a frame and reports it in a control
//! message.
use rustix::fd::{AsRawFd as _, BorrowedFd};
use rustix::io::Errno;

/// PACKET_AUXDATA.
const AUXDATA: libc::c_int = 8;
/// TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID.
const VLAN: u32 = 1 << 4;
const TPID: u32 = 1 << 6;
/// IEEE 802.1Q.
const DOT1Q: u16 = 0x8100;
/// 64-bit words for one control message: its header (16 bytes) and struct tpacket_auxdata (20 bytes).
const ROOM: usize = 8;

/// Receives one frame with its virtio_net_hdr. Returns its length, and the two halves of the VLAN tag that the kernel has removed.
///
/// # Errors
/// The kernel's error; `AGAIN` if there is no frame.
pub fn receive_packet(socket: BorrowedFd<'_>, to: &mut [u8]) -> Result<(usize, Option<[u16; 2]>), Errno> {
    let mut control = [0u64; ROOM];
    let mut piece = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    // SAFETY: all of it is integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the kernel writes at most `to.len()` bytes of `to` and `msg_controllen` bytes of `control`, which outlive the call.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let Ok(n) = usize::try_from(n) else {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    };
    let bytes: Vec<u8> = control.iter().flat_map(|w| w.to_ne_bytes()).take(message.msg_controllen).collect();
    Ok((n, tag(&bytes)))
}

/// The tag in a control message (struct cmsghdr: length, level, type).
fn tag(bytes: &[u8]) -> Option<[u16; 2]> {
    let word = |at: usize| bytes.get(at..)?.first_chunk::<4>().map(|b| u32::from_ne_bytes(*b));
    let half = |at: usize| bytes.get(at..)?.first_chunk::<2>().map(|b| u16::from_ne_bytes(*b));
    let is = word(8)? == libc::SOL_PACKET as u32 && word(12)? == AUXDATA as u32;
    let status = word(16)?;
    // struct tpacket_auxdata: status, two lengths, two positions, the tag, its kind.
    (is && status & VLAN != 0).then_some(())?;
    let kind = if status & TPID != 0 { half(34)? } else { DOT1Q };
    Some([kind, half(32)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd as _;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn a_tag_is_reported_beside_the_frame() {
        let message = |status: u32| {
            let mut bytes = vec![0u8; 40];
            bytes[..8].copy_from_slice(&36u64.to_ne_bytes());
            bytes[8..12].copy_from_slice(&(libc::SOL_PACKET as u32).to_ne_bytes());
            bytes[12..16].copy_from_slice(&8u32.to_ne_bytes());
            bytes[16..20].copy_from_slice(&status.to_ne_bytes());
            bytes[32..34].copy_from_slice(&0x2005u16.to_ne_bytes());
            bytes[34..36].copy_from_slice(&0x88a8u16.to_ne_bytes());
            bytes
        };
        assert_eq!(tag(&message(VLAN | TPID)), Some([0x88a8, 0x2005]));
        assert_eq!((tag(&message(VLAN)), tag(&message(1))), (Some([0x8100, 0x2005]), None));
        assert_eq!((tag(&[]), tag(&message(VLAN)[..33])), (None, None));
    }

    #[test]
    fn frames_without_a_tag_are_just_frames() {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::empty(), None).unwrap();
        rustix::io::write(&a, &[7; 100]).unwrap();
        let mut to = [0; 200];
        assert_eq!((receive_packet(b.as_fd(), &mut to), to[99], to[100]), (Ok((100, None)), 7, 0));
        assert_eq!(receive_packet(b.as_fd(), &mut to), Err(Errno::AGAIN));
    }
}
