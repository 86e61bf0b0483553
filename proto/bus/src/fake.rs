//! Stand-ins for tests of devices.
use crate::pv::{Frontend, Means, Piece, Side};
use crate::{Context, DmaError, GuestMemory, Segment};
use rustix::fd::BorrowedFd;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Guest memory in a vector, from address 0.
#[derive(Debug)]
pub struct FakeMemory(Mutex<Vec<u8>>);

impl FakeMemory {
    /// `len` bytes of zeroes.
    pub fn new(len: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![0; len])))
    }

    fn with<T>(&self, address: u64, len: usize, f: impl FnOnce(&mut [u8]) -> T) -> Result<T, DmaError> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(address).map_err(|_| DmaError::NoRam(address))?;
        let end = start.checked_add(len).ok_or(DmaError::NoRam(address))?;
        bytes.get_mut(start..end).map(f).ok_or(DmaError::NoRam(address))
    }
}

impl GuestMemory for FakeMemory {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.with(address, to.len(), |bytes| to.copy_from_slice(bytes))
    }
    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaError> {
        self.with(address, from.len(), |bytes| bytes.copy_from_slice(from))
    }
    fn read_file(&self, file: BorrowedFd<'_>, offset: u64, to: &[Segment]) -> Result<usize, DmaError> {
        let mut done = 0usize;
        for segment in to {
            let at = offset.saturating_add(done as u64);
            let n = self
                .with(segment.address, segment.len as usize, |bytes| rustix::io::pread(file, bytes, at))?
                .map_err(DmaError::File)?;
            done = done.saturating_add(n);
            if n < segment.len as usize {
                break;
            }
        }
        Ok(done)
    }
    fn write_file(&self, file: BorrowedFd<'_>, offset: u64, from: &[Segment]) -> Result<usize, DmaError> {
        let mut done = 0usize;
        for segment in from {
            let at = offset.saturating_add(done as u64);
            let n = self
                .with(segment.address, segment.len as usize, |bytes| rustix::io::pwrite(file, bytes, at))?
                .map_err(DmaError::File)?;
            done = done.saturating_add(n);
        }
        Ok(done)
    }
    fn invalidate(&self) {}
}

/// A context with `len` bytes of guest memory.
pub fn context(len: usize) -> Context {
    Context::new(FakeMemory::new(len))
}

/// The state of guest and host around a PV device, for [`FakeFrontend`].
#[derive(Debug, Default)]
pub struct PvWorld {
    /// Values of nodes, by whether the node is the back end's, and by name.
    pub nodes: HashMap<(bool, String), String>,
    /// References that the guest has granted.
    pub granted: Vec<u32>,
    /// Number of mapped pages, from the first on.
    pub mapped: usize,
    /// The bound port of the guest.
    pub bound: Option<u32>,
    /// A port that a previous process had bound.
    pub adopted: Option<u32>,
    /// Number of signals to the guest.
    pub notified: u32,
    /// Number of calls to `xenbus`: requests for nodes, and writes.
    pub asked: u32,
    /// What the back end may write, if that is checked.
    pub means: Option<&'static Means>,
    /// The back end may map too few pages for another connection.
    pub spent: bool,
    /// The back end has ended its process.
    pub ended: bool,
    /// Calls to `xenbus` get no answer, and nothing is written.
    pub silent: bool,
    /// Calls until `silent` becomes true.
    pub answers: Option<u32>,
    /// A call had no answer.
    pub unanswered: bool,
    /// The contents of every granted page, for copies.
    pub shared: Vec<u8>,
    /// A forbidden request of the back end, if it has made one.
    pub wrong: Option<String>,
}

impl PvWorld {
    /// Counts a call to `xenbus`. Returns whether it is answered.
    fn call(&mut self) -> bool {
        self.asked = self.asked.saturating_add(1);
        match &mut self.answers {
            Some(0) => self.silent = true,
            Some(left) => *left = left.saturating_sub(1),
            None => {}
        }
        self.unanswered |= self.silent;
        !self.silent
    }
}

/// A front end whose granted pages are those of a [`FakeMemory`].
#[derive(Clone, Debug)]
pub struct FakeFrontend {
    /// Nodes, events and counts of requests.
    pub world: Arc<Mutex<PvWorld>>,
    /// The granted pages.
    pub memory: Arc<FakeMemory>,
    pages: usize,
}

impl FakeFrontend {
    /// A front end with `pages` pages, and these references granted.
    pub fn new(pages: usize, granted: &[u32]) -> Self {
        let nodes = std::iter::once(((true, "frontend".to_owned()), "/front".to_owned())).collect();
        let world = PvWorld { granted: granted.to_vec(), nodes, shared: vec![0; 4096], ..PvWorld::default() };
        Self { world: Arc::new(Mutex::new(world)), memory: FakeMemory::new(pages.saturating_mul(4096)), pages }
    }

    /// Reads or changes the state around the device.
    pub fn with<T>(&self, f: impl FnOnce(&mut PvWorld) -> T) -> T {
        f(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets a node, of the back end or of the guest.
    pub fn put(&self, back: bool, name: &str, value: &str) {
        self.with(|w| w.nodes.insert((back, name.to_owned()), value.to_owned()));
    }

    /// The value of the back end's node `name`.
    pub fn back_end_node(&self, name: &str) -> Option<String> {
        self.with(|w| w.nodes.get(&(true, name.to_owned())).cloned())
    }

    /// The 32-bit word at `offset` of the pages, mapped or not.
    pub fn word(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        let _ = self.memory.read(offset as u64, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Sets that word, as the guest does.
    pub fn set_word(&self, offset: usize, value: u32) {
        let _ = self.memory.write(offset as u64, &value.to_le_bytes());
    }

    fn mapped(&self, offset: usize) -> bool {
        self.with(|w| offset.saturating_add(4) <= w.mapped.saturating_mul(4096))
    }
}

impl Frontend for FakeFrontend {
    fn node(&mut self, side: Side, name: &str) -> Option<String> {
        self.with(|w| {
            let answers = w.call();
            w.nodes.get(&(side == Side::Back, name.to_owned())).filter(|_| answers).cloned()
        })
    }
    fn unanswered(&mut self) -> bool {
        self.with(|w| std::mem::take(&mut w.unanswered))
    }
    fn set(&mut self, name: &str, value: &str) {
        self.with(|w| {
            if w.means.is_some_and(|means| !means.may_write(name, value)) {
                w.wrong = Some(format!("the node {name} is not the back end's, or too short for {value:?}"));
            }
            if w.call() {
                w.nodes.insert((true, name.to_owned()), value.to_owned());
            }
        });
    }
    fn changed(&mut self, ready: bool) -> bool {
        ready
    }
    fn map(&mut self, page: usize, grefs: &[u32]) -> bool {
        let pages = self.pages;
        self.with(|w| {
            if grefs.is_empty() || page.saturating_add(grefs.len()) > pages {
                w.wrong = Some(format!("{} pages are mapped at page {page} of {pages}", grefs.len()));
            }
            let good = !w.spent && grefs.iter().all(|g| w.granted.contains(g));
            if good {
                w.mapped = w.mapped.max(page.saturating_add(grefs.len()));
            }
            good
        })
    }
    fn unmap(&mut self) {
        self.with(|w| w.mapped = 0);
    }
    fn is_spent(&self) -> bool {
        self.with(|w| w.spent)
    }
    fn end_life(&mut self) {
        self.with(|w| w.ended = true);
    }
    fn copy(&mut self, to_guest: bool, mut at: u64, pieces: &[Piece]) -> bool {
        let memory = self.memory.clone();
        self.with(|w| {
            if !pieces.iter().all(|p| w.granted.contains(&p.gref)) {
                return false;
            }
            for piece in pieces {
                let from = usize::from(piece.offset);
                let page = w.shared.get_mut(from..from.saturating_add(usize::from(piece.len)));
                let good = page.map(|bytes| if to_guest { memory.read(at, bytes) } else { memory.write(at, bytes) });
                if !matches!(good, Some(Ok(()))) {
                    w.wrong = Some(format!("{} bytes from {from} of a page are copied at {at:#x}", piece.len));
                }
                at = at.saturating_add(u64::from(piece.len));
            }
            true
        })
    }
    fn bind(&mut self, port: u32) -> Option<u32> {
        self.with(|w| w.bound.replace(port).is_none().then_some(port))
    }
    fn adopt(&mut self, local: u32) {
        self.with(|w| w.adopted = Some(local));
    }
    fn unbind(&mut self) {
        self.with(|w| w.bound = None);
    }
    fn notify(&mut self) {
        self.with(|w| w.notified = w.notified.saturating_add(1));
    }
    fn signalled(&mut self) -> bool {
        true
    }
    fn load(&self, offset: usize) -> u32 {
        if self.mapped(offset) { self.word(offset) } else { 0 }
    }
    fn store(&self, offset: usize, value: u32) {
        if self.mapped(offset) {
            self.set_word(offset, value);
        }
    }
}
