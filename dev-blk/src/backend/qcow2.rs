//! Checks of a qcow2 image before the library opens it for writing. The library clears the auto-clear features before it has
//! checked the rest of the image, but a refused image must not have been changed.
//! Source: QEMU's docs/interop/qcow2.rst, "Header", "Header extensions", "Host cluster management".
use super::error::Refusal;
use rustix::fd::AsFd;
use rustix::io::Errno;

/// Sizes of a cluster, as powers of two.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Most entries of the refcount table: the library's limit.
const MAX_ENTRIES: u64 = 4 << 20;
/// Most snapshots: QEMU's limit.
const MAX_SNAPSHOTS: u64 = 65536;
/// The header extension with the features' names, of 48 bytes each.
const FEATURE_NAMES: u32 = 0x6803_f857;
const FEATURE_NAME: u32 = 48;
/// Bytes that are read at once.
const PIECE: usize = 64 << 10;
/// Incompatible features, from bit 0. None is supported.
const INCOMPATIBLE: [&str; 5] = [
    "it was not closed, and its refcounts may be wrong (qemu-img check -r all)",
    "it is marked corrupt (qemu-img check)",
    "an external data file is not supported",
    "its compression is not supported",
    "extended L2 entries are not supported",
];

/// The effect of the library's opening for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inspection {
    /// Auto-clear features are set: an opening for writing changes the header.
    pub(super) auto_clear: bool,
}

/// Reads until `to` is full; bytes after the file's end are zero, as in the library.
fn read(file: impl AsFd, mut at: u64, to: &mut [u8]) -> Result<(), Refusal> {
    let mut rest = to;
    while !rest.is_empty() {
        match rustix::io::pread(&file, &mut *rest, at) {
            Ok(0) => {
                rest.fill(0);
                return Ok(());
            }
            Ok(n) => {
                at = at.saturating_add(n as u64);
                rest = rest.get_mut(n..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn word<const N: usize>(bytes: &[u8], at: u64) -> [u8; N] {
    usize::try_from(at).ok().and_then(|at| bytes.get(at..)?.first_chunk::<N>().copied()).unwrap_or([0; N])
}

/// Checks an image that the library will open for reading and, if `writable`, for writing. It leaves out the checks that the
/// library makes before it writes.
pub(super) fn inspect(file: impl AsFd, writable: bool) -> Result<Inspection, Refusal> {
    let mut header = vec![0; 112];
    read(&file, 0, &mut header)?;
    let u32_at = |at| u32::from_be_bytes(word(&header, at));
    let u64_at = |at| u64::from_be_bytes(word(&header, at));
    let (version, cluster_bits) = (u32_at(4), u32_at(20));
    if word(&header, 0) != *b"QFI\xfb" || !matches!(version, 2 | 3) || !CLUSTER_BITS.contains(&cluster_bits) {
        return Ok(Inspection { auto_clear: false });
    }
    if u32_at(32) != 0 {
        return Err(Refusal::Encrypted);
    }
    let features = if version == 3 { u64_at(72) } else { 0 };
    if features != 0 {
        let known = INCOMPATIBLE.iter().enumerate().find(|(bit, _)| features >> bit & 1 != 0);
        return Err(Refusal::Feature(known.map_or("it has features that nobody here knows", |(_, why)| why)));
    }
    tables(&header, writable)?;
    // The field exists only in longer headers; without the feature it is zero.
    if version == 3 && u32_at(100) > 104 && word::<1>(&header, 104) != [0] {
        return Err(Refusal::Feature(INCOMPATIBLE[3]));
    }
    if version == 3 {
        extensions(&file, u64::from(u32_at(100)), 1 << cluster_bits)?;
    }
    if writable {
        refcount_table(&file, u64_at(48), u64::from(u32_at(56)), cluster_bits)?;
    }
    Ok(Inspection { auto_clear: version == 3 && u64_at(88) != 0 })
}

/// Checks offsets and lengths of the tables. The library would grow an L1 table that is too small for the disk, and panics on
/// tables that overlap.
fn tables(header: &[u8], writable: bool) -> Result<(), Refusal> {
    let u32_at = |at| u64::from(u32::from_be_bytes(word(header, at)));
    let u64_at = |at| u64::from_be_bytes(word(header, at));
    let cluster = 1u64 << (u32_at(20) & 63);
    // An entry covers a table of one cluster, whose entries cover a cluster each.
    if u32_at(36) < u64_at(24).div_ceil(cluster.saturating_mul(cluster >> 3)) {
        return Err(Refusal::FirstLevel);
    }
    let (snapshots, table) = (u32_at(60), u64_at(64));
    if snapshots > MAX_SNAPSHOTS || !table.is_multiple_of(cluster) {
        return Err(Refusal::Snapshots);
    }
    let places =
        [(0, cluster), (u64_at(40), u32_at(36).saturating_mul(8)), (u64_at(48), u32_at(56).saturating_mul(cluster))];
    let apart = |a: (u64, u64), b: (u64, u64)| a.0.saturating_add(a.1) <= b.0 || b.0.saturating_add(b.1) <= a.0;
    let [header, first_level, refcounts] = places;
    if writable && !(apart(header, refcounts) && apart(first_level, refcounts)) {
        return Err(Refusal::Overlap);
    }
    Ok(())
}

/// The library panics on a table of names that ends within a name.
fn extensions(file: impl AsFd, mut at: u64, cluster: usize) -> Result<(), Refusal> {
    let mut bytes = vec![0; cluster];
    read(file, 0, &mut bytes)?;
    while at.saturating_add(8) <= cluster as u64 {
        let kind = u32::from_be_bytes(word(&bytes, at));
        let len = u32::from_be_bytes(word(&bytes, at.saturating_add(4)));
        if kind == 0 {
            break;
        }
        if kind == FEATURE_NAMES && !len.is_multiple_of(FEATURE_NAME) {
            return Err(Refusal::FeatureNames);
        }
        at = at.saturating_add(8).saturating_add(u64::from(len).next_multiple_of(8));
    }
    Ok(())
}

/// The library reads this table when it opens an image for writing, after it has written the header.
fn refcount_table(file: impl AsFd, offset: u64, clusters: u64, cluster_bits: u32) -> Result<(), Refusal> {
    let cluster = 1u64 << cluster_bits;
    let bytes = clusters.saturating_mul(cluster);
    // Without a refcount table every cluster seems free, the header's included.
    if offset == 0 || clusters == 0 {
        return Err(Refusal::NoRefcountTable);
    }
    if !offset.is_multiple_of(cluster) || bytes / 8 > MAX_ENTRIES || offset.saturating_add(bytes) > 1 << 56 {
        return Err(Refusal::RefcountTable);
    }
    let mut piece = vec![0; PIECE];
    let mut done = 0u64;
    while done < bytes {
        let len = bytes.saturating_sub(done).min(PIECE as u64);
        let part = piece.get_mut(..len as usize).unwrap_or_default();
        read(&file, offset.saturating_add(done), part)?;
        for entry in part.as_chunks().0 {
            let entry = u64::from_be_bytes(*entry);
            // The reserved bits of an entry are below the smallest cluster size.
            if !entry.is_multiple_of(cluster) {
                return Err(Refusal::RefcountEntry(entry));
            }
        }
        done = done.saturating_add(len);
    }
    Ok(())
}
