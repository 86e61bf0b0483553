//! How far the file of a qcow2 image grows while its guest writes. Source: QEMU's docs/interop/qcow2.rst.
use bulkhead_plan::intake::Header;

/// Room for clusters that nobody uses any more: a process that dies while it writes leaves some allocated.
const SPARE: u64 = 64 << 20;

/// Most bytes that the file, which has `len` now, needs while the guest writes: what it has, a cluster for each of the disk's, and
/// the tables of all that. What the file has already may stay beside the new clusters, because of internal snapshots and
/// compressed clusters.
pub(super) fn grows_to(header: &Header, len: u64) -> u64 {
    whole(header, len).saturating_add(SPARE)
}

/// [`grows_to`] without the spare room.
fn whole(header: &Header, len: u64) -> u64 {
    let cluster = 1u64 << header.cluster_bits;
    // Entries of 8 bytes, in tables of a cluster.
    let tables = |entries: u64| entries.div_ceil(cluster >> 3);
    let data = header.size.div_ceil(cluster);
    let clusters = len.div_ceil(cluster).saturating_add(data).saturating_add(tables(data));
    // A block of reference counts counts itself too.
    let per_block = (cluster << 3) >> header.refcount_order;
    let blocks = clusters.div_ceil(per_block.saturating_sub(1).max(1));
    // When the table of these blocks grows, the old one is there until the new one is complete.
    let table = tables(blocks).saturating_add(1).saturating_mul(2);
    clusters.saturating_add(blocks).saturating_add(table).saturating_mul(cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `qemu-img measure` counts the same clusters for a disk that is written everywhere.
    #[test]
    fn a_disk_that_is_written_everywhere_fits_and_little_more_does() {
        let measure = |size: u64, bits: u8, order: u8| {
            let options = format!("cluster_size={},refcount_bits={}", 1u64 << bits, 1 << order);
            let out = std::process::Command::new("qemu-img")
                .args(["measure", "-O", "qcow2", "-o", &options, "--size", &size.to_string()])
                .output()
                .unwrap();
            let text = String::from_utf8(out.stdout).unwrap();
            let line = text.lines().find_map(|l| l.strip_prefix("fully allocated size: ")).unwrap();
            line.parse::<u64>().unwrap()
        };
        for size in [512, 1 << 20, 10 << 30, (2 << 40) - 512] {
            for (bits, order) in [(9, 0), (9, 6), (12, 4), (16, 4), (16, 6), (21, 4)] {
                // QEMU does not make such an image, because its first table is too large.
                if size >> bits > 1 << 28 {
                    continue;
                }
                let header = Header { size, cluster_bits: bits, refcount_order: order, backing: None };
                let (all, whole) = (measure(size, bits, order), whole(&header, 0));
                // The header and the first table, which the file has from the start, are its length's.
                let first = 8 * (size.div_ceil(1 << bits).div_ceil(1 << (bits - 3)) + (1 << bits));
                assert!(whole + 2 * first >= all, "{size} {bits} {order}: {whole} < {all}");
                assert!(whole <= all + all / 50 + (4 << bits), "{size} {bits} {order}: {whole} > {all}");
            }
        }
    }

    #[test]
    fn any_size_and_length_have_a_bound_that_is_not_below_them() {
        for (bits, order) in [(9, 6), (16, 4), (21, 0)] {
            let of =
                |size, len| grows_to(&Header { size, cluster_bits: bits, refcount_order: order, backing: None }, len);
            assert_eq!((of(u64::MAX, 0), of(0, u64::MAX), of(u64::MAX, u64::MAX)), (u64::MAX, u64::MAX, u64::MAX));
            assert!(of(1 << 30, 1 << 20) > (1 << 30) + (1 << 20));
        }
    }
}
