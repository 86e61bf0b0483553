use super::*;
use bulkhead_bus::fake;
use bulkhead_xen_abi::vchan as at;
use proptest::prelude::*;
use rustix::fd::AsFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// The bridge with a client (which writes the page), Xen (which writes ports) and control.
struct Bed {
    vchan: Vchan,
    cx: Context,
    page: OwnedFd,
    xen: OwnedFd,
    control: OwnedFd,
    sent: u32,
}

fn bed() -> Bed {
    let page = rustix::fs::memfd_create("vchan", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&page, 4096).unwrap();
    let pair =
        || rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).unwrap();
    let ((xen, evtchn), (control, sessions)) = (pair(), pair());
    let vchan = Vchan::new(VchanServer::new(page.as_fd()).unwrap(), evtchn, 7, sessions);
    Bed { vchan, cx: fake::context(0), page, xen, control, sent: 0 }
}

impl Bed {
    fn put(&self, offset: usize, bytes: &[u8]) {
        rustix::io::pwrite(&self.page, bytes, offset as u64).unwrap();
    }
    fn byte(&self, offset: usize) -> u8 {
        let mut byte = [0];
        rustix::io::pread(&self.page, &mut byte, offset as u64).unwrap();
        byte[0]
    }
    /// The client's signal arrives.
    fn signal(&mut self) {
        rustix::io::write(&self.xen, &7u32.to_ne_bytes()).unwrap();
        self.vchan.poll(Ready::Fd(EVTCHN), &mut self.cx);
    }
    fn live(&mut self, state: u8) {
        self.put(at::CLI_LIVE, &[state]);
    }
    /// The client writes, and signals if the server has requested that. Returns whether it has signalled.
    fn writes(&mut self, bytes: &[u8]) -> bool {
        for (i, byte) in bytes.iter().enumerate() {
            self.put(at::SMALL_AT + (self.sent as usize + i) % 1024, &[*byte]);
        }
        self.sent += bytes.len() as u32;
        self.put(at::LEFT + 4, &self.sent.to_le_bytes());
        let wanted = self.byte(at::CLI_NOTIFY);
        self.put(at::CLI_NOTIFY, &[wanted & !at::NOTIFY_WRITE]);
        wanted & at::NOTIFY_WRITE != 0
    }
    fn packets(&self) -> Vec<(u8, Vec<u8>)> {
        let mut packet = [0; SessionPacket::MAX];
        std::iter::from_fn(|| {
            let (n, _) = rustix::net::recv(&self.control, packet.as_mut_slice(), RecvFlags::DONTWAIT).ok()?;
            (n > 1).then(|| (packet[0], packet[SessionPacket::HEAD..n].to_vec()))
        })
        .collect()
    }
}

const BEGIN: (u8, Vec<u8>) = (SessionPacket::Begin as u8, Vec::new());
const END: (u8, Vec<u8>) = (SessionPacket::End as u8, Vec::new());

fn data(bytes: &[u8]) -> (u8, Vec<u8>) {
    (SessionPacket::Data as u8, bytes.to_vec())
}

#[test]
fn a_client_comes_talks_and_goes() {
    let mut bed = bed();
    bed.live(1);
    bed.signal();
    assert!(bed.writes(b"hello"));
    bed.signal();
    assert_eq!(bed.packets(), [BEGIN, data(b"hello")]);
    rustix::net::send(&bed.control, b"\x02\x01answer", SendFlags::empty()).unwrap();
    bed.vchan.poll(Ready::Fd(SESSIONS), &mut bed.cx);
    let mut answer = [0; 6];
    rustix::io::pread(&bed.page, &mut answer, at::LARGE_AT as u64).unwrap();
    assert_eq!((&answer, bed.byte(at::RIGHT + 4)), (b"answer", 6));
    bed.live(0);
    bed.signal();
    assert_eq!((bed.packets(), bed.byte(at::CLI_LIVE)), (vec![END], at::NOT_YET));
}

/// libxl: "Unexpected greeting message received".
#[test]
fn a_signal_that_is_late_is_no_new_client() {
    let mut bed = bed();
    bed.live(1);
    bed.signal();
    assert!(bed.writes(b"one"));
    // A packet of control makes the server read the page before the client's signal arrives.
    bed.vchan.poll(Ready::Fd(SESSIONS), &mut bed.cx);
    assert_eq!(bed.packets(), [BEGIN, data(b"one")]);
    bed.signal();
    assert_eq!(bed.packets(), []);
}

/// A new client's signal may arrive after the server has found it.
#[test]
fn one_client_is_greeted_once() {
    let mut bed = bed();
    bed.live(1);
    bed.signal();
    bed.signal();
    assert_eq!(bed.packets(), [BEGIN]);
}

#[test]
fn a_client_that_connects_before_the_end_of_the_last_is_noticed_is_greeted() {
    let mut bed = bed();
    bed.live(1);
    bed.signal();
    assert!(bed.writes(b"one"));
    bed.signal();
    bed.packets();
    // A part of an answer to it is still in flight.
    rustix::net::send(&bed.control, b"\x02\x01late", SendFlags::empty()).unwrap();
    // The client disconnects and another connects before this process runs.
    bed.live(1);
    bed.signal();
    assert_eq!(bed.packets(), [END, BEGIN]);
    bed.vchan.poll(Ready::Fd(SESSIONS), &mut bed.cx);
    rustix::net::send(&bed.control, b"\x02\x02hello", SendFlags::empty()).unwrap();
    bed.vchan.poll(Ready::Fd(SESSIONS), &mut bed.cx);
    let mut greeting = [0; 5];
    rustix::io::pread(&bed.page, &mut greeting, at::LARGE_AT as u64).unwrap();
    assert_eq!((&greeting, bed.byte(at::RIGHT + 4)), (b"hello", 5), "and nothing of what was for the other");
}

#[test]
fn a_client_that_control_has_forgotten_is_sent_away() {
    let mut bed = bed();
    bed.live(1);
    bed.signal();
    bed.packets();
    rustix::net::send(&bed.control, &[SessionPacket::End as u8, 1], SendFlags::empty()).unwrap();
    bed.vchan.poll(Ready::Fd(SESSIONS), &mut bed.cx);
    assert_eq!((bed.packets(), bed.byte(at::SRV_LIVE)), (vec![END], at::EXITED));
    bed.signal();
    assert_eq!(bed.packets(), [], "it has not gone yet");
    bed.live(0);
    bed.signal();
    assert_eq!(bed.byte(at::SRV_LIVE), at::CONNECTED);
    bed.live(1);
    bed.signal();
    assert_eq!(bed.packets(), [BEGIN]);
}

#[test]
fn impossible_counts_cost_the_client_its_connection() {
    let mut bed = bed();
    bed.live(1);
    bed.signal();
    bed.put(at::LEFT + 4, &5000u32.to_le_bytes());
    bed.signal();
    assert_eq!((bed.packets(), bed.byte(at::SRV_LIVE)), (vec![BEGIN, END], at::EXITED));
}

proptest! {
    #[test]
    fn a_hostile_client_is_survived(writes in prop::collection::vec((0usize..24, any::<u8>(), any::<bool>()), 0..80)) {
        let mut bed = bed();
        for (offset, value, signals) in writes {
            bed.put(offset, &[value]);
            if signals {
                bed.signal();
            }
            bed.vchan.poll(Ready::Again, &mut bed.cx);
            prop_assert!(bed.vchan.waiting.len() <= SessionPacket::MAX && bed.vchan.pending.len() <= SessionPacket::MAX);
            bed.packets();
        }
    }
}
