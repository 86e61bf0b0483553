//! Sleep and wake-up without a system call unless the peer sleeps (Dekker's pattern).
//!
//! Publisher: write the data, increment the bell ([`publish`]), fence, read whether the peer sleeps; if so, ring its eventfd.
//! Sleeper: announce sleep ([`may_sleep`]), fence, read the bell again; sleep only if it has not changed.
//! In every interleaving, either the sleeper sees the new bell or the publisher sees the announcement. The
//! model at the end of this file checks all of them (`RUSTFLAGS=--cfg loom cargo test -p bulkhead-ring`).
#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering, fence};

/// Increments the bell after data was written. Returns whether the peer must be rung.
#[must_use]
pub fn publish(bell: &AtomicU32, peer_asleep: &AtomicU32) -> bool {
    // Only this side writes the bell, so load and store need not be one operation.
    bell.store(bell.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    fence(Ordering::SeqCst);
    peer_asleep.load(Ordering::Relaxed) != 0
}

/// Announces sleep. Returns whether sleeping is safe: the peer's bell still is at `seen`, the value that was read
/// before the last search for work. If it returns false, it has withdrawn the announcement.
#[must_use]
pub fn may_sleep(asleep: &AtomicU32, peer_bell: &AtomicU32, seen: u32) -> bool {
    asleep.store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    if peer_bell.load(Ordering::Acquire) == seen {
        return true;
    }
    asleep.store(0, Ordering::Relaxed);
    false
}

/// Withdraws the announcement after waking.
pub fn awake(asleep: &AtomicU32) {
    asleep.store(0, Ordering::Relaxed);
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::{Arc, Notify};
    use loom::thread;

    struct Side {
        bell: AtomicU32,
        data: AtomicU32,
        asleep: AtomicU32,
        eventfd: Notify,
    }

    /// One side publishes `n` items, the other takes them all. A lost wake-up is a deadlock, which loom reports.
    fn one_way(n: u32) {
        loom::model(move || {
            let side = Arc::new(Side {
                bell: AtomicU32::new(0),
                data: AtomicU32::new(0),
                asleep: AtomicU32::new(0),
                eventfd: Notify::new(),
            });
            let publisher = side.clone();
            let handle = thread::spawn(move || {
                for i in 1..=n {
                    publisher.data.store(i, Ordering::Relaxed);
                    if publish(&publisher.bell, &publisher.asleep) {
                        publisher.eventfd.notify();
                    }
                }
            });
            loop {
                let seen = side.bell.load(Ordering::Acquire);
                let got = side.data.load(Ordering::Relaxed);
                if got == n {
                    break;
                }
                if may_sleep(&side.asleep, &side.bell, seen) {
                    side.eventfd.wait();
                    awake(&side.asleep);
                }
            }
            handle.join().unwrap();
        });
    }

    #[test]
    fn one_item_is_never_lost() {
        one_way(1);
    }

    #[test]
    fn two_items_are_never_lost() {
        one_way(2);
    }

    /// A request and its reply, with both sides sleeping: the whole hop.
    #[test]
    fn a_round_trip_always_ends() {
        loom::model(|| {
            let request = Arc::new((AtomicU32::new(0), AtomicU32::new(0), Notify::new()));
            let reply = Arc::new((AtomicU32::new(0), AtomicU32::new(0), Notify::new()));
            let (rq, rp) = (request.clone(), reply.clone());
            let device = thread::spawn(move || {
                loop {
                    let seen = rq.0.load(Ordering::Acquire);
                    if seen == 1 {
                        break;
                    }
                    if may_sleep(&rq.1, &rq.0, seen) {
                        rq.2.wait();
                        awake(&rq.1);
                    }
                }
                if publish(&rp.0, &rp.1) {
                    rp.2.notify();
                }
            });
            if publish(&request.0, &request.1) {
                request.2.notify();
            }
            loop {
                let seen = reply.0.load(Ordering::Acquire);
                if seen == 1 {
                    break;
                }
                if may_sleep(&reply.1, &reply.0, seen) {
                    reply.2.wait();
                    awake(&reply.1);
                }
            }
            device.join().unwrap();
        });
    }
}
