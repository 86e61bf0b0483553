//! A card's port: the path of a frame between descriptors and back end, which all cards share. Filter, link, queues in both
//! directions, offloads that the back end does not do, loopback.
use crate::announce;
use crate::backend::{Backend, Sent};
use crate::capture::Capture;
use crate::dhcp::{self, Answer};
use crate::filter::Filter;
use crate::frame::Frame;
use crate::offload;
use bulkhead_bus::nic::{NicLease, NicSettings};
use bulkhead_bus::{Context, Inspect, TimerId};
use rustix::fd::OwnedFd;
use std::collections::VecDeque;
use std::net::Ipv4Addr;

/// Bytes of the shortest frame on a wire, without its frame check sequence (IEEE 802.3, 4.4.2).
pub(crate) const SHORTEST: usize = 60;
/// Most frames that are handled before other work.
const BUDGET: usize = 64;
/// Most queued frames of a card in loopback; more are lost.
const LOOPED: usize = 64;
/// Nanoseconds until a full back end is tried again.
const FULL: u64 = 1_000_000;
/// Most frames queued for a full back end: the segments of the largest frame. Beyond it the oldest are lost.
const MOST: usize = 1200;

/// The destination of a frame of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The back end.
    Cable,
    /// Only the card itself.
    Loopback,
}

/// The part of a card that stores frames in guest memory.
pub(crate) trait Receiver {
    /// The card's port.
    fn port(&mut self) -> &mut Port;
    /// Whether the receiver is enabled; if not, arriving frames are lost.
    fn receiver_enabled(&self) -> bool;
    /// Whether the card may have room for a frame.
    fn has_room(&self) -> bool {
        true
    }
    /// Stores a frame in guest memory. `Err`: it does not fit now.
    fn deliver(&mut self, frame: Frame, cx: &mut Context) -> Result<(), Frame>;
}

/// Delivers arrived frames, as long as they fit.
pub(crate) fn receive(card: &mut impl Receiver, cx: &mut Context) {
    for _ in 0..BUDGET {
        if !card.receiver_enabled() {
            // Arriving frames are discarded, so that the guest does not get stale ones later.
            if !card.port().discard() {
                return;
            }
            continue;
        }
        if !card.port().waits() && (!card.has_room() || !card.port().fetch()) {
            return;
        }
        let Some(frame) = card.port().waiting.pop_front() else { continue };
        if let Err(frame) = card.deliver(frame, cx) {
            card.port().waiting.push_front(frame);
            return;
        }
    }
    cx.again();
}

/// The card's network port: link, rules, and back end.
pub(crate) struct Port {
    /// `None` once the guest has unplugged the card.
    backend: Option<Box<dyn Backend>>,
    filter: Filter,
    cable: bool,
    /// Frames that wait because the back end is full.
    out: VecDeque<Frame>,
    /// Frames that wait for free descriptors: segments of one frame, or frames in loopback.
    waiting: VecDeque<Frame>,
    /// Number of frames that the back end has refused.
    lost: u64,
    capture: Option<Capture>,
    /// The lease with which the guest's DHCP requests are answered.
    lease: Option<NicLease>,
    /// The card's timer after which a full back end is tried again.
    retry: TimerId,
    mac: [u8; 6],
    /// How often the card's place was announced since the guest came here.
    announced: usize,
    /// The card's timer for that.
    announce: TimerId,
}

/// The card's timers that its port uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    /// A full back end is tried again.
    pub(crate) retry: TimerId,
    /// The card's place is announced again.
    pub(crate) announce: TimerId,
}

impl Port {
    /// A port for a card with this address.
    pub(crate) fn new(mac: [u8; 6], backend: Box<dyn Backend>, settings: &NicSettings, timers: Timers) -> Self {
        Self {
            backend: Some(backend),
            filter: Filter::new(mac, &settings.rules),
            cable: settings.link,
            out: VecDeque::new(),
            waiting: VecDeque::new(),
            lost: 0,
            capture: None,
            lease: None,
            retry: timers.retry,
            mac,
            announced: announce::PAUSES.len(),
            announce: timers.announce,
        }
    }

    /// Begins to announce the card's place: the guest goes on here.
    pub(crate) fn arrived(&mut self, cx: &mut Context) {
        self.announced = 0;
        self.announce(cx);
    }

    /// Announces it, and sets the timer for the next time.
    pub(crate) fn announce(&mut self, cx: &mut Context) {
        if self.announced >= announce::PAUSES.len() || self.is_unplugged() {
            return;
        }
        let only = self.filter.rules().addresses.as_ref();
        let only = only.map(|all| all.ipv4.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED));
        let frame = Frame { bytes: announce::frame(self.mac, only), ..Frame::default() };
        self.send(frame, Way::Cable, true, cx);
        self.announced = self.announced.saturating_add(1);
        let next = announce::PAUSES.get(self.announced).map(|pause| cx.now().saturating_add(*pause));
        cx.timers.set(self.announce, next);
    }

    /// Whether the settings connect the link.
    pub(crate) fn cable(&self) -> bool {
        self.cable
    }

    /// Applies new settings. Returns whether the link has changed.
    pub(crate) fn set(&mut self, settings: &NicSettings) -> bool {
        if *self.filter.rules() != settings.rules {
            // What waits has passed the rules before.
            self.lost = self.lost.saturating_add(self.out.len() as u64);
            self.out.clear();
        }
        self.filter.set(&settings.rules);
        let moved = self.cable != settings.link;
        self.cable = settings.link;
        if moved {
            // Frames that were queued at the disconnection are not delivered later.
            self.clear();
        }
        moved
    }

    /// Starts a capture to a pipe, or stops it.
    pub(crate) fn capture(&mut self, to: Option<OwnedFd>) {
        self.capture = to.map(Capture::new);
    }

    /// Closes the back end and the capture, after the guest has unplugged the card.
    pub(crate) fn unplug(&mut self) {
        self.backend = None;
        self.capture = None;
        self.cable = false;
        self.clear();
    }

    /// Whether the guest has unplugged the card.
    pub(crate) fn is_unplugged(&self) -> bool {
        self.backend.is_none()
    }

    /// Sets the lease with which the guest's DHCP requests are answered.
    pub(crate) fn set_lease(&mut self, lease: Option<NicLease>) {
        self.lease = lease;
    }

    /// Discards the queued frames of both directions.
    pub(crate) fn clear(&mut self) {
        self.out.clear();
        self.waiting.clear();
    }

    /// Number of frames that wait for free descriptors, and for the back end.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.waiting.len(), self.out.len())
    }

    /// Sends a frame of the guest, after the offloads that the back end does not do. With `pad`, short frames are padded to the
    /// shortest length on a wire.
    pub(crate) fn send(&mut self, mut frame: Frame, way: Way, pad: bool, cx: &mut Context) {
        let loopback = way == Way::Loopback;
        // The rules must see the frame as it will be on the wire.
        if let Some(partial) = frame.offload.checksum.filter(|p| !loopback && !offload::in_place(&frame.bytes, *p)) {
            offload::complete(&mut frame.bytes, partial);
            frame.offload.checksum = None;
        }
        if !loopback && (!self.cable || (self.filter.is_on() && !self.filter.pass(&frame.bytes, cx.now()))) {
            return;
        }
        match self.lease.as_ref().filter(|_| !loopback).map(|lease| dhcp::answer(&frame.bytes, lease)) {
            None | Some(Answer::Other) => {}
            Some(Answer::Silence) => return,
            Some(Answer::Frame(bytes)) => {
                let frame = Frame { bytes, ..Frame::default() };
                self.captured(&frame);
                if self.waiting.len() < LOOPED {
                    self.waiting.push_back(frame);
                }
                cx.again();
                return;
            }
        }
        let can = self.backend.as_ref().map(|b| b.abilities()).unwrap_or_default();
        let left = !loopback
            && (frame.offload.segmentation.is_none() || can.segmentation)
            && (frame.offload.checksum.is_none() || can.checksum);
        for mut frame in if left { vec![frame] } else { offload::finish(frame) } {
            if pad && frame.bytes.len() < SHORTEST {
                frame.bytes.resize(SHORTEST, 0);
            }
            if !loopback {
                self.captured(&frame);
                self.out.push_back(frame);
            } else if self.waiting.len() < LOOPED {
                self.waiting.push_back(frame);
            }
        }
        while self.out.len() > MOST {
            self.out.pop_front();
            self.lost = self.lost.saturating_add(1);
        }
        self.flush(cx);
        if loopback {
            cx.again();
        }
    }

    /// Sends queued frames. Returns whether all have been sent.
    pub(crate) fn flush(&mut self, cx: &mut Context) -> bool {
        let Some(backend) = &mut self.backend else { return true };
        while let Some(frame) = self.out.front() {
            match backend.send(frame) {
                Sent::Done => {}
                Sent::Lost => self.lost = self.lost.saturating_add(1),
                Sent::Full => {
                    cx.timers.set(self.retry, Some(cx.now().saturating_add(FULL)));
                    return false;
                }
            }
            self.out.pop_front();
        }
        if backend.pending() {
            cx.timers.set(self.retry, Some(cx.now().saturating_add(FULL)));
        }
        true
    }

    /// Whether no frame waits for the back end.
    pub(crate) fn is_idle(&self) -> bool {
        self.out.is_empty()
    }

    fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Receives a frame from the back end and completes its offloads; false if there is none.
    fn fetch(&mut self) -> bool {
        let Some(frame) = self.backend.as_mut().and_then(|b| b.receive()) else { return false };
        self.captured(&frame);
        self.waiting.extend(offload::finish(frame));
        true
    }

    /// Discards queued frames and one arrived frame; false if none has arrived.
    fn discard(&mut self) -> bool {
        self.waiting.clear();
        self.backend.as_mut().is_some_and(|b| b.receive().is_some())
    }

    fn captured(&mut self, frame: &Frame) {
        if self.capture.as_mut().is_some_and(|c| !c.record(&frame.bytes)) {
            self.capture = None;
        }
    }

    /// Each rule's name, and the number of frames that it has dropped.
    pub(crate) fn dropped(&self) -> Vec<(&'static str, u64)> {
        self.filter.dropped().map(|(rule, n)| (rule.name(), n)).collect()
    }

    pub(crate) fn inspect(&self, out: &mut Inspect) {
        out.value("cable", self.cable).value("unplugged", self.is_unplugged());
        out.value("frames that the other side did not take", self.lost).value("frames that wait", self.waiting.len());
        out.value("frames that a capture has missed", self.capture.as_ref().map_or(0, Capture::missed));
        out.value("filter", self.filter.rules());
        out.group("dropped", |out| {
            for (rule, n) in self.dropped() {
                out.value(rule, n);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Abilities, Cable};
    use crate::frame::{Offload, Partial};
    use bulkhead_bus::fake::FakeMemory;
    use bulkhead_bus::nic::{NicAddresses, NicRules};

    const MAC: [u8; 6] = [2, 0x16, 0x3e, 0, 0, 1];

    fn frame(source: [u8; 6]) -> Frame {
        Frame { bytes: [&[0xff; 6][..], &source, &[8, 0], &[0; 50]].concat(), ..Frame::default() }
    }

    /// A card with room for two frames.
    struct Card(Port, Vec<Frame>);

    impl Receiver for Card {
        fn port(&mut self) -> &mut Port {
            &mut self.0
        }
        fn receiver_enabled(&self) -> bool {
            self.0.cable()
        }
        fn deliver(&mut self, frame: Frame, _: &mut Context) -> Result<(), Frame> {
            if self.1.len() >= 2 {
                Err(frame)
            } else {
                self.1.push(frame);
                Ok(())
            }
        }
    }

    fn card(cable: &Cable) -> (Card, Context) {
        let port = Port::new(MAC, Box::new(cable.clone()), &NicSettings::default(), Timers { retry: 7, announce: 8 });
        (Card(port, Vec::new()), Context::new(FakeMemory::new(4096)))
    }

    #[test]
    fn a_cable_that_was_pulled_gives_nothing_back_later() {
        let cable = Cable::new(Abilities::default(), 1);
        let (mut c, mut cx) = card(&cable);
        for _ in 0..3 {
            c.0.send(frame(MAC), Way::Cable, true, &mut cx);
            cable.put(frame([2; 6]));
        }
        receive(&mut c, &mut cx);
        assert_eq!((c.1.len(), c.0.waiting()), (2, (1, 2)));
        let down = NicSettings { link: false, ..NicSettings::default() };
        assert!(c.0.set(&down) && !c.0.set(&down));
        cable.put(frame([2; 6]));
        receive(&mut c, &mut cx);
        assert!(cable.take().is_some(), "it went before");
        c.0.send(frame(MAC), Way::Cable, true, &mut cx);
        assert!(cable.take().is_none(), "the cable is out");
        assert!(c.0.set(&NicSettings::default()));
        c.1.clear();
        receive(&mut c, &mut cx);
        assert!(c.0.flush(&mut cx) && cable.take().is_none() && c.1.is_empty());
    }

    #[test]
    fn rules_that_are_set_later_hold_from_then_on() {
        let cable = Cable::new(Abilities::default(), 0);
        let (mut c, mut cx) = card(&cable);
        c.0.send(frame([2; 6]), Way::Cable, true, &mut cx);
        assert!(cable.take().is_some());
        c.0.set(&NicSettings { link: true, rules: NicRules { mac: true, ..NicRules::default() } });
        c.0.send(frame([2; 6]), Way::Cable, true, &mut cx);
        assert!(cable.take().is_none());
        let mut out = Inspect::default();
        c.0.inspect(&mut out);
        assert!(out.items.iter().any(|(n, v)| n.contains("source MAC") && v == "1"), "{:?}", out.items);
    }

    /// A guest that was moved to another host would be unreachable until it sends something by itself.
    #[test]
    fn a_guest_that_comes_from_elsewhere_is_announced_under_its_rules() {
        let addresses = |ipv4| Some(NicAddresses { ipv4, ipv6: Vec::new() });
        let ip = std::net::Ipv4Addr::new(10, 0, 0, 5);
        let rules = |addresses| NicRules { mac: true, guard: true, addresses, rate: None };
        let said = |rules: NicRules, link: bool| {
            let cable = Cable::new(Abilities::default(), 9);
            let (mut c, mut cx) = card(&cable);
            c.0.set(&NicSettings { link, rules });
            c.0.announce(&mut cx);
            assert!(cable.take().is_none(), "it has not moved");
            c.0.arrived(&mut cx);
            for _ in 0..9 {
                c.0.announce(&mut cx);
            }
            std::iter::from_fn(|| cable.take()).map(|frame| frame.bytes).collect::<Vec<_>>()
        };
        for (rules, kind) in [
            (NicRules::default(), [0x80, 0x35]),
            (rules(None), [0x80, 0x35]),
            (rules(addresses(vec![ip])), [8, 6]),
            (rules(addresses(Vec::new())), [8, 6]),
        ] {
            let frames = said(rules.clone(), true);
            assert_eq!(frames.len(), announce::PAUSES.len(), "{rules:?}");
            for frame in frames {
                assert_eq!((&frame[..6], &frame[6..12], &frame[12..14]), (&[0xff; 6][..], &MAC[..], &kind[..]));
                assert_eq!(frame.len(), SHORTEST);
            }
            assert!(said(rules, false).is_empty(), "the cable is out");
        }
    }

    #[test]
    fn an_unplugged_card_releases_its_cable() {
        let cable = Cable::new(Abilities::default(), 0);
        let (mut c, mut cx) = card(&cable);
        cable.put(frame([2; 6]));
        c.0.unplug();
        c.0.send(frame(MAC), Way::Cable, true, &mut cx);
        receive(&mut c, &mut cx);
        assert!(c.0.is_unplugged() && cable.take().is_none() && c.1.is_empty());
    }

    #[test]
    fn frames_that_wait_do_not_go_under_later_rules() {
        let cable = Cable::new(Abilities::default(), 1);
        let (mut c, mut cx) = card(&cable);
        for _ in 0..2 {
            c.0.send(frame([2; 6]), Way::Cable, true, &mut cx);
        }
        assert!(cable.take().is_some());
        c.0.set(&NicSettings { link: true, rules: NicRules { mac: true, ..NicRules::default() } });
        assert!(c.0.flush(&mut cx) && cable.take().is_none(), "it has another's address");
    }

    /// Rules saw a frame's own addresses; then the checksum, whose place the guest names, was written over them.
    #[test]
    fn spoofing_by_a_checksum_in_a_place_of_its_own() {
        let mut udp = frame(MAC).bytes;
        udp.truncate(14);
        udp.extend([
            0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 5, 10, 0, 0, 1, 0x13, 0x88, 0, 53, 0, 26, 0, 0,
        ]);
        udp.resize(60, 0x11);
        let addresses = NicAddresses { ipv4: vec![[10, 0, 0, 5].into()], ipv6: Vec::new() };
        let rules = NicRules { mac: true, guard: true, addresses: Some(addresses), rate: None };
        for checksum in [true, false] {
            let cable = Cable::new(Abilities { checksum, segmentation: false }, 0);
            let (mut c, mut cx) = card(&cable);
            c.0.set(&NicSettings { link: true, rules: rules.clone() });
            let mut passed = Vec::new();
            for place in 0u16..58 {
                // The sum begins at the field, so the guest chooses it by any bytes behind.
                for start in [place, 34.min(place)] {
                    let checksum = Some(Partial { start, offset: place - start });
                    let frame = Frame { bytes: udp.clone(), offload: Offload { checksum, ..Offload::default() } };
                    c.0.send(frame, Way::Cable, true, &mut cx);
                    if let Some(mut frame) = cable.take() {
                        if let Some(partial) = frame.offload.checksum {
                            assert_eq!((partial.start, partial.offset), (34, 6), "only UDP's own is left to the host");
                            offload::complete(&mut frame.bytes, partial);
                        }
                        assert_eq!(
                            (&frame.bytes[6..12], &frame.bytes[26..30]),
                            (&MAC[..], &[10, 0, 0, 5][..]),
                            "{place}"
                        );
                        assert!(frame.bytes[34..38] != [0, 67, 0, 68], "{place}");
                        passed.push(place);
                    }
                }
            }
            assert!(passed.contains(&40) && passed.contains(&0) && !passed.contains(&8) && !passed.contains(&26));
        }
    }

    #[test]
    fn a_flood_to_oneself_is_bounded() {
        let cable = Cable::new(Abilities::default(), 0);
        let (mut c, mut cx) = card(&cable);
        for _ in 0..1000 {
            c.0.send(frame(MAC), Way::Loopback, true, &mut cx);
        }
        assert_eq!(c.0.waiting(), (LOOPED, 0));
    }
}
