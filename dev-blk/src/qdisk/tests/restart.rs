//! A process that takes over from one that died, and hostile rings.
use super::*;

#[test]
fn unanswered_requests_of_a_dead_process_are_executed_by_the_next() {
    let mut bed = bed(Layout::X86_64, true, WRITABLE);
    *bed.go.lock().unwrap() = 1;
    for id in 0..6u8 {
        bed.guest.write(100 + u32::from(id), 0, &[id + 1; 512]);
        bed.guest.ask(op::WRITE, u64::from(id), u64::from(id), &[(100 + u32::from(id), 0, 0)]);
    }
    bed.signal();
    let answered = bed.guest.answers(0).len();
    assert!(answered < 6);
    let (world, range) = (bed.guest.world.clone(), bed.guest.range.clone());
    // Its mappings end with it.
    Fake(world.clone(), range.clone()).unmap();
    let notified = world.lock().unwrap().notified;
    let (mut next, ..) = disk(&world, &range, &bed.file, WRITABLE);
    let mut cx = fake::context(0);
    cx.marks.after(PORT, 117);
    next.start(&mut cx);
    // As the event loop does, before the process enters its sandbox.
    cx.marks.forget();
    assert_eq!(world.lock().unwrap().adopted, None);
    next.poll(Ready::Again, &mut cx);
    for _ in 0..10 {
        next.poll(Ready::Fd(JOBS), &mut cx);
    }
    assert_eq!(bed.guest.answers(0), (0..6).map(|id| (id, 0)).collect::<Vec<_>>());
    assert_eq!((0..6).map(|i| bed.sector(i)[0]).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let adopted = world.lock().unwrap().adopted;
    assert_eq!((adopted, bed.guest.state().as_str()), (Some(117), "4"));
    assert!(world.lock().unwrap().notified > notified, "the guest may have slept through an answer");
}

/// The guest's driver ends its connection and connects again.
fn reconnect(bed: &mut Bed) {
    for (there, here) in [("5", "5"), ("6", "6"), ("1", "2")] {
        bed.guest.node("state", there);
        bed.nodes();
        assert_eq!(bed.guest.state(), here);
    }
    bed.guest.node("state", "3");
    bed.nodes();
}

#[test]
fn a_guest_connects_again_and_again_over_lives_that_map_no_more_than_they_may() {
    let mut bed = bed(Layout::X86_64, true, WRITABLE);
    let mut lives = 1;
    for round in 0..100u32 {
        for id in 0..90 {
            bed.guest.write(100 + id, 0, &[round as u8; 512]);
            bed.guest.ask(op::WRITE, u64::from(id), u64::from(id), &[(100 + id, 0, 0)]);
            bed.signal();
        }
        let answers = bed.guest.answers(90 * round);
        assert!(answers.len() == 90 && answers.iter().all(|(_, status)| *status == 0), "round {round}");
        assert_eq!((bed.sector(89)[0], bed.disk.counters.copied), (round as u8, 0), "all pages are mapped");
        reconnect(&mut bed);
        let (world, range) = (bed.guest.world.clone(), bed.guest.range.clone());
        if world.lock().unwrap().ended {
            assert_eq!(bed.guest.state(), "2", "it has not connected");
            {
                let mut world = world.lock().unwrap();
                assert!(world.used <= means::QDISK.life && world.mapped.is_empty());
                (world.used, world.spent, world.ended) = (0, false, false);
            }
            bed.disk = disk(&world, &range, &bed.file, WRITABLE).0;
            bed.cx = fake::context(0);
            bed.disk.start(&mut bed.cx);
            bed.disk.poll(Ready::Again, &mut bed.cx);
            lives += 1;
        }
        assert_eq!(bed.guest.state(), "4", "round {round}");
    }
    assert_eq!(lives, 100 * 91 / (means::QDISK.life - means::QDISK.connection) + 1);
}

#[test]
fn a_disk_copies_what_it_may_not_map_any_more() {
    let mut bed = bed(Layout::X86_64, true, WRITABLE);
    bed.guest.world.lock().unwrap().used = means::QDISK.life - 1;
    for id in 0..3u32 {
        bed.guest.write(100 + id, 0, &[7; 512]);
        bed.guest.ask(op::WRITE, u64::from(id), u64::from(id), &[(100 + id, 0, 0)]);
        bed.signal();
    }
    assert_eq!(bed.guest.answers(0), [(0, 0), (1, 0), (2, 0)]);
    assert_eq!((bed.sector(2)[0], bed.disk.pages.len(), bed.disk.counters.copied), (7, 1, 2));
    // Until the guest connects again.
    reconnect(&mut bed);
    assert!(bed.guest.world.lock().unwrap().ended);
}

/// Bytes of an entry, its operation, how far the counter goes ahead, whether the entry is made almost valid, and the front end's
/// state.
fn round() -> impl Strategy<Value = (Vec<u8>, u8, u32, bool, u8)> {
    (proptest::collection::vec(any::<u8>(), 112), 0..8u8, 0..40u32, any::<bool>(), 0..7u8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// With any ring, counters, descriptions of segments and nodes: no panic, no access outside of the pages (the fake checks
    /// that), no write beyond the disk's end, and at most one answer for each request.
    #[test]
    fn hostile_rings_are_survived(
        persistent in any::<bool>(),
        wide in any::<bool>(),
        rounds in proptest::collection::vec(round(), 1..40),
    ) {
        let mut bed = bed(if wide { Layout::X86_64 } else { Layout::X86_32 }, persistent, WRITABLE);
        for (mut entry, op, ahead, small, state) in rounds {
            entry[0] = op;
            if small {
                // Close to a valid entry.
                entry[1] %= 12;
                for at in (28..108).step_by(4) {
                    let gref = u32::from(100 + entry[at] % 100);
                    entry[at..at + 4].copy_from_slice(&gref.to_le_bytes());
                }
                entry[13..24].fill(0);
            }
            let counter = bed.guest.number(ring::REQ_PROD);
            let size = bed.guest.layout.entry();
            bed.guest.write(RING, ring::ENTRIES + (counter % 32) as usize * size, &entry[..size]);
            bed.guest.write(199, 0, &entry);
            bed.guest.write(RING, ring::REQ_PROD, &counter.wrapping_add(if ahead < 38 { 1 } else { ahead }).to_le_bytes());
            if ahead == 37 {
                bed.guest.node("state", &state.to_string());
                bed.nodes();
            }
            bed.signal();
            prop_assert!(bed.disk.flights.len() <= IN_FLIGHT);
            prop_assert_eq!(rustix::fs::fstat(&bed.file).unwrap().st_size as u64, SECTORS * SECTOR);
        }
    }
}
