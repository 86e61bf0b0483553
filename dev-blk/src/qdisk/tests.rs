//! The back end against a fake front end, without xenstore and without grants.
mod regressions;
mod restart;

use super::spec::{Layout, entries, op, ring};
use super::*;
use crate::backend::Inline;
use bulkhead_bus::fake::{self, FakeMemory};
use bulkhead_bus::pv::PORT;
use proptest::prelude::*;
use rustix::fd::AsFd;
use std::sync::{Mutex, MutexGuard};

/// The state of guest and host.
#[derive(Default)]
struct World {
    nodes: HashMap<(bool, String), String>,
    /// Granted pages: reference → bytes; the bytes of a mapped page are in the range.
    granted: HashMap<u32, Vec<u8>>,
    mapped: HashMap<u32, usize>,
    port: Option<u32>,
    notified: u32,
    adopted: Option<u32>,
    /// Number of requests for nodes, and whether they stay unanswered.
    asked: u32,
    silent: bool,
    /// Pages that this process has mapped, whether they are too few for another connection, and whether it has ended itself.
    used: u32,
    spent: bool,
    ended: bool,
    /// The time that a job takes in the calling thread; `None` if all go to the lanes.
    at_once: Option<Duration>,
}

struct Fake(Arc<Mutex<World>>, Arc<FakeMemory>);

impl Fake {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }
}

impl Frontend for Fake {
    fn node(&mut self, side: Side, name: &str) -> Option<String> {
        let mut world = self.world();
        world.asked += 1;
        world.nodes.get(&(side == Side::Back, name.to_owned())).filter(|_| !world.silent).cloned()
    }
    fn unanswered(&mut self) -> bool {
        self.world().silent
    }
    fn set(&mut self, name: &str, value: &str) {
        self.world().nodes.insert((true, name.to_owned()), value.to_owned());
    }
    fn changed(&mut self, ready: bool) -> bool {
        ready
    }
    fn map(&mut self, page: usize, grefs: &[u32]) -> bool {
        let mut world = self.0.lock().unwrap();
        assert!(page + grefs.len() <= BUFFER && !grefs.is_empty(), "outside of the range");
        if !grefs.iter().all(|g| world.granted.contains_key(g)) {
            return false;
        }
        let used = world.used + grefs.len() as u32;
        if used > means::QDISK.life {
            world.spent = true;
            return false;
        }
        world.used = used;
        for (gref, page) in grefs.iter().zip(page..) {
            self.1.write(address(page), &world.granted[gref]).unwrap();
            world.mapped.insert(*gref, page);
        }
        true
    }
    fn unmap(&mut self) {
        let mut world = self.0.lock().unwrap();
        world.spent |= means::QDISK.life - world.used < means::QDISK.connection;
        for (gref, page) in std::mem::take(&mut world.mapped) {
            let mut bytes = vec![0; 4096];
            self.1.read(address(page), &mut bytes).unwrap();
            world.granted.insert(gref, bytes);
        }
    }
    fn is_spent(&self) -> bool {
        self.world().spent
    }
    fn end_life(&mut self) {
        self.world().ended = true;
    }
    fn copy(&mut self, to_guest: bool, mut at: u64, pieces: &[Piece]) -> bool {
        let whole: u64 = pieces.iter().map(|p| u64::from(p.len)).sum();
        assert!(at >= address(BUFFER) && at + whole <= address(BUFFER + BUFFER_PAGES), "outside of the buffer");
        let guest = Guest { world: self.0.clone(), range: self.1.clone(), layout: Layout::X86_64, pages: 1 };
        if !pieces.iter().all(|p| self.world().granted.contains_key(&p.gref)) {
            return false;
        }
        for p in pieces {
            let mut bytes = vec![0; usize::from(p.len)];
            if to_guest {
                self.1.read(at, &mut bytes).unwrap();
                guest.write(p.gref, usize::from(p.offset), &bytes);
            } else {
                bytes = guest.read(p.gref, usize::from(p.offset), bytes.len());
                self.1.write(at, &bytes).unwrap();
            }
            at += u64::from(p.len);
        }
        true
    }
    fn bind(&mut self, port: u32) -> Option<u32> {
        let mut world = self.world();
        let free = world.port.is_none();
        world.port = Some(port);
        free.then_some(port + 100)
    }
    fn adopt(&mut self, local: u32) {
        self.world().adopted = Some(local);
    }
    fn unbind(&mut self) {
        self.world().port = None;
    }
    fn notify(&mut self) {
        self.world().notified += 1;
    }
    fn signalled(&mut self) -> bool {
        true
    }
    fn load(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.1.read(offset as u64, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }
    fn store(&self, offset: usize, value: u32) {
        self.1.write(offset as u64, &value.to_le_bytes()).unwrap();
    }
}

/// The guest's access to its pages, mapped or not.
struct Guest {
    world: Arc<Mutex<World>>,
    range: Arc<FakeMemory>,
    layout: Layout,
    /// Pages of the ring.
    pages: usize,
}

const RING: u32 = 8;

impl Guest {
    fn read(&self, gref: u32, offset: usize, len: usize) -> Vec<u8> {
        let world = self.world.lock().unwrap();
        let mut bytes = vec![0; len];
        match world.mapped.get(&gref) {
            Some(page) => self.range.read(address(*page) + offset as u64, &mut bytes).unwrap(),
            None => bytes.copy_from_slice(&world.granted[&gref][offset..offset + len]),
        }
        bytes
    }
    fn write(&self, gref: u32, offset: usize, bytes: &[u8]) {
        let mut world = self.world.lock().unwrap();
        match world.mapped.get(&gref).copied() {
            Some(page) => self.range.write(address(page) + offset as u64, bytes).unwrap(),
            None => world.granted.get_mut(&gref).unwrap()[offset..offset + bytes.len()].copy_from_slice(bytes),
        }
    }
    fn number(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.read(RING, at, 4).try_into().unwrap())
    }
    fn node(&self, name: &str, value: &str) {
        self.world.lock().unwrap().nodes.insert((false, name.to_owned()), value.to_owned());
    }
    fn state(&self) -> String {
        self.world.lock().unwrap().nodes[&(true, "state".to_owned())].clone()
    }

    /// Writes an entry to the ring.
    fn push(&self, entry: &[u8]) {
        let counter = self.number(ring::REQ_PROD);
        let place = counter as usize % entries(self.pages, self.layout) as usize;
        self.write(RING, ring::ENTRIES + place * self.layout.entry(), entry);
        self.write(RING, ring::REQ_PROD, &(counter + 1).to_le_bytes());
    }
    fn head(&self, op: u8, count: u8, id: u64, sector: u64) -> Vec<u8> {
        let pad = if self.layout == Layout::X86_64 { 4 } else { 0 };
        [&[op, count, 0, 0][..], &vec![0; pad], &id.to_le_bytes(), &sector.to_le_bytes()].concat()
    }
    fn ask(&self, op: u8, id: u64, sector: u64, segments: &[(u32, u8, u8)]) {
        let mut entry = self.head(op, segments.len() as u8, id, sector);
        for (gref, first, last) in segments.iter().take(11) {
            entry.extend([&gref.to_le_bytes()[..], &[*first, *last, 0, 0]].concat());
        }
        self.push(&entry);
    }
    /// Answers from the counter on: identity and status.
    fn answers(&self, from: u32) -> Vec<(u64, i16)> {
        let entry = |counter: u32| {
            let at = ring::ENTRIES + (counter % entries(self.pages, self.layout)) as usize * self.layout.entry();
            let id = u64::from_le_bytes(self.read(RING, at, 8).try_into().unwrap());
            (id, i16::from_le_bytes(self.read(RING, at + 10, 2).try_into().unwrap()))
        };
        (from..self.number(ring::RSP_PROD)).map(entry).collect()
    }
}

/// An executor that keeps jobs until the test releases them.
struct Held {
    inner: Inline,
    jobs: Arc<Mutex<Vec<(usize, Arc<Image>, Job)>>>,
    go: Arc<Mutex<usize>>,
    order: Arc<Mutex<Vec<String>>>,
    world: Arc<Mutex<World>>,
}

impl Executor for Held {
    fn at_once(&mut self, image: &Image, job: &Job) -> Option<(Outcome, Duration)> {
        let takes = self.world.lock().unwrap().at_once?;
        self.inner.at_once(image, job).map(|(outcome, _)| (outcome, takes))
    }
    fn submit(&mut self, lane: usize, image: Arc<Image>, job: Job) {
        self.order.lock().unwrap().push(format!("{job:?}").split([' ', '(']).next().unwrap().to_owned());
        self.jobs.lock().unwrap().push((lane, image, job));
    }
    fn take(&mut self) -> Option<(usize, Outcome)> {
        let mut go = self.go.lock().unwrap();
        if *go > 0
            && let Some((lane, image, job)) = self.jobs.lock().unwrap().pop()
        {
            *go -= 1;
            self.inner.submit(lane, image, job);
        }
        self.inner.take()
    }
}

struct Bed {
    disk: Qdisk,
    guest: Guest,
    cx: Context,
    file: rustix::fd::OwnedFd,
    go: Arc<Mutex<usize>>,
    order: Arc<Mutex<Vec<String>>>,
}

const SECTORS: u64 = 2048;

fn disk(
    world: &Arc<Mutex<World>>,
    range: &Arc<FakeMemory>,
    file: &rustix::fd::OwnedFd,
    options: Options,
) -> (Qdisk, Arc<Mutex<usize>>, Arc<Mutex<Vec<String>>>) {
    let (go, order) = (Arc::new(Mutex::new(usize::MAX)), Arc::default());
    let held = Held {
        inner: Inline::new(range.clone()),
        jobs: Arc::default(),
        go: go.clone(),
        order: Arc::clone(&order),
        world: world.clone(),
    };
    let image = Arc::new(Image::raw(rustix::io::dup(file).unwrap(), SECTORS * SECTOR));
    (Qdisk::new(image, options, Box::new(Fake(world.clone(), range.clone())), range.clone(), Box::new(held)), go, order)
}

fn bed(layout: Layout, persistent: bool, options: Options) -> Bed {
    bed_with(layout, persistent, options, 1)
}

fn bed_with(layout: Layout, persistent: bool, options: Options, pages: usize) -> Bed {
    let range = FakeMemory::new((BUFFER + BUFFER_PAGES) * 4096);
    let world: Arc<Mutex<World>> = Arc::default();
    let file = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, SECTORS * SECTOR).unwrap();
    for gref in (8..24).chain(100..200) {
        world.lock().unwrap().granted.insert(gref, vec![0; 4096]);
    }
    let guest = Guest { world: world.clone(), range: range.clone(), layout, pages };
    guest.write(RING, ring::REQ_EVENT, &1u32.to_le_bytes());
    guest.write(RING, ring::RSP_EVENT, &1u32.to_le_bytes());
    for (name, value) in [("state", "1"), ("frontend", "/front"), ("params", "aio:/a")] {
        world.lock().unwrap().nodes.insert((true, name.into()), value.into());
    }
    guest.node("state", "1");
    let (disk, go, order) = disk(&world, &range, &file, options);
    let mut bed = Bed { disk, guest, cx: fake::context(0), file, go, order };
    bed.disk.start(&mut bed.cx);
    assert_eq!(bed.guest.world.lock().unwrap().asked, 0, "the sandbox is not closed yet");
    bed.disk.poll(Ready::Again, &mut bed.cx);
    assert_eq!(bed.guest.state(), "2", "it waits for the guest");
    if pages > 1 {
        bed.guest.node("ring-page-order", &pages.ilog2().to_string());
        (0..pages).for_each(|i| bed.guest.node(&format!("ring-ref{i}"), &(8 + i).to_string()));
    } else {
        bed.guest.node("ring-ref", "8");
    }
    bed.guest.node("event-channel", "17");
    bed.guest.node("protocol", if layout == Layout::X86_32 { "x86_32-abi" } else { "x86_64-abi" });
    bed.guest.node("feature-persistent", if persistent { "1" } else { "0" });
    bed.guest.node("state", "3");
    bed.disk.poll(Ready::Fd(NODES), &mut bed.cx);
    assert_eq!(bed.guest.state(), "4");
    bed
}

impl Bed {
    fn signal(&mut self) {
        self.disk.poll(Ready::Fd(EVENTS), &mut self.cx);
        // Calls it as the event loop does: for deferred work, and when a job has ended.
        for _ in 0..2000 {
            if self.cx.take_again() {
                self.disk.poll(Ready::Again, &mut self.cx);
            } else if *self.go.lock().unwrap() > 0 && self.disk.lanes.iter().any(Option::is_some) {
                self.disk.poll(Ready::Fd(JOBS), &mut self.cx);
            } else {
                break;
            }
        }
    }
    fn nodes(&mut self) {
        self.disk.poll(Ready::Fd(NODES), &mut self.cx);
    }
    fn sector(&self, sector: u64) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        rustix::io::pread(self.file.as_fd(), &mut bytes, sector * SECTOR).unwrap();
        bytes
    }
}

const WRITABLE: Options = Options { cdrom: false, read_only: false, discard: true };

#[test]
fn sectors_go_both_ways_in_every_layout_with_and_without_grants_that_stay() {
    for layout in [Layout::X86_32, Layout::X86_64] {
        for persistent in [false, true] {
            let mut bed = bed(layout, persistent, WRITABLE);
            for gref in [100, 101] {
                let bytes: Vec<u8> = (0..4096u32).map(|i| (i / 512 + gref) as u8).collect();
                bed.guest.write(gref, 0, &bytes);
            }
            bed.guest.ask(op::WRITE, 7, 16, &[(100, 0, 7), (101, 2, 3)]);
            bed.signal();
            assert_eq!(bed.guest.answers(0), [(7, 0)], "{layout:?} {persistent}");
            assert_eq!(
                (bed.sector(16)[0], bed.sector(23)[511], bed.sector(24)[0], bed.sector(25)[0], bed.sector(26)[0]),
                (100, 107, 103, 104, 0)
            );
            bed.guest.ask(op::READ, 8, 23, &[(150, 7, 7), (151, 0, 1)]);
            bed.signal();
            assert_eq!(bed.guest.answers(1), [(8, 0)]);
            assert_eq!(
                (
                    bed.guest.read(150, 3584, 1),
                    bed.guest.read(151, 0, 1),
                    bed.guest.read(151, 512, 1),
                    bed.guest.read(151, 1024, 1)
                ),
                (vec![107], vec![103], vec![104], vec![0])
            );
            assert_eq!(bed.guest.world.lock().unwrap().mapped.len(), if persistent { 5 } else { 1 });
            assert!(bed.guest.world.lock().unwrap().notified >= 2);
        }
    }
}

#[test]
fn a_request_may_describe_its_segments_in_a_page_of_their_own() {
    for (layout, persistent) in [(Layout::X86_32, false), (Layout::X86_64, true)] {
        let mut bed = bed(layout, persistent, WRITABLE);
        for i in 0..32u32 {
            bed.guest.write(100 + i, 0, &[i as u8 + 1; 4096]);
            bed.guest.write(199, i as usize * 8, &[&(100 + i).to_le_bytes()[..], &[0, 7, 0, 0]].concat());
        }
        let ask = |bed: &Bed, inner: u8, id, sector, count: u16, gref: u32| {
            let mut entry = bed.guest.head(op::INDIRECT, inner, id, sector);
            entry[2..4].copy_from_slice(&count.to_le_bytes());
            entry.extend([0; 4]);
            entry.extend(gref.to_le_bytes());
            bed.guest.push(&entry);
        };
        ask(&bed, op::WRITE, 1, 0, 32, 199);
        ask(&bed, op::WRITE, 2, 0, 33, 199);
        ask(&bed, op::WRITE, 3, 0, 0, 199);
        ask(&bed, op::FLUSH_DISKCACHE, 4, 0, 1, 199);
        ask(&bed, op::WRITE, 5, 0, 1, 7777);
        ask(&bed, op::READ, 6, SECTORS - 8, 2, 199);
        bed.signal();
        assert_eq!(bed.guest.answers(0), [(1, 0), (2, -1), (3, -1), (4, -1), (5, -1), (6, -1)], "{layout:?}");
        assert_eq!((bed.sector(0)[0], bed.sector(255)[0], bed.sector(256)[0]), (1, 32, 0));
        // Linux disables a disk whose answers have another operation than the requests.
        assert_eq!(bed.guest.read(RING, ring::ENTRIES + 8, 1), [op::WRITE]);
        assert_eq!(bed.guest.read(RING, ring::ENTRIES + 5 * layout.entry() + 8, 1), [op::READ]);
    }
}

#[test]
fn impossible_requests_are_answered_with_errors() {
    let mut bed = bed(Layout::X86_64, false, WRITABLE);
    let cases: &[(u8, u64, &[(u32, u8, u8)])] = &[
        (op::READ, 0, &[]),
        (op::READ, 0, &[(100, 3, 2)]),
        (op::READ, 0, &[(100, 0, 8)]),
        (op::READ, SECTORS, &[(100, 0, 0)]),
        (op::READ, SECTORS - 1, &[(100, 0, 1)]),
        (op::WRITE, u64::MAX, &[(100, 0, 7)]),
        (op::READ, 0, &[(99, 0, 0)]),
        (op::WRITE, 0, &[(99, 0, 0)]),
        (op::READ, 0, &[(100, 0, 0); 12]),
        (op::DISCARD, 0, &[(u32::MAX, 255, 255)]),
        (op::WRITE, SECTORS, &[(100, 0, 0)]),
        (op::WRITE, SECTORS - 1, &[(100, 0, 1)]),
    ];
    for (id, (op, sector, segments)) in cases.iter().enumerate() {
        bed.guest.ask(*op, id as u64, *sector, segments);
    }
    bed.guest.ask(4, 12, 0, &[]);
    bed.guest.ask(255, 13, 0, &[]);
    bed.signal();
    let want: Vec<_> = (0..12).map(|id| (id, -1)).chain([(12, -2), (13, -2)]).collect();
    assert_eq!(bed.guest.answers(0), want);
    assert_eq!(rustix::fs::fstat(&bed.file).unwrap().st_size as u64, SECTORS * SECTOR, "nothing beyond the end");
    assert_eq!(bed.sector(0), [0; 512]);
}

#[test]
fn a_disk_for_reading_is_not_written() {
    let mut bed = bed(Layout::X86_64, false, Options { cdrom: true, read_only: true, discard: true });
    assert_eq!(bed.guest.world.lock().unwrap().nodes[&(true, "info".to_owned())], "7");
    bed.guest.write(100, 0, &[1; 512]);
    for (id, op) in [(1, op::WRITE), (2, op::WRITE_BARRIER), (3, op::DISCARD), (4, op::READ)] {
        bed.guest.ask(op, id, 0, &[(100, 0, 0)]);
    }
    bed.signal();
    assert_eq!(bed.guest.answers(0), [(1, -1), (2, -1), (3, -1), (4, 0)]);
}

#[test]
fn a_lone_short_request_needs_no_thread_unless_one_took_long() {
    let mut bed = bed(Layout::X86_64, true, WRITABLE);
    let slow = |bed: &Bed, takes| bed.guest.world.lock().unwrap().at_once = Some(Duration::from_millis(takes));
    let jobs = |bed: &Bed| bed.order.lock().unwrap().len();
    slow(&bed, 0);
    bed.guest.write(100, 0, &[7; 512]);
    bed.guest.ask(op::WRITE, 1, 3, &[(100, 0, 0)]);
    bed.signal();
    bed.guest.ask(op::READ, 2, 3, &[(101, 1, 1)]);
    bed.signal();
    assert_eq!(
        (bed.guest.answers(0), bed.sector(3)[0], bed.guest.read(101, 512, 1)[0], jobs(&bed)),
        (vec![(1, 0), (2, 0)], 7, 7, 0)
    );
    // Two requests at once, a barrier and a flush go to the threads.
    bed.guest.ask(op::READ, 3, 0, &[(100, 0, 0)]);
    bed.guest.ask(op::READ, 4, 0, &[(101, 0, 0)]);
    bed.signal();
    bed.guest.ask(op::WRITE_BARRIER, 5, 0, &[(100, 0, 0)]);
    bed.signal();
    bed.guest.ask(op::FLUSH_DISKCACHE, 6, 0, &[]);
    bed.signal();
    assert_eq!((bed.guest.answers(2), jobs(&bed)), (vec![(3, 0), (4, 0), (5, 0), (6, 0)], 6));
    // After a slow one, requests go to the lanes for a while.
    slow(&bed, 2);
    for id in 7..10 {
        bed.guest.ask(op::READ, id, 0, &[(100, 0, 0)]);
        bed.signal();
    }
    assert_eq!((bed.guest.answers(6), jobs(&bed)), (vec![(7, 0), (8, 0), (9, 0)], 8));
    // A failure is an answer too.
    bed.guest.ask(op::READ, 10, SECTORS - 1, &[(100, 0, 0)]);
    rustix::fs::ftruncate(&bed.file, 0).unwrap();
    bed.disk.slow = 0;
    bed.signal();
    assert_eq!((bed.guest.answers(9), jobs(&bed), bed.disk.counters.at_once), (vec![(10, -1)], 8, 4));
}

#[test]
fn a_barrier_is_alone_and_between_flushes_and_answers_keep_their_order() {
    let mut bed = bed(Layout::X86_64, false, WRITABLE);
    *bed.go.lock().unwrap() = 0;
    bed.guest.ask(op::WRITE, 1, 0, &[(100, 0, 0)]);
    bed.guest.ask(op::READ, 2, 8, &[(101, 0, 0)]);
    bed.guest.ask(op::WRITE_BARRIER, 3, 16, &[(102, 0, 0)]);
    bed.guest.ask(op::READ, 4, 16, &[(103, 0, 0)]);
    bed.signal();
    assert_eq!(*bed.order.lock().unwrap(), ["WriteDma", "ReadDma"]);
    // The later request completes first; its answer waits.
    *bed.go.lock().unwrap() = 1;
    bed.signal();
    assert_eq!(bed.guest.answers(0), []);
    *bed.go.lock().unwrap() = 1;
    bed.signal();
    assert_eq!(bed.guest.answers(0), [(1, 0), (2, 0)]);
    assert_eq!(*bed.order.lock().unwrap(), ["WriteDma", "ReadDma", "Flush"]);
    *bed.go.lock().unwrap() = 9;
    bed.signal();
    assert_eq!(bed.guest.answers(2), [(3, 0), (4, 0)]);
    assert_eq!(*bed.order.lock().unwrap(), ["WriteDma", "ReadDma", "Flush", "WriteDma", "Flush", "ReadDma"]);
}

#[test]
fn more_requests_than_are_carried_out_at_once_wait_and_none_is_forgotten() {
    // A ring of sixteen pages has 512 entries.
    for (op, pages, many) in [(op::READ, 1, 32), (77, 1, 32), (op::READ, 16, 512), (77, 16, 512)] {
        let mut bed = bed_with(Layout::X86_32, false, WRITABLE, pages);
        for round in 0..3 {
            for id in 0..u64::from(many) {
                bed.guest.ask(op, id, 0, &[(100, 0, 0)]);
            }
            bed.signal();
            assert_eq!(bed.guest.answers(round * many).len() as u32, many);
        }
    }
}

#[test]
fn a_ring_with_more_requests_than_room_ends_the_connection() {
    let mut bed = bed(Layout::X86_64, true, WRITABLE);
    bed.guest.write(RING, ring::REQ_PROD, &33u32.to_le_bytes());
    bed.signal();
    assert_eq!(bed.guest.state(), "5");
    let left = |world: &World| (world.port, world.mapped.len());
    assert_eq!(left(&bed.guest.world.lock().unwrap()), (None, 0));
    // The front end may connect again.
    bed.guest.node("state", "6");
    bed.nodes();
    assert_eq!(bed.guest.state(), "6");
    bed.guest.node("state", "1");
    bed.nodes();
    assert_eq!(bed.guest.state(), "2");
    bed.guest.write(RING, ring::REQ_PROD, &0u32.to_le_bytes());
    bed.guest.node("state", "3");
    bed.nodes();
    assert_eq!(bed.guest.state(), "4");
    bed.guest.ask(op::READ, 5, 0, &[(100, 0, 0)]);
    bed.signal();
    assert_eq!(bed.guest.answers(0), [(5, 0)]);
}

#[test]
fn a_ring_that_breaks_while_something_is_under_way_ends_when_that_is_done() {
    let mut bed = bed(Layout::X86_64, true, WRITABLE);
    *bed.go.lock().unwrap() = 0;
    bed.guest.ask(op::READ, 1, 0, &[(100, 0, 0)]);
    bed.signal();
    bed.guest.write(RING, ring::REQ_PROD, &77u32.to_le_bytes());
    bed.signal();
    assert_eq!(
        (bed.guest.state().as_str(), bed.guest.world.lock().unwrap().mapped.is_empty()),
        ("4", false),
        "its pages are still read into"
    );
    *bed.go.lock().unwrap() = 1;
    bed.signal();
    assert_eq!((bed.guest.state().as_str(), bed.guest.world.lock().unwrap().mapped.is_empty()), ("5", true));
}

#[test]
fn a_xenbus_that_does_not_answer_costs_no_connection() {
    let mut bed = bed(Layout::X86_64, true, WRITABLE);
    bed.guest.world.lock().unwrap().silent = true;
    bed.nodes();
    bed.guest.ask(op::READ, 1, 0, &[(100, 0, 0)]);
    bed.signal();
    assert_eq!(bed.guest.answers(0), [(1, 0)]);
    bed.guest.world.lock().unwrap().silent = false;
    bed.nodes();
    assert_eq!(bed.guest.state(), "4");
}

#[test]
fn nodes_that_say_what_cannot_be_are_refused_in_one_line() {
    for (name, value) in [
        ("ring-ref", "x"),
        ("ring-ref", "-1"),
        ("ring-ref", "99"),
        ("event-channel", ""),
        ("ring-page-order", "5"),
        ("ring-page-order", "1"),
        ("ring-page-order", "4294967295"),
        ("protocol", "arm-abi"),
    ] {
        let mut bed = bed(Layout::X86_64, false, WRITABLE);
        bed.guest.node("state", "1");
        bed.nodes();
        bed.guest.node(name, value);
        bed.guest.node("state", "3");
        bed.nodes();
        assert_eq!(bed.guest.state(), "5", "{name}={value}");
        assert!(bed.guest.world.lock().unwrap().nodes.contains_key(&(true, "error".to_owned())));
    }
}

/// A stopped machine's disk went on taking requests.
#[test]
fn a_stopped_disk_answers_what_it_has_taken_and_takes_nothing() {
    let mut bed = bed(Layout::X86_64, true, WRITABLE);
    *bed.go.lock().unwrap() = 0;
    bed.guest.write(100, 0, &[9; 512]);
    bed.guest.ask(op::WRITE, 1, 0, &[(100, 0, 0)]);
    bed.signal();
    bed.disk.running(false, &mut bed.cx);
    assert!(!bed.disk.at_rest(), "the write is under way");
    bed.guest.ask(op::WRITE, 2, 1, &[(100, 0, 0)]);
    *bed.go.lock().unwrap() = 9;
    bed.signal();
    assert!(bed.disk.at_rest());
    assert_eq!((bed.guest.answers(0), bed.sector(0)[0], bed.sector(1)[0]), (vec![(1, 0)], 9, 0));
    bed.disk.running(true, &mut bed.cx);
    bed.signal();
    assert_eq!((bed.guest.answers(1), bed.sector(1)[0]), (vec![(2, 0)], 9));
}

#[test]
fn a_front_end_that_disconnects_waits_for_the_pending_requests() {
    let mut bed = bed(Layout::X86_64, true, WRITABLE);
    *bed.go.lock().unwrap() = 0;
    bed.guest.write(100, 0, &[9; 512]);
    bed.guest.ask(op::WRITE, 1, 0, &[(100, 0, 0)]);
    bed.signal();
    bed.guest.node("state", "5");
    bed.nodes();
    assert_eq!(bed.guest.state(), "4", "its pages are still written from");
    assert!(!bed.guest.world.lock().unwrap().mapped.is_empty());
    *bed.go.lock().unwrap() = 1;
    bed.signal();
    assert_eq!((bed.guest.state().as_str(), bed.sector(0)[0]), ("5", 9));
    assert!(bed.guest.world.lock().unwrap().mapped.is_empty());
}

#[test]
fn a_removed_or_replaced_disk_is_released_and_not_written() {
    for (name, value) in [("frontend", None), ("params", Some("aio:/b"))] {
        let mut bed = bed(Layout::X86_64, true, WRITABLE);
        {
            let mut world = bed.guest.world.lock().unwrap();
            world.nodes.remove(&(true, name.to_owned()));
            world.nodes.extend(value.map(|v| ((true, name.to_owned()), v.to_owned())));
            world.nodes.remove(&(true, "state".to_owned()));
        }
        for state in ["5", "6", "1", "3"] {
            bed.guest.node("state", state);
            bed.nodes();
            let world = bed.guest.world.lock().unwrap();
            assert!(
                !world.nodes.contains_key(&(true, "state".to_owned()))
                    && world.port.is_none()
                    && world.mapped.is_empty(),
                "{name} {state}"
            );
        }
    }
}

#[test]
fn a_front_ends_state_from_before_the_back_end_is_not_connected() {
    // (the back end's state that the launcher has left, the front end's state, the back end's next state)
    for (left, there, want) in
        [("6", "4", "6"), ("6", "3", "6"), ("6", "6", "6"), ("6", "1", "2"), ("2", "1", "2"), ("1", "1", "2")]
    {
        let Bed { guest, file, .. } = bed(Layout::X86_64, true, WRITABLE);
        let (world, range) = (guest.world.clone(), guest.range.clone());
        Fake(world.clone(), range.clone()).unmap();
        {
            let mut world = world.lock().unwrap();
            world.port = None;
            // Removes the features that the test's first back end has published.
            world.nodes.retain(|(back, name), _| !*back || matches!(name.as_str(), "frontend" | "params"));
            world.nodes.insert((true, "state".into()), left.into());
        }
        guest.node("state", there);
        let (mut next, ..) = disk(&world, &range, &file, WRITABLE);
        let mut cx = fake::context(0);
        next.start(&mut cx);
        next.poll(Ready::Again, &mut cx);
        assert_eq!((guest.state().as_str(), world.lock().unwrap().port), (want, None), "{left} {there}");
        // The operating system's driver starts the handshake again.
        for (there, want) in [("1", "2"), ("3", "4")] {
            guest.node("state", there);
            next.poll(Ready::Fd(NODES), &mut cx);
            assert_eq!(guest.state(), want, "{left}");
        }
        assert_eq!(
            world.lock().unwrap().nodes[&(true, "sectors".to_owned())],
            SECTORS.to_string(),
            "{left}: it was offered"
        );
    }
}
