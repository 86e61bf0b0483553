//! Strangers, the connections whose handshake is not complete: how many there may be, whom a newcomer replaces, when each answer to a
//! challenge is judged, and what the server remembers of addresses. Nothing here has a socket or reads a clock.
//!
//! What holds, whatever attackers do (decision 20 has the reasons, `strangers/tests.rs` the proofs):
//!
//! * Answers are judged one at a time, at least [`INTERVAL`] apart, right ones and wrong ones alike.
//! * Nobody loses the place to a newcomer who is typing a password or has answered, or whose program has answered in time.
//! * An answer is judged within [`STRANGERS`] intervals, and later only by the delay of an address that has guessed wrong.
//! * Addresses with n failures get at most 16 / 2^n places together, at least 2, so that they leave places to others.
use bulkhead_bus::ViewerAddress;
use std::net::{IpAddr, Ipv4Addr};

/// Nanoseconds between two verdicts of the whole server.
pub(super) const INTERVAL: u64 = 1_000_000_000;
/// Most strangers, and most of one address.
pub(super) const STRANGERS: usize = 16;
pub(super) const AT_ONE_ADDRESS: usize = 4;
/// From so many strangers on, who leaves without having entered has failed. Fewer hold up nobody: they may be a monitor's probes.
pub(super) const CROWD: usize = STRANGERS / 2;
/// Failures from which on an address has the fewest places and the longest delay.
const MOST_FAILURES: u32 = 3;
/// Nanoseconds that a viewer's program has for its step of the handshake before a newcomer may take its place.
pub(super) const GRACE: u64 = 2_000_000_000;
/// Nanoseconds from a wrong answer to the next verdict for the same address: the first value, doubled with each one, up to the last.
const DELAY: (u64, u64) = (1_000_000_000, 8_000_000_000);
/// Most addresses that are remembered, and the nanoseconds after the last failure when one is forgotten.
pub(super) const REMEMBERED: usize = 512;
pub(super) const FORGOTTEN: u64 = 3_600_000_000_000;

/// What counts as one address: of IPv6 the first 64 bits, because the rest is the client's own choice. All clients of a Unix socket
/// are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Unix,
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl From<ViewerAddress> for Origin {
    fn from(address: ViewerAddress) -> Self {
        match address {
            ViewerAddress::Unix => Self::Unix,
            // A socket of both families has IPv4 clients as ::ffff:a.b.c.d, which share 64 bits.
            ViewerAddress::Tcp(at) => match at.ip().to_canonical() {
                IpAddr::V4(ip) => Self::V4(ip),
                IpAddr::V6(ip) => {
                    let [a, b, c, d, ..] = ip.segments();
                    Self::V6([a, b, c, d])
                }
            },
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Record {
    origin: Origin,
    /// Wrong answers, and connections that left a crowd without having entered.
    wrong: u32,
    left: u32,
    /// Times of the last failure and of the last wrong answer, in nanoseconds.
    last: u64,
    last_wrong: u64,
}

impl Record {
    fn failures(&self) -> u32 {
        self.wrong.saturating_add(self.left)
    }
}

/// How somebody failed to enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// By a wrong answer.
    Wrong,
    /// By leaving a crowd of strangers, or by being replaced or timed out in it.
    Left,
}

/// The failures of addresses. A full table forgets the address with the fewest: an attacker loses the record of an address only if
/// [`REMEMBERED`] others have failed as often.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    records: Vec<Record>,
}

impl Addresses {
    fn record(&self, origin: Origin, now: u64) -> Option<&Record> {
        self.records.iter().find(|r| r.origin == origin).filter(|r| now.saturating_sub(r.last) < FORGOTTEN)
    }

    /// Failures of an address that are not forgotten.
    pub(super) fn failures(&self, origin: Origin, now: u64) -> u32 {
        self.record(origin, now).map_or(0, Record::failures)
    }

    /// The time, in nanoseconds, before which no answer from this address is judged.
    pub(super) fn delayed_until(&self, origin: Origin, now: u64) -> u64 {
        let (first, last) = DELAY;
        self.record(origin, now).filter(|r| r.wrong > 0).map_or(0, |r| {
            let doubled = first.checked_shl(r.wrong.saturating_sub(1).min(MOST_FAILURES)).unwrap_or(last);
            r.last_wrong.saturating_add(doubled.min(last))
        })
    }

    /// Notes a failure.
    pub(super) fn failed(&mut self, origin: Origin, how: Failure, now: u64) {
        self.records.retain(|r| now.saturating_sub(r.last) < FORGOTTEN);
        let known = self.records.iter().position(|r| r.origin == origin);
        let mut record = known
            .map_or(Record { origin, wrong: 0, left: 0, last: 0, last_wrong: 0 }, |at| self.records.swap_remove(at));
        record.last = now;
        match how {
            Failure::Wrong => (record.wrong, record.last_wrong) = (record.wrong.saturating_add(1), now),
            Failure::Left => record.left = record.left.saturating_add(1),
        }
        if self.records.len() >= REMEMBERED {
            let least = self.records.iter().enumerate().min_by_key(|(_, r)| (r.failures(), r.last)).map(|(at, _)| at);
            least.map(|at| self.records.swap_remove(at));
        }
        self.records.push(record);
    }

    /// Forgets an address: somebody has entered from there.
    pub(super) fn entered(&mut self, origin: Origin) {
        self.records.retain(|r| r.origin != origin);
    }

    /// Number of addresses that are remembered.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}

/// A stranger as far as its place and its verdict are concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stranger {
    /// Connections are numbered in their order.
    pub(super) number: u64,
    pub(super) origin: Origin,
    /// Failures of its address.
    pub(super) failures: u32,
    pub(super) progress: Progress,
}

/// How far a stranger has come in the handshake. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has sent nothing since it connected at this time.
    Mute(u64),
    /// It has done a step at this time, and the next one is its program's.
    Stepped(u64),
    /// It has a challenge: somebody may be typing a password.
    Typing,
    /// It has answered the challenge at this time.
    Answered(u64),
}

impl Progress {
    /// The time since when it owes a step that needs nobody's fingers.
    fn silent_since(self) -> Option<u64> {
        match self {
            Self::Mute(since) | Self::Stepped(since) => Some(since),
            Self::Typing | Self::Answered(_) => None,
        }
    }
}

/// What happens to a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// There is a place.
    Free,
    /// It takes the place of the stranger with this number.
    Replaces(u64),
    /// There is none.
    TurnedAway,
}

/// Finds a place for a newcomer from `origin`, whose address has failed `failures` times.
pub(super) fn admit(origin: Origin, failures: u32, strangers: &[Stranger], now: u64) -> Admission {
    let oldest = |of: &mut dyn Iterator<Item = &Stranger>| {
        of.map(|s| s.number).min().map_or(Admission::TurnedAway, Admission::Replaces)
    };
    let of = |origin: Origin| strangers.iter().filter(move |s| s.origin == origin);
    let late = |s: &Stranger| s.progress.silent_since().is_some_and(|since| now.saturating_sub(since) >= GRACE);
    if of(origin).count() >= AT_ONE_ADDRESS {
        // Within one address the newest counts: connections that never say anything must not keep the next one out.
        return oldest(&mut of(origin).filter(|s| late(s) || matches!(s.progress, Progress::Mute(_))));
    }
    // Those with fewer failures have the better claim.
    let with = |failures: u32| strangers.iter().filter(move |s| s.failures >= failures);
    if (0..=failures.min(MOST_FAILURES)).all(|least| with(least).count() < places(least)) {
        return Admission::Free;
    }
    let rivals = || with(failures);
    let most = rivals().filter(|s| late(s)).map(|s| of(s.origin).count()).max();
    oldest(&mut rivals().filter(|s| late(s) && Some(of(s.origin).count()) == most))
}

/// Most strangers from addresses with so many failures or more.
pub(super) fn places(failures: u32) -> usize {
    STRANGERS.checked_shr(failures.min(MOST_FAILURES)).unwrap_or(1)
}

/// The stranger whose answer is judged next, and the earliest time for it apart from [`INTERVAL`]. Who is due first is first, so that
/// nobody who comes later delays a verdict that is due.
pub(super) fn next_verdict(strangers: &[Stranger], addresses: &Addresses, now: u64) -> Option<(u64, u64)> {
    let due = |s: &Stranger| match s.progress {
        Progress::Answered(at) => Some((at.max(addresses.delayed_until(s.origin, now)), at, s.number)),
        _ => None,
    };
    strangers.iter().filter_map(due).min().map(|(due, _, number)| (due, number))
}

#[cfg(test)]
mod tests;
