//! The images of a run. Making a file costs more than most runs, so a thread keeps its files, and clears those that were written.
use crate::backend::{Chain, Executor as _, Format, Image, Inline, Job};
use bulkhead_bus::NoMemory;
use rustix::fd::OwnedFd;
use rustix::fs::SeekFrom;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// Bytes of one piece of the expected content.
const PAGE: usize = 4096;
/// The first pages of a raw image hold their own numbers: each word is that of its place.
const NUMBERED: u64 = 16;

/// The first pages of a raw image.
static FIRST: LazyLock<[[u8; PAGE]; NUMBERED as usize]> = LazyLock::new(|| {
    let mut pages = [[0; PAGE]; NUMBERED as usize];
    for (number, word) in (0u32..).zip(pages.as_flattened_mut().as_chunks_mut::<4>().0) {
        *word = number.to_le_bytes();
    }
    pages
});

thread_local! {
    /// Clean images of earlier runs.
    static FREE: RefCell<Vec<Disk>> = const { RefCell::new(Vec::new()) };
}

/// The content of an image's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A raw image.
    Raw,
    /// A qcow2 image of zeroes.
    Tables,
}

/// An image, and what must be in it.
#[derive(Debug)]
pub(super) struct Disk {
    file: OwnedFd,
    kind: Kind,
    bytes: u64,
    /// Pages that differ from the image's first content.
    pages: BTreeMap<u64, Vec<u8>>,
    written: bool,
}

impl Disk {
    /// A clean image of `bytes` bytes.
    pub(super) fn new(kind: Kind, bytes: u64) -> Option<Self> {
        let kept = FREE.with(|free| {
            let mut free = free.borrow_mut();
            let at = free.iter().position(|disk| disk.kind == kind && disk.bytes == bytes)?;
            Some(free.swap_remove(at))
        });
        if kept.is_some() {
            return kept;
        }
        let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
        let new = Self { file, kind, bytes, pages: BTreeMap::new(), written: false };
        new.format()?;
        Some(new)
    }

    /// Writes the first content.
    fn format(&self) -> Option<()> {
        rustix::fs::ftruncate(&self.file, 0).ok()?;
        match self.kind {
            Kind::Raw => {
                rustix::fs::ftruncate(&self.file, self.bytes).ok()?;
                let pages = FIRST.as_flattened();
                let len = self.bytes.min(pages.len() as u64) as usize;
                rustix::io::pwrite(&self.file, pages.get(..len)?, 0).ok()?;
            }
            Kind::Tables => drop(rustix::io::pwrite(&self.file, &empty_tables(self.bytes), 0).ok()?),
        }
        Some(())
    }

    /// The image as a process gets it.
    pub(super) fn open(&self, writable: bool) -> Option<Image> {
        let file = rustix::io::fcntl_dupfd_cloexec(&self.file, 0).ok()?;
        match self.kind {
            Kind::Raw => Some(Image::raw(file, self.bytes)),
            Kind::Tables => Chain::new(vec![(file, Format::Qcow2)], writable).and_then(Chain::open).ok(),
        }
    }

    /// Its file, as a new medium.
    pub(super) fn medium(&self) -> Option<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.file, 0).ok()
    }

    /// A raw image's file becomes shorter. Only the host does this.
    pub(super) fn truncate(&mut self, bytes: u64) {
        if self.kind == Kind::Raw && bytes < self.bytes {
            self.written = true;
            if rustix::fs::ftruncate(&self.file, bytes).is_ok() {
                self.zero(bytes, self.bytes);
            }
        }
    }

    fn first(&self, page: u64) -> &'static [u8] {
        let numbered = if self.kind == Kind::Raw { FIRST.get(page as usize) } else { None };
        numbered.map_or(&[0; PAGE], |page| page)
    }

    fn page(&mut self, number: u64) -> &mut Vec<u8> {
        let first = self.first(number);
        self.pages.entry(number).or_insert_with(|| first.to_vec())
    }

    /// These bytes were written.
    pub(super) fn wrote(&mut self, offset: u64, data: &[u8]) {
        self.written = true;
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let inside = at.rem_euclid(PAGE as u64) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE.saturating_sub(inside)));
            let page = self.page(at.div_euclid(PAGE as u64));
            if let Some(to) = page.get_mut(inside..inside.saturating_add(now.len())) {
                to.copy_from_slice(now);
            }
            at = at.saturating_add(now.len() as u64);
            rest = later;
        }
    }

    /// These bytes are zeroes now.
    pub(super) fn zero(&mut self, from: u64, to: u64) {
        self.written = true;
        let (first, last) = (from.div_euclid(PAGE as u64), to.div_ceil(PAGE as u64));
        let changed = self.pages.keys().copied().filter(|page| (first..last).contains(page));
        let all: Vec<u64> = (first..last.min(NUMBERED)).chain(changed).collect();
        for number in all {
            let begin = number.saturating_mul(PAGE as u64);
            let page = self.page(number);
            let inside = from.saturating_sub(begin) as usize..to.saturating_sub(begin).min(PAGE as u64) as usize;
            if let Some(bytes) = page.get_mut(inside) {
                bytes.fill(0);
            }
        }
    }

    /// What must be in `len` bytes from `offset`.
    pub(super) fn expected(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut all = Vec::with_capacity(len);
        let mut at = offset;
        while all.len() < len {
            let number = at.div_euclid(PAGE as u64);
            let page = self.pages.get(&number).map_or(self.first(number), Vec::as_slice);
            let rest = page.get(at.rem_euclid(PAGE as u64) as usize..).unwrap_or_default();
            let now = rest.get(..len.saturating_sub(all.len())).unwrap_or(rest);
            all.extend_from_slice(now);
            at = at.saturating_add(now.len() as u64);
        }
        all
    }

    /// What is in the file of a raw image; beyond its end are zeroes.
    pub(super) fn actual(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        if self.kind != Kind::Raw {
            return None;
        }
        let mut data = vec![0; len];
        let mut done = 0usize;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&self.file, rest, offset.saturating_add(done as u64)) {
                Ok(n @ 1..) => done = done.saturating_add(n),
                _ => break,
            }
        }
        Some(data)
    }

    /// Whether it has tables, which a failed job may leave in several states.
    pub(super) fn has_tables(&self) -> bool {
        self.kind == Kind::Tables
    }

    /// The pages of a range that differ from the first content: begin and length.
    pub(super) fn pieces(&self, at: u64, len: u64) -> Vec<(u64, usize)> {
        let end = at.saturating_add(len).min(self.bytes);
        let begins = self.pages.keys().map(|n| n.saturating_mul(PAGE as u64));
        let pieces = begins.map(|begin| (begin.max(at), begin.saturating_add(PAGE as u64).min(end)));
        pieces
            .filter(|(begin, end)| begin < end)
            .map(|(begin, end)| (begin, end.saturating_sub(begin) as usize))
            .collect()
    }

    /// Checks that what was written is in the file, and that nothing else has changed.
    pub(super) fn holds(&self) -> Result<(), String> {
        if !self.written {
            return Ok(());
        }
        if self.has_tables() {
            return self.tables_hold();
        }
        let len = rustix::fs::fstat(&self.file).map_or(0, |stat| stat.st_size as u64);
        if len > self.bytes {
            return Err(format!("the image of {} bytes has {len} bytes", self.bytes));
        }
        let kept = self.pages.keys().copied().chain(0..NUMBERED);
        let pages = kept.take_while(|n| n.saturating_mul(PAGE as u64) < self.bytes);
        for number in pages {
            self.check_page(number)?;
        }
        // All other data in the file must be zeroes.
        let mut at = 0;
        while let Ok(begin) = rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            let end = rustix::fs::seek(&self.file, SeekFrom::Hole(begin)).unwrap_or(begin);
            for number in begin.div_euclid(PAGE as u64)..end.div_ceil(PAGE as u64) {
                if number >= NUMBERED && !self.pages.contains_key(&number) {
                    self.check_page(number)?;
                }
            }
            if end <= begin {
                break;
            }
            at = end;
        }
        Ok(())
    }

    /// The same for an image with tables, as a new process reads it.
    fn tables_hold(&self) -> Result<(), String> {
        let image = self.open(false).ok_or("an image that was written is refused")?;
        let mut reader = Inline::new(Arc::new(NoMemory));
        for (number, must) in &self.pages {
            let offset = number.saturating_mul(PAGE as u64);
            let len = self.bytes.saturating_sub(offset).min(PAGE as u64) as usize;
            let is = reader.at_once(&image, &Job::Read { offset, len }).and_then(|(outcome, _)| outcome.ok());
            if is.as_deref() != must.get(..len) {
                return Err(format!("byte {offset:#x} of an image with tables is not what was written last"));
            }
        }
        Ok(())
    }

    fn check_page(&self, number: u64) -> Result<(), String> {
        let begin = number.saturating_mul(PAGE as u64);
        let len = self.bytes.saturating_sub(begin).min(PAGE as u64) as usize;
        let (is, must) = (self.actual(begin, len).unwrap_or_default(), self.expected(begin, len));
        if is == must {
            return Ok(());
        }
        match is.iter().zip(&must).position(|(is, must)| is != must) {
            Some(at) => {
                Err(format!("byte {:#x} of an image is not what was written last", begin.saturating_add(at as u64)))
            }
            None => Ok(()),
        }
    }

    /// Gives the image back.
    pub(super) fn keep(mut self) {
        if self.written {
            self.pages.clear();
            self.written = false;
            if self.format().is_none() {
                return;
            }
        }
        // At a thread's end there is no list any more.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < 64 {
                free.push(self);
            }
        });
    }
}

/// A qcow2 image of zeroes (QEMU, docs/interop/qcow2.rst): header, table of reference counts, a block of them, level 1 table; a
/// cluster each.
fn empty_tables(bytes: u64) -> Vec<u8> {
    let mut image = vec![0; PAGE.saturating_mul(4)];
    let mut put = |at: usize, bytes: &[u8]| {
        image.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    };
    let cluster = |n: u64| n.saturating_mul(PAGE as u64).to_be_bytes();
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &12u32.to_be_bytes());
    put(24, &bytes.to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &cluster(3));
    put(48, &cluster(1));
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(PAGE, &cluster(2));
    put(PAGE.saturating_mul(2), &[0, 1, 0, 1, 0, 1, 0, 1]);
    image
}
