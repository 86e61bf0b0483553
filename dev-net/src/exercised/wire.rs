//! The wire of a card under test: a back end that looks at each frame it gets, with eyes of its own.
use super::MAC;
use super::frames::{IPV4, IPV6};
use super::settings::{Setup, Taking};
use crate::backend::{Abilities, Backend, Sent};
use crate::frame::{self, Frame, Offload, be16, put_be16};
use bulkhead_bus::nic::{NicAddresses, NicRules, NicSettings};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most frames that are on their way back, and most of their bytes.
const ECHOED: usize = 8;
const ECHOED_BYTES: usize = 1 << 17;
/// Most frames on their way to the card.
pub(super) const COMING: usize = 8;

#[derive(Debug)]
struct State {
    abilities: Abilities,
    echo: bool,
    taking: Taking,
    rest: bool,
    /// Frames that the host has made room for.
    room: u64,
    /// Frames that were offered, and calls that asked for a rest.
    offered: u64,
    asked: u64,
    coming: VecDeque<Frame>,
    back: VecDeque<Frame>,
    /// The settings in force.
    nic: NicSettings,
    /// The first thing that is wrong with what was sent.
    wrong: Option<String>,
}

/// The wire. A clone is the other end.
#[derive(Clone, Debug)]
pub(crate) struct Wire(Arc<Mutex<State>>);

impl Wire {
    pub(crate) fn new(setup: &Setup) -> Self {
        Self(Arc::new(Mutex::new(State {
            abilities: setup.abilities,
            echo: setup.echo,
            taking: setup.taking,
            rest: setup.rest,
            room: 2,
            offered: 0,
            asked: 0,
            coming: VecDeque::new(),
            back: VecDeque::new(),
            nic: setup.nic.clone(),
            wrong: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame for the card; it is lost if there are many.
    pub(crate) fn put(&self, frame: Frame) {
        let mut state = self.state();
        if state.coming.len() < COMING {
            state.coming.push_back(frame);
        }
    }

    /// The settings that hold from now on. Returns the former ones.
    pub(crate) fn set(&self, nic: &NicSettings) -> NicSettings {
        std::mem::replace(&mut self.state().nic, nic.clone())
    }

    /// How frames are taken from now on, and for how many there is room.
    pub(crate) fn take(&self, taking: Taking, room: u64) {
        let mut state = self.state();
        (state.taking, state.room) = (taking, room);
    }

    /// Looks at a frame that has left the card.
    pub(crate) fn look(&self, frame: &Frame) {
        let nic = self.state().nic.clone();
        self.look_as(frame, &nic);
    }

    /// Looks at a frame that has left the card under these settings.
    pub(super) fn look_as(&self, frame: &Frame, nic: &NicSettings) {
        let mut state = self.state();
        if state.wrong.is_none() {
            state.wrong = wrong(frame, nic, state.abilities);
        }
    }

    /// What has come from a card has no readable header.
    pub(super) fn broken(&self) {
        self.state().wrong.get_or_insert_with(|| "a frame's header fits no frame".into());
    }

    /// What was wrong.
    pub(crate) fn wrong(&self) -> Option<String> {
        self.state().wrong.clone()
    }
}

impl Backend for Wire {
    fn abilities(&self) -> Abilities {
        self.state().abilities
    }

    fn send(&mut self, frame: &Frame) -> Sent {
        {
            let mut state = self.state();
            state.offered = state.offered.wrapping_add(1);
            match state.taking {
                Taking::Room if state.room == 0 => return Sent::Full,
                Taking::SecondTry if state.offered & 1 != 0 => return Sent::Full,
                Taking::Half if state.offered & 1 != 0 => return Sent::Lost,
                _ => state.room = state.room.saturating_sub(1),
            }
        }
        self.look(frame);
        let mut state = self.state();
        let bytes = state.back.iter().fold(frame.bytes.len(), |n, f| n.saturating_add(f.bytes.len()));
        if !state.echo {
            return Sent::Done;
        }
        if state.back.len() >= ECHOED || bytes > ECHOED_BYTES {
            return Sent::Lost;
        }
        state.back.push_back(frame.clone());
        Sent::Done
    }

    fn receive(&mut self) -> Option<Frame> {
        let mut state = self.state();
        state.coming.pop_front().or_else(|| state.back.pop_front())
    }

    fn pending(&mut self) -> bool {
        let mut state = self.state();
        state.asked = state.asked.wrapping_add(1);
        state.rest && state.asked & 1 != 0
    }
}

/// What is wrong with a frame that has left the card.
fn wrong(frame: &Frame, nic: &NicSettings, abilities: Abilities) -> Option<String> {
    let Frame { bytes, offload } = frame;
    let mut bytes = bytes.clone();
    if !nic.link {
        return Some("a frame is sent, and the link is down".into());
    }
    if bytes.len() > frame::MAX {
        return Some(format!("a frame of {} bytes is sent", bytes.len()));
    }
    let unable = |there: bool, can: bool| there && !can;
    if unable(offload.segmentation.is_some(), abilities.segmentation)
        || unable(offload.checksum.is_some(), abilities.checksum)
    {
        return Some(format!("{offload:?} is left to a back end that can {abilities:?}"));
    }
    if Offload::from_bytes(&offload.to_bytes(), bytes.len()) != Some(Offload { verified: false, ..*offload }) {
        return Some(format!("{offload:?} does not fit {} bytes", bytes.len()));
    }
    // The other side writes the checksum where the card says; any bytes, because the guest chooses what is summed.
    if let Some(sum) = offload.checksum {
        let at = usize::from(sum.start).saturating_add(usize::from(sum.offset));
        let sum = be16(&bytes, at).unwrap_or(0) ^ 0x5aa5;
        put_be16(&mut bytes, at, sum);
    }
    forbidden(&bytes, &nic.rules).map(|what| format!("{what} is sent: {:02x?}", bytes.get(..64).unwrap_or(&bytes)))
}

/// What the rules forbid in this frame, if it is simple enough to be seen here: this is a second opinion, not the filter.
fn forbidden(bytes: &[u8], rules: &NicRules) -> Option<&'static str> {
    let at = |from: usize, to: usize| bytes.get(from..to).unwrap_or_default();
    if rules.mac && at(6, 12) != MAC {
        return Some("another's hardware address");
    }
    let kind = be16(bytes, 12);
    let none = [0; 16];
    if rules.guard || rules.addresses.is_some() {
        match kind {
            None => return Some("a frame without a type"),
            Some(0x8100 | 0x88a8 | 0x9100) => return Some("a tagged frame"),
            _ => {}
        }
    }
    let link = NicAddresses::link_local(MAC).octets();
    match kind {
        Some(0x0800) => {
            let whole = bytes.get(20).is_some_and(|b| b & 0x1f == 0) && bytes.get(21) == Some(&0);
            let above = 14usize.saturating_add(usize::from(bytes.get(14).copied().unwrap_or(0) & 15).saturating_mul(4));
            let (from, to) = (be16(bytes, above), be16(bytes, above.saturating_add(2)));
            let (udp, icmp) = (bytes.get(23) == Some(&17) && whole, bytes.get(23) == Some(&1) && whole);
            if rules.guard && udp && (from == Some(67) || to == Some(68)) {
                return Some("a DHCP server's message");
            }
            if rules.guard && icmp && matches!(bytes.get(above), Some(5 | 9)) {
                return Some("a router's message");
            }
            let asks = at(26, 30) == [0; 4] && udp && (from, to) == (Some(68), Some(67));
            let mine = rules.addresses.as_ref().is_none_or(|a| at(26, 30) == IPV4 && !a.ipv4.is_empty());
            (!mine && !asks).then_some("another's IPv4 address")
        }
        Some(0x86dd) => {
            let (next, first) = (bytes.get(20), bytes.get(54));
            let (from, to) = (be16(bytes, 54), be16(bytes, 56));
            if rules.guard && next == Some(&17) && (from == Some(547) || to == Some(546)) {
                return Some("a DHCPv6 server's message");
            }
            if rules.guard && next == Some(&58) && matches!(first, Some(134 | 137)) {
                return Some("an IPv6 router's message");
            }
            let addresses = rules.addresses.as_ref()?;
            let own = |a: &[u8]| a == link || (a == IPV6.octets() && !addresses.ipv6.is_empty());
            if next == Some(&58) && first == Some(&136) && !own(at(62, 78)) {
                return Some("an advertisement of another's IPv6 address");
            }
            // Some messages have no source.
            let source = at(22, 38);
            (!own(source) && source != none).then_some("another's IPv6 address")
        }
        Some(0x0806) => {
            let ipv4 = &rules.addresses.as_ref()?.ipv4;
            let sender = at(28, 32);
            let mine = sender == [0; 4] || (sender == IPV4 && !ipv4.is_empty());
            (!mine).then_some("another's address in ARP")
        }
        Some(_) if rules.addresses.is_some() => Some("a frame that is neither IP nor ARP"),
        _ => None,
    }
}
