//! Guest memory through foreign mappings, in buckets of consecutive pages.
//!
//! A guest chooses the addresses, so it chooses how many buckets a transfer touches: 8,192 entries of a PRD table can name as many.
//! The mapped buckets are bounded: [`BUCKETS`] in the cache and [`KEPT`] for each call that copies between a file and the guest.
//! The profiles' `address_space` has room for them.
use super::{PAGE, Vector, map_frames};
use bulkhead_bus::{DmaError, GuestMemory, Segment};
use bulkhead_ring::SharedArea;
use bulkhead_xen_abi::DomId;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Pages that one call maps. Larger buckets waste work when few pages are used, smaller ones need more calls.
const BUCKET_PAGES: usize = 64;
/// Bytes of a bucket: 256 KiB.
const BUCKET: u64 = (BUCKET_PAGES * PAGE) as u64;
/// Most buckets that stay mapped: 16 MiB of the guest.
const BUCKETS: usize = 64;
/// Most buckets that a copy between a file and the guest keeps mapped at once: 16 MiB. One system call takes as many pieces.
const KEPT: usize = 64;
/// Guest-physical addresses are below this limit of 48 bits.
const ADDRESS_LIMIT: u64 = 1 << 48;

type Result<T> = std::result::Result<T, DmaError>;

/// Maps guest frames; `errors` gets an error number for each frame that is not RAM.
trait Frames: Send + Sync {
    fn map(&self, frames: &[u64], errors: &mut [i32]) -> std::io::Result<SharedArea>;
}

/// A privcmd that is restricted to a domain.
struct Privcmd {
    fd: OwnedFd,
    domid: DomId,
}

impl Frames for Privcmd {
    fn map(&self, frames: &[u64], errors: &mut [i32]) -> std::io::Result<SharedArea> {
        map_frames(self.fd.as_fd(), self.domid, frames, errors)
    }
}

/// A mapped range of consecutive pages, and which of them are RAM.
#[derive(Debug)]
struct Bucket {
    number: u64,
    area: SharedArea,
    present: Vec<bool>,
    used: AtomicU64,
}

/// Guest memory through foreign mappings.
pub struct ForeignMemory {
    frames: Box<dyn Frames>,
    buckets: Mutex<HashMap<u64, Arc<Bucket>>>,
    clock: AtomicU64,
}

/// A range of guest memory inside one bucket.
struct Piece {
    address: u64,
    /// The bucket's number.
    bucket: u64,
    /// Offset in the bucket.
    inside: usize,
    /// Place of its bytes in the whole range.
    range: Range<usize>,
}

/// Splits `len` bytes at `address` at the borders of buckets.
fn pieces(address: u64, len: usize) -> Result<impl Iterator<Item = Piece>> {
    if address.checked_add(len as u64).is_none_or(|end| end > ADDRESS_LIMIT) {
        return Err(DmaError::NoRam(address));
    }
    let mut done = 0usize;
    Ok(std::iter::from_fn(move || {
        let left = len.checked_sub(done).filter(|left| *left > 0)?;
        let at = address.saturating_add(done as u64);
        let inside = (at & BUCKET.wrapping_sub(1)) as usize;
        let end = done.saturating_add(left.min((BUCKET as usize).saturating_sub(inside)));
        let range = done..end;
        done = end;
        Some(Piece { address: at, bucket: at >> BUCKET.trailing_zeros(), inside, range })
    }))
}

impl Bucket {
    /// Whether all pages of a piece are RAM.
    fn has(&self, piece: &Piece) -> Result<()> {
        let last = piece.inside.saturating_add(piece.range.len()).saturating_sub(1) >> 12;
        let pages = self.present.get(piece.inside >> 12..=last);
        if pages.is_some_and(|pages| pages.iter().all(|p| *p)) { Ok(()) } else { Err(DmaError::NoRam(piece.address)) }
    }
}

impl ForeignMemory {
    /// Memory of `domid`; `privcmd` is restricted to it.
    pub fn new(privcmd: OwnedFd, domid: DomId) -> Self {
        Self::with(Box::new(Privcmd { fd: privcmd, domid }))
    }

    fn with(frames: Box<dyn Frames>) -> Self {
        Self { frames, buckets: Mutex::default(), clock: 0.into() }
    }

    /// The bucket with this number, from the cache or mapped now.
    fn bucket(&self, number: u64) -> Result<Arc<Bucket>> {
        let address = number.saturating_mul(BUCKET);
        let now = self.clock.fetch_add(1, Relaxed);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get(&number) {
            bucket.used.store(now, Relaxed);
            return Ok(bucket.clone());
        }
        if buckets.len() >= BUCKETS
            && let Some(oldest) = buckets.iter().min_by_key(|(_, b)| b.used.load(Relaxed)).map(|(n, _)| *n)
        {
            buckets.remove(&oldest);
        }
        let frames: Vec<u64> = (address >> 12..).take(BUCKET_PAGES).collect();
        let mut errors = vec![0; BUCKET_PAGES];
        let area = self.frames.map(&frames, &mut errors).map_err(|_| DmaError::NoRam(address))?;
        let present: Vec<bool> = errors.iter().map(|e| *e == 0).collect();
        let bucket = Arc::new(Bucket { number, area, present, used: now.into() });
        buckets.insert(number, bucket.clone());
        Ok(bucket)
    }

    /// Copies between a file and the guest, in as many steps as the budget of mapped buckets needs: one for most transfers. Returns
    /// the bytes copied, fewer at the file's end. If there is no RAM, the steps before have been made.
    fn transfer(&self, file: BorrowedFd<'_>, offset: u64, segments: &[Segment], write: bool) -> Result<usize> {
        let mut step = Step::default();
        let mut total = 0usize;
        let mut run = |step: Step| {
            let (at, bytes) = (offset.saturating_add(total as u64), step.bytes);
            let n = step.vector.run(file, at, write)?;
            total = total.saturating_add(n);
            Ok((total, n == bytes))
        };
        for segment in segments {
            for piece in pieces(segment.address, segment.len as usize)? {
                if step.full_for(piece.bucket) {
                    let (total, whole) = run(std::mem::take(&mut step))?;
                    if !whole {
                        return Ok(total);
                    }
                }
                step.add(&piece, |number| self.bucket(number))?;
            }
        }
        run(step).map(|(total, _)| total)
    }
}

/// One step of a transfer.
#[derive(Default)]
struct Step {
    vector: Vector,
    bytes: usize,
    /// The buckets into which the vector points, each once. They stay mapped while it runs.
    kept: Vec<Arc<Bucket>>,
}

impl Step {
    fn kept(&self, bucket: u64) -> Option<&Arc<Bucket>> {
        // Consecutive pieces are often in one bucket.
        self.kept.iter().rev().find(|k| k.number == bucket)
    }

    /// Whether there is no room for a piece of this bucket.
    fn full_for(&self, bucket: u64) -> bool {
        self.kept.len() >= KEPT && self.kept(bucket).is_none()
    }

    /// Adds a piece. A bucket that is kept already is used again: the cache may have mapped it anew since, at another address, and
    /// would unmap that one while the vector runs.
    fn add(&mut self, piece: &Piece, find: impl FnOnce(u64) -> Result<Arc<Bucket>>) -> Result<()> {
        let bucket = match self.kept(piece.bucket) {
            Some(bucket) => bucket.clone(),
            None => {
                let bucket = find(piece.bucket)?;
                self.kept.push(bucket.clone());
                bucket
            }
        };
        bucket.has(piece)?;
        self.vector.push(&bucket.area, piece.inside, piece.range.len());
        self.bytes = self.bytes.saturating_add(piece.range.len());
        Ok(())
    }
}

impl GuestMemory for ForeignMemory {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<()> {
        for piece in pieces(address, to.len())? {
            let bucket = self.bucket(piece.bucket)?;
            bucket.has(&piece)?;
            let to = to.get_mut(piece.range).ok_or(DmaError::NoRam(address))?;
            if !bucket.area.copy_out(piece.inside, to) {
                return Err(DmaError::NoRam(address));
            }
        }
        Ok(())
    }
    fn write(&self, address: u64, from: &[u8]) -> Result<()> {
        for piece in pieces(address, from.len())? {
            let bucket = self.bucket(piece.bucket)?;
            bucket.has(&piece)?;
            let from = from.get(piece.range).ok_or(DmaError::NoRam(address))?;
            if !bucket.area.copy_in(piece.inside, from) {
                return Err(DmaError::NoRam(address));
            }
        }
        Ok(())
    }
    fn read_file(&self, file: BorrowedFd<'_>, offset: u64, to: &[Segment]) -> Result<usize> {
        self.transfer(file, offset, to, false)
    }
    fn write_file(&self, file: BorrowedFd<'_>, offset: u64, from: &[Segment]) -> Result<usize> {
        self.transfer(file, offset, from, true)
    }
    fn invalidate(&self) {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests;
