//! The back end of a PV disk (libxl's `qdisk`): the guest's blkfront writes requests to a ring of granted pages, and this end reads
//! and writes an image.
//!
//! Everything in the ring, in granted pages and in the guest's nodes of xenstore is hostile: an entry is copied once and the copy
//! checked; an impossible ring ends the connection, an impossible request is answered with an error. If the guest changes pages of
//! data during a request, only its own data is damaged.
//!
//! Requests are answered in the order of their arrival. So a process that replaces a dead one finds all unanswered requests in the
//! ring, as the guest wrote them, and carries them out again: no acknowledged write is lost, and no write happens without a
//! request.
mod exercised;
mod ring;
mod spec;
#[cfg(test)]
mod tests;

use crate::backend::{Executor, Image, Job, Outcome};
use bulkhead_bus::pv::{
    BUFFER_PAGES, BackEnd, ConnectFault, EVENTS, Frontend, Handshake, NODES, Piece, Side, State, means, number,
};
use bulkhead_bus::{Auxiliary, Context, GuestMemory, Inspect, Ready};
pub use exercised::TARGET;
use ring::Ring;
use rustix::io::Errno;
use spec::{INDIRECT_SEGMENTS, Layout, Request, SECTOR, SEGMENT, Segment, Segments, What, rsp};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Ready number of the eventfd for the threads' results.
pub const JOBS: u32 = 2;

/// Most pages of a ring: 2 to the power of the node `max-ring-page-order`.
pub const RING_PAGES: usize = 1 << MAX_ORDER;
const MAX_ORDER: usize = 4;
/// Most granted pages of data that stay mapped: those of 32 requests with 32 segments, and their descriptions.
pub const DATA_PAGES: usize = 1088;
// The buffer that `grant` copies to and from has a place for each request in progress.
const _: () = assert!(BUFFER_PAGES == IN_FLIGHT * INDIRECT_SEGMENTS);
/// Index of the buffer's first page, after the ring and the pages of data.
pub const BUFFER: usize = RING_PAGES + DATA_PAGES;
const _: () = assert!(BUFFER == means::QDISK.connection as usize);

/// Most requests in progress. Others wait in the ring.
const IN_FLIGHT: usize = 32;
/// Number of threads that read and write.
pub const LANES: usize = 4;
/// Most requests that are taken before other work is handled.
const BUDGET: usize = 64;

/// Most bytes of a request that is carried out by this thread, without a lane, if it is the only one.
const SHORT: u64 = 64 << 10;
/// If such a request takes longer, because it keeps this thread from other requests,
const QUICK: Duration = Duration::from_micros(500);
/// this many of the following requests go to the lanes.
const SLOW: u32 = 256;

/// Properties of the disk that are published to the guest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// It is a CD.
    pub cdrom: bool,
    /// The guest may not write.
    pub read_only: bool,
    /// The guest may discard sectors.
    pub discard: bool,
}

/// A request in progress.
#[derive(Debug)]
struct Flight {
    id: u64,
    operation: u8,
    /// The remaining jobs, in order.
    jobs: VecDeque<Job>,
    /// No other request may be in progress with it.
    alone: bool,
    /// Index of its place in the buffer.
    place: usize,
    /// Granted pieces to which its place is copied after a read.
    after: Vec<Piece>,
    /// A lane carries out one of its jobs.
    running: bool,
    status: Option<i16>,
}

#[derive(Debug, Default)]
struct Counters {
    reads: u64,
    writes: u64,
    flushes: u64,
    discards: u64,
    errors: u64,
    sectors_read: u64,
    sectors_written: u64,
    copied: u64,
    at_once: u64,
    signals: u64,
    notified: u64,
    broken: u64,
}

/// The back end of one disk.
pub struct Qdisk {
    front: Box<dyn Frontend>,
    memory: Arc<dyn GuestMemory>,
    image: Arc<Image>,
    executor: Box<dyn Executor>,
    options: Options,
    handshake: Handshake,
    ring: Option<Ring>,
    /// The ring is invalid: the connection ends when no request is in progress.
    broken: bool,
    persistent: bool,
    /// Pages of data that are mapped, by grant reference.
    pages: HashMap<u32, usize>,
    flights: VecDeque<Flight>,
    /// The number of the request that each lane works for.
    lanes: [Option<u64>; LANES],
    /// Number of the first flight.
    first: u64,
    /// Number of following requests that go to the lanes, after one that took long.
    slow: u32,
    /// The machine runs: requests are taken from the ring.
    running: bool,
    counters: Counters,
    /// The image's name in the nodes when this process started.
    parameters: Option<String>,
}

impl Qdisk {
    /// A back end for `image`. `memory` is the range of pages that `front` maps and copies into.
    pub fn new(
        image: Arc<Image>,
        options: Options,
        front: Box<dyn Frontend>,
        memory: Arc<dyn GuestMemory>,
        executor: Box<dyn Executor>,
    ) -> Self {
        Self {
            front,
            memory,
            image,
            executor,
            options,
            handshake: Handshake::default(),
            ring: None,
            broken: false,
            persistent: false,
            pages: HashMap::new(),
            flights: VecDeque::new(),
            lanes: [None; LANES],
            first: 0,
            slow: 0,
            running: true,
            counters: Counters::default(),
            parameters: None,
        }
    }

    fn sectors(&self) -> u64 {
        self.image.size().div_euclid(SECTOR)
    }

    /// Takes requests, begins jobs, and answers completed requests.
    fn work(&mut self, cx: &mut Context) {
        self.finish();
        let mut full = false;
        for taken in 0..=BUDGET {
            let Some(ring) = self.ring.as_mut().filter(|_| self.running) else { break };
            full = taken == BUDGET || self.flights.len() == IN_FLIGHT;
            if full {
                break;
            }
            match ring.take(&*self.front, &*self.memory) {
                Ok(Some(request)) => self.accept(&request),
                Ok(None) => break,
                Err(e) => {
                    self.counters.broken = self.counters.broken.saturating_add(1);
                    self.warn_limited(&format!("the guest's ring is broken: {e}"));
                    self.ring = None;
                    self.broken = true;
                }
            }
        }
        if self.broken {
            if self.disconnect(cx) {
                self.set_state(State::Closing);
            }
            return;
        }
        self.dispatch();
        // Answered requests free their places, and requests that waited for them can begin.
        while self.finish() {
            self.dispatch();
        }
        if full && self.flights.len() < IN_FLIGHT {
            cx.again();
        }
    }

    /// Plans a request that was taken from the ring.
    fn accept(&mut self, request: &Request) {
        let place = (0..IN_FLIGHT).find(|p| self.flights.iter().all(|f| f.place != *p)).unwrap_or(0);
        let mut flight = Flight {
            id: request.id,
            operation: request.operation,
            jobs: VecDeque::new(),
            alone: matches!(request.what, What::Barrier(_)),
            place,
            after: Vec::new(),
            running: false,
            status: None,
        };
        match self.plan(request, &mut flight) {
            Ok(()) => {}
            Err(status) => {
                self.counters.errors = self.counters.errors.saturating_add(1);
                flight.jobs.clear();
                flight.status = Some(status);
            }
        }
        self.flights.push_back(flight);
    }

    /// Plans the jobs of a request. `Err`: the request is answered at once with this status.
    fn plan(&mut self, request: &Request, flight: &mut Flight) -> Result<(), i16> {
        let count = |counter: &mut u64, n: u64| *counter = counter.saturating_add(n);
        let writes = matches!(request.what, What::Write(_) | What::Barrier(_) | What::Discard { .. });
        if writes && self.options.read_only {
            return Err(rsp::ERROR);
        }
        match &request.what {
            What::Read(segments) => {
                let (offset, to, bytes) = self.data(request.sector, segments, flight, false)?;
                count(&mut self.counters.reads, 1);
                count(&mut self.counters.sectors_read, bytes.div_euclid(SECTOR));
                flight.jobs.push_back(Job::ReadDma { offset, to });
            }
            What::Write(segments) | What::Barrier(segments) => {
                let (offset, from, bytes) = self.data(request.sector, segments, flight, true)?;
                count(&mut self.counters.writes, 1);
                count(&mut self.counters.sectors_written, bytes.div_euclid(SECTOR));
                if flight.alone {
                    flight.jobs.push_back(Job::Flush);
                }
                flight.jobs.push_back(Job::WriteDma { offset, from });
                if flight.alone {
                    flight.jobs.push_back(Job::Flush);
                }
            }
            What::Flush => {
                count(&mut self.counters.flushes, 1);
                flight.jobs.push_back(Job::Flush);
            }
            What::Discard { sectors } => {
                let (offset, bytes) = self.range(request.sector, *sectors)?;
                if !self.options.discard {
                    return Err(rsp::EOPNOTSUPP);
                }
                count(&mut self.counters.discards, 1);
                flight.jobs.push_back(Job::Trim(vec![(offset, bytes)]));
            }
            What::Unknown => return Err(rsp::EOPNOTSUPP),
            What::Wrong => return Err(rsp::ERROR),
        }
        Ok(())
    }

    /// Offset and length in bytes of these sectors, if the disk has all of them.
    fn range(&self, sector: u64, sectors: u64) -> Result<(u64, u64), i16> {
        let end = sector.checked_add(sectors).filter(|end| *end <= self.sectors()).ok_or(rsp::ERROR)?;
        let at = |sector: u64| sector.checked_mul(SECTOR).ok_or(rsp::ERROR);
        Ok((at(sector)?, at(end.saturating_sub(sector))?))
    }

    /// The place of a request's data in the image and in the range of pages, and its length. The data of a write is copied there.
    fn data(
        &mut self,
        sector: u64,
        segments: &Segments,
        flight: &mut Flight,
        write: bool,
    ) -> Result<(u64, Vec<bulkhead_bus::Segment>, u64), i16> {
        let segments = match segments {
            Segments::Here(segments) => segments.clone(),
            Segments::Indirect(count, grefs) => self.indirect(*count, grefs, flight.place)?,
        };
        let mut pieces = Vec::with_capacity(segments.len());
        for segment in &segments {
            pieces.push(Piece { gref: segment.gref, offset: segment.offset(), len: segment.len().ok_or(rsp::ERROR)? });
        }
        let bytes = pieces.iter().map(|p| u64::from(p.len)).sum::<u64>();
        let (offset, _) = self.range(sector, bytes.div_euclid(SECTOR))?;
        if let Some(places) = self.mapped(&segments) {
            let at = |(page, piece): (&usize, &Piece)| bulkhead_bus::Segment {
                address: address(*page).saturating_add(u64::from(piece.offset)),
                len: u32::from(piece.len),
            };
            return Ok((offset, places.iter().zip(&pieces).map(at).collect(), bytes));
        }
        let buffer = address(BUFFER.saturating_add(flight.place.saturating_mul(INDIRECT_SEGMENTS)));
        self.counters.copied = self.counters.copied.saturating_add(1);
        if write {
            if !self.front.copy(false, buffer, &pieces) {
                return Err(rsp::ERROR);
            }
        } else {
            flight.after = pieces;
        }
        Ok((
            offset,
            vec![bulkhead_bus::Segment { address: buffer, len: u32::try_from(bytes).map_err(|_| rsp::ERROR)? }],
            bytes,
        ))
    }

    /// Copies the descriptions of segments that are in separate pages, once.
    fn indirect(&mut self, count: usize, grefs: &[u32], place: usize) -> Result<Vec<Segment>, i16> {
        let bytes = count.saturating_mul(SEGMENT);
        let buffer = address(BUFFER.saturating_add(place.saturating_mul(INDIRECT_SEGMENTS)));
        let [gref] = grefs else { return Err(rsp::ERROR) };
        let piece = Piece { gref: *gref, offset: 0, len: u16::try_from(bytes).map_err(|_| rsp::ERROR)? };
        let mut copy = vec![0; bytes];
        let got = match self.mapped(&[Segment { gref: *gref, first: 0, last: 7 }]).as_deref() {
            Some([page]) => self.memory.read(address(*page), &mut copy),
            _ if self.front.copy(false, buffer, &[piece]) => self.memory.read(buffer, &mut copy),
            _ => return Err(rsp::ERROR),
        };
        got.map_err(|_| rsp::ERROR)?;
        Ok(copy.as_chunks::<SEGMENT>().0.iter().map(Segment::parse).collect())
    }

    /// The mapped pages of these segments. `None` without persistent grants, with which the guest promises to reuse pages.
    fn mapped(&mut self, segments: &[Segment]) -> Option<Vec<usize>> {
        if !self.persistent {
            return None;
        }
        let mut new: Vec<u32> = segments.iter().map(|s| s.gref).filter(|g| !self.pages.contains_key(g)).collect();
        new.sort_unstable();
        new.dedup();
        if !new.is_empty() {
            // Pages are never unmapped one by one, so the next free page follows the last.
            let page = RING_PAGES.saturating_add(self.pages.len());
            if page.saturating_add(new.len()) > BUFFER || !self.front.map(page, &new) {
                return None;
            }
            self.pages.extend(new.into_iter().zip(page..));
        }
        segments.iter().map(|s| self.pages.get(&s.gref).copied()).collect()
    }

    /// Submits jobs that may begin to idle lanes.
    fn dispatch(&mut self) {
        let lone = self.flights.len() == 1 && self.lanes.iter().all(Option::is_none);
        for (index, number) in (0usize..).zip(self.first..) {
            let Some(flight) = self.flights.get_mut(index) else { break };
            if flight.status.is_some() {
                continue;
            }
            let waits = flight.alone && index > 0;
            if !flight.running && !waits {
                let Some(lane) = self.lanes.iter().position(Option::is_none) else { break };
                match flight.jobs.pop_front() {
                    Some(job) => {
                        if lone
                            && !flight.alone
                            && short(&job)
                            && let Some(outcome) = at_once(&mut *self.executor, &mut self.slow, &self.image, &job)
                        {
                            self.counters.at_once = self.counters.at_once.saturating_add(1);
                            self.outcome(index, outcome);
                            continue;
                        }
                        flight.running = true;
                        if let Some(at) = self.lanes.get_mut(lane) {
                            *at = Some(number);
                        }
                        self.executor.submit(lane, self.image.clone(), job);
                    }
                    None => flight.status = Some(rsp::OKAY),
                }
            }
            if flight.alone && flight.status.is_none() {
                // Later requests wait for it.
                break;
            }
        }
    }

    /// Handles the result of a lane.
    fn done(&mut self, lane: usize, outcome: Outcome) {
        let Some(number) = self.lanes.get_mut(lane).and_then(Option::take) else { return };
        let Some(index) = number.checked_sub(self.first).and_then(|i| usize::try_from(i).ok()) else { return };
        self.outcome(index, outcome);
    }

    /// Handles the result of a request's job.
    fn outcome(&mut self, index: usize, outcome: Outcome) {
        let buffer = |place: usize| address(BUFFER.saturating_add(place.saturating_mul(INDIRECT_SEGMENTS)));
        let Some(flight) = self.flights.get_mut(index) else { return };
        flight.running = false;
        if flight.status.is_some() {
            return;
        }
        let mut failure = None;
        flight.status = match outcome {
            Ok(_) if !flight.jobs.is_empty() => return,
            Ok(_) => {
                let delivered = flight.after.is_empty() || self.front.copy(true, buffer(flight.place), &flight.after);
                Some(if delivered { rsp::OKAY } else { rsp::ERROR })
            }
            Err(e) => {
                flight.jobs.clear();
                failure = Some(format!("the image, operation {}: {}", flight.operation, std::io::Error::from(e)));
                Some(if e == Errno::OPNOTSUPP { rsp::EOPNOTSUPP } else { rsp::ERROR })
            }
        };
        if flight.status != Some(rsp::OKAY) {
            self.counters.errors = self.counters.errors.saturating_add(1);
        }
        if let Some(line) = failure {
            self.warn_limited(&line);
        }
    }

    /// Answers completed requests in order, and signals the guest if it has requested that. Returns whether there were any.
    fn finish(&mut self) -> bool {
        let Some(ring) = &mut self.ring else { return false };
        let mut answered = false;
        while let Some(status) =
            self.flights.front().and_then(|f| f.status).filter(|_| self.flights.front().is_some_and(|f| !f.running))
        {
            let Some(flight) = self.flights.pop_front() else { break };
            self.first = self.first.wrapping_add(1);
            ring.answer(&*self.memory, flight.id, flight.operation, status);
            answered = true;
        }
        if answered && ring.publish(&*self.front) {
            self.counters.notified = self.counters.notified.saturating_add(1);
            self.front.notify();
        }
        answered
    }
}

/// Whether a job is short enough for this thread; usually it needs only the page cache.
fn short(job: &Job) -> bool {
    let (Job::ReadDma { to: segments, .. } | Job::WriteDma { from: segments, .. }) = job else { return false };
    segments.iter().map(|s| u64::from(s.len)).sum::<u64>() <= SHORT
}

/// Carries out a job in this thread, unless a recent one took too long.
fn at_once(executor: &mut dyn Executor, slow: &mut u32, image: &Image, job: &Job) -> Option<Outcome> {
    if *slow > 0 {
        *slow = slow.saturating_sub(1);
        return None;
    }
    let (outcome, took) = executor.at_once(image, job)?;
    if took > QUICK {
        *slow = SLOW;
    }
    Some(outcome)
}

/// The address of a page in the range.
fn address(page: usize) -> u64 {
    (page as u64).saturating_mul(4096)
}

/// Why the disk cannot be connected to the guest's ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QdiskFault {
    /// More pages than this end offers.
    #[error("ring-page-order is larger than max-ring-page-order")]
    Order,
    /// The layout of requests is unknown.
    #[error("protocol is neither x86_64-abi nor x86_32-abi")]
    Protocol,
    /// The ring's pages cannot be mapped.
    #[error("the ring's pages are not granted")]
    NotGranted,
    /// More unanswered requests than entries.
    #[error("the ring's counters are impossible")]
    Counters,
    /// A fault that every back end can have.
    #[error(transparent)]
    Connect(#[from] ConnectFault),
}

impl BackEnd for Qdisk {
    type Fault = QdiskFault;

    fn front(&mut self) -> &mut dyn Frontend {
        &mut *self.front
    }

    fn handshake(&mut self) -> &mut Handshake {
        &mut self.handshake
    }

    fn offer(&mut self) {
        let bit = |on: bool, bit: u32| if on { bit } else { 0 };
        let info = bit(self.options.cdrom, spec::vdisk::CDROM | spec::vdisk::REMOVABLE)
            | bit(self.options.read_only, spec::vdisk::READONLY);
        let discard = self.options.discard && !self.options.read_only;
        for (name, value) in [
            ("feature-flush-cache", "1".to_owned()),
            ("feature-barrier", "1".to_owned()),
            ("feature-discard", u8::from(discard).to_string()),
            ("feature-persistent", "1".to_owned()),
            ("feature-max-indirect-segments", INDIRECT_SEGMENTS.to_string()),
            ("max-ring-page-order", MAX_ORDER.to_string()),
            ("sector-size", SECTOR.to_string()),
            ("sectors", self.sectors().to_string()),
            ("info", info.to_string()),
        ] {
            self.front.set(name, &value);
        }
    }

    fn connect(&mut self, cx: &mut Context) -> Result<(), QdiskFault> {
        let mut number = |name: &str| number(&mut *self.front, name);
        let order = number("ring-page-order").unwrap_or(0) as usize;
        if order > MAX_ORDER {
            return Err(QdiskFault::Order);
        }
        let pages = 1usize << order;
        let grefs: Option<Vec<u32>> = match pages {
            1 => number("ring-ref").or_else(|| number("ring-ref0")).map(|gref| vec![gref]),
            pages => (0..pages).map(|i| number(&format!("ring-ref{i}"))).collect(),
        };
        let grefs = grefs.ok_or(ConnectFault::NoReference("ring-ref"))?;
        self.persistent = number("feature-persistent") == Some(1);
        let layout = Layout::of(self.front.node(Side::Front, "protocol").as_deref()).ok_or(QdiskFault::Protocol)?;
        if !self.front.map(0, &grefs) {
            return Err(QdiskFault::NotGranted);
        }
        self.bind_event_channel(cx)?;
        let ring = Ring::new(&*self.front, pages, layout).ok_or(QdiskFault::Counters)?;
        self.ring = Some(ring);
        tracing::info!(entries = ring.entries(), persistent = self.persistent, "connected");
        // The guest may have written requests, and may have missed answers, before the connection.
        self.front.notify();
        self.work(cx);
        Ok(())
    }

    fn release(&mut self) -> bool {
        self.ring = None;
        // Requests that have not begun are dropped.
        let first = self.first;
        for (flight, number) in self.flights.iter_mut().zip(first..) {
            if !self.lanes.contains(&Some(number)) {
                flight.status = Some(rsp::ERROR);
            }
        }
        if self.lanes.iter().any(Option::is_some) {
            return false;
        }
        self.flights.clear();
        self.pages.clear();
        self.broken = false;
        true
    }

    fn is_gone(&mut self) -> bool {
        // Another process serves a medium that replaces this one. While libxl removes a disk its name is empty, and libxl may write
        // a file's name without the format.
        let now = self.front.node(Side::Back, "params").unwrap_or_default();
        // Without an answer of xenbus it is empty too, and says nothing.
        let same = now.is_empty() || {
            let then = self.parameters.get_or_insert_with(|| now.clone());
            now == *then || then.split_once(':').is_some_and(|(_, file)| file == now)
        };
        !same || self.front.node(Side::Back, "frontend").is_none()
    }
}

impl Auxiliary for Qdisk {
    fn start(&mut self, cx: &mut Context) {
        self.prepare(cx);
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        self.changes(ready == Ready::Fd(NODES), cx);
        if ready == Ready::Fd(EVENTS) && self.front.signalled() {
            self.counters.signals = self.counters.signals.saturating_add(1);
        }
        let mut done = false;
        while let Some((lane, outcome)) = self.executor.take() {
            self.done(lane, outcome);
            done = true;
        }
        self.work(cx);
        if done && self.ring.is_none() {
            // A disconnection may have waited for the last of them.
            self.nodes(cx);
        }
    }

    /// What was taken from the ring is carried out and answered.
    fn running(&mut self, running: bool, cx: &mut Context) {
        self.running = running;
        self.image.hold(!running);
        self.work(cx);
    }

    fn at_rest(&self) -> bool {
        self.lanes.iter().flatten().count() <= self.image.held()
    }

    fn inspect(&self, out: &mut Inspect) {
        let c = &self.counters;
        out.value("state", format!("{:?}", self.handshake.state)).value("sectors", self.sectors());
        out.value("ring entries", self.ring.as_ref().map_or(0, Ring::entries))
            .value("persistent grants", self.persistent);
        out.value("pages mapped", self.pages.len()).value("under way", self.flights.len());
        out.value("reads", c.reads).value("writes", c.writes).value("flushes", c.flushes).value("discards", c.discards);
        out.value("sectors read", c.sectors_read).value("sectors written", c.sectors_written).value("errors", c.errors);
        out.value("copied requests", c.copied)
            .value("at once", c.at_once)
            .value("signals", c.signals)
            .value("notifications", c.notified)
            .value("broken rings", c.broken);
    }
}
