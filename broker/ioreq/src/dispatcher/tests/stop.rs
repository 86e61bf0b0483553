//! A machine that is stopped.
use super::*;

/// The broker went on with a stopped machine's accesses.
#[test]
fn a_stopped_machine_ends_what_it_has_begun_and_begins_nothing() {
    let mut b = Bench::new(2);
    assert!(b.dispatcher.addresses.add(0xa0000, 0x20000, Target::Region { channel: 1, region: 1 }));
    let buffered = |b: &mut Bench| {
        b.dispatcher.edge.buffered.push_back((BufferedIoreq::new().with_kind(1).with_addr(0xa0000), 1));
    };
    // Under way: a read, a write in the buffered ring, and what it becomes.
    b.read(0, 0x103);
    buffered(&mut b);
    b.dispatcher.stop(true);
    b.read(1, 0x103);
    assert!(!b.dispatcher.at_rest() && b.dispatcher.edge.offered[1].is_some(), "not taken");
    assert_eq!(b.answer(0, 5), 1);
    assert_eq!(b.answers(), [(0, Some(5))]);
    assert!(!b.dispatcher.at_rest(), "a posted write is outstanding");
    assert_eq!(b.answer(1, 0), 1);
    assert!(b.dispatcher.at_rest());
    // What a running vCPU still does stays where it is.
    buffered(&mut b);
    b.read(0, 0x103);
    assert_eq!((b.answer(0, 6), b.answer(1, 6), b.answers()), (0, 0, vec![]));
    assert!(b.dispatcher.at_rest() && b.dispatcher.edge.buffered.len() == 1);
    b.dispatcher.stop(false);
    while b.dispatcher.step() {}
    assert_eq!((b.answer(0, 7), b.answer(1, 7)), (2, 1));
    assert_eq!(b.answers(), [(0, Some(7)), (1, Some(7))]);
}

/// A vCPU that never ceases to write kept a stop from its end.
#[test]
fn a_stop_carries_out_one_ring_of_buffered_writes_and_no_more() {
    let mut b = Bench::new(1);
    for i in 0..2000 {
        b.dispatcher.edge.buffered.push_back((BufferedIoreq::new().with_kind(1).with_addr(0xa0000), i));
    }
    b.dispatcher.stop(true);
    while b.dispatcher.step() {}
    assert!(b.dispatcher.at_rest());
    assert_eq!(b.dispatcher.edge.buffered.len(), 2000 - BUFFERED_RING);
    b.dispatcher.stop(false);
    while b.dispatcher.step() {}
    assert!(b.dispatcher.edge.buffered.is_empty());
}
