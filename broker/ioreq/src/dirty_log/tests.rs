//! What Xen is told of pages that devices write.
use super::*;
use crate::dispatcher::tests::Bench;
use bulkhead_bus::fake::FakeMemory;
use bulkhead_plan::{BROKER, FIRST_DEVICE};
use proptest::prelude::*;

/// A machine with 64 pages of memory, and the maps of its broker and of a device.
fn logged() -> (Bench, Arc<DirtyMap>, Arc<DirtyMap>) {
    let mut bench = Bench::new(1);
    let map = || Arc::new(DirtyMap::map(DirtyMap::create(1 << 20).unwrap()).unwrap());
    let (own, devices) = (map(), map());
    bench.dispatcher.logs(vec![(FIRST_DEVICE, devices.clone()), (BROKER, own.clone())]);
    bench.dispatcher.memory = FakeMemory::new(64 << 12);
    (bench, own, devices)
}

#[test]
fn xen_is_told_what_was_written_since_the_log_is_on_and_all_of_it_before_the_state() {
    let (mut bench, own, devices) = logged();
    devices.mark(7, 1);
    bench.dispatcher.tick();
    assert!(bench.dispatcher.edge.modified.is_empty(), "the log is off");
    assert!(!bench.dispatcher.outstanding());
    bench.dispatcher.log_dirty(true);
    assert!(bench.dispatcher.outstanding(), "the tick goes on");
    devices.mark(9, 2);
    own.mark(1 << 19, 1);
    bench.dispatcher.tick();
    assert_eq!(bench.dispatcher.edge.modified, BTreeSet::from([9, 10, 1 << 19]), "and nothing from before");
    devices.mark(0, 100_000);
    bench.dispatcher.save().unwrap();
    assert_eq!(bench.dispatcher.edge.modified.len(), 100_001);
    assert_eq!(bench.dispatcher.dirty.told, 100_003);
    bench.dispatcher.log_dirty(false);
    devices.mark(1 << 18, 1);
    bench.dispatcher.tick();
    bench.dispatcher.save().unwrap();
    assert_eq!(bench.dispatcher.edge.modified.len(), 100_001);
}

/// A tick may not hold the guest's accesses up, whatever a hostile device marks.
#[test]
fn a_tick_tells_a_bounded_number_of_pages() {
    let (mut bench, _, devices) = logged();
    bench.dispatcher.log_dirty(true);
    for page in (0..1 << 20).step_by(2) {
        devices.mark(page, 1);
    }
    bench.dispatcher.edge.calls.clear();
    bench.dispatcher.tick();
    assert_eq!(bench.dispatcher.edge.modified.len(), WORDS * 32);
    assert_eq!(bench.dispatcher.edge.calls.len(), WORDS * 32 / EXTENTS);
    bench.dispatcher.save().unwrap();
    assert_eq!(bench.dispatcher.edge.modified.len(), 1 << 19, "nothing is lost");
}

/// Xen does not take the last page of a guest that was restored: found by reading xen/arch/x86/hvm/dm.c.
#[test]
fn a_page_that_xen_takes_no_mark_of_travels_with_the_state() {
    let (mut bench, _, devices) = logged();
    bench.dispatcher.log_dirty(true);
    bench.dispatcher.edge.highest = 63;
    let page = |byte: u8| vec![byte; 4096];
    bench.dispatcher.memory.write(63 << 12, &page(1)).unwrap();
    devices.mark(10, 1);
    devices.mark(40, 30);
    bench.dispatcher.tick();
    let told: BTreeSet<u64> = [10].into_iter().chain(40..63).collect();
    assert_eq!(bench.dispatcher.edge.modified, told);
    // What it has at the end, and none that the guest has not.
    bench.dispatcher.memory.write(63 << 12, &page(2)).unwrap();
    devices.mark(64, 2);
    let state = bench.dispatcher.save().unwrap();
    assert_eq!(bench.dispatcher.edge.modified, told);
    let (mut new, ..) = logged();
    new.dispatcher.load(&state).unwrap();
    let mut bytes = page(0);
    new.dispatcher.memory.read(63 << 12, &mut bytes).unwrap();
    assert_eq!(bytes, page(2));
}

#[test]
fn a_state_is_refused_when_the_copy_would_not_be_the_guests_memory() {
    let (mut bench, _, devices) = logged();
    devices.note(1 << 40, 1);
    assert!(bench.dispatcher.save().is_ok(), "the log is off");
    bench.dispatcher.log_dirty(true);
    assert!(bench.dispatcher.save().is_ok(), "that was before");
    devices.note(1 << 40, 1);
    assert_eq!(bench.dispatcher.save(), Err(SaveError::Beyond));
    bench.dispatcher.log_dirty(true);
    assert!(bench.dispatcher.save().is_ok());
    bench.dispatcher.edge.broken = true;
    devices.mark(1, 1);
    assert_eq!(bench.dispatcher.save(), Err(SaveError::Refused));
    bench.dispatcher.edge.broken = false;
    assert_eq!(bench.dispatcher.save(), Err(SaveError::Refused), "the page was not told");
    bench.dispatcher.log_dirty(true);
    assert!(bench.dispatcher.save().is_ok());
}

/// Sets it when the test ends, however that is: threads would go on.
struct AtEnd<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Found by a reviewer: the last look at the maps went on as long as a process marked pages, and no access was answered any more.
#[test]
fn a_process_that_goes_on_marking_fails_the_save_and_holds_nobody_up() {
    let (mut bench, own, devices) = logged();
    bench.dispatcher.log_dirty(true);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = AtEnd(&done);
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    (0..1 << 20).step_by(64).for_each(|page| devices.mark(page, 1));
                }
            });
        }
        // Not every look meets a mark; none looks at a word twice.
        let (mut met, mut refused) = (0, 0);
        while met < 100 || refused == 0 {
            let before = bench.dispatcher.dirty.told;
            refused += u32::from(bench.dispatcher.save() == Err(SaveError::Writes));
            let told = bench.dispatcher.dirty.told - before;
            assert!(told <= 1 << 14, "{told} of the {} words", 1 << 14);
            met += u32::from(told > 0);
        }
        // The others' pages are told all the same.
        own.mark(3, 1);
        bench.dispatcher.tick();
        assert!(bench.dispatcher.edge.modified.contains(&3));
    });
    while bench.dispatcher.save().is_err() {}
}

/// Found by a reviewer: a second client's command emptied the log of a migration that was under way.
#[test]
fn a_log_that_is_on_is_not_emptied_by_another_command() {
    let (mut bench, _, devices) = logged();
    bench.dispatcher.log_dirty(true);
    devices.mark(5, 1);
    bench.dispatcher.log_dirty(true);
    bench.dispatcher.save().unwrap();
    assert_eq!(bench.dispatcher.edge.modified, BTreeSet::from([5]));
}

proptest! {
    #[test]
    fn bits_become_extents_of_the_same_pages(words in proptest::collection::vec(any::<u64>(), 1..6)) {
        let mut extents = Vec::new();
        let mut wanted = BTreeSet::new();
        for (i, bits) in words.iter().enumerate() {
            add(&mut extents, i as u64 * 64, *bits);
            wanted.extend((0..64).filter(|b| bits >> b & 1 != 0).map(|b| i as u64 * 64 + b));
        }
        let got: BTreeSet<u64> = extents.iter().flat_map(|e| e.first..e.first + u64::from(e.count)).collect();
        prop_assert_eq!(got, wanted);
        prop_assert!(extents.windows(2).all(|w| w[0].first + u64::from(w[0].count) < w[1].first), "neighbours are one");
    }
}
