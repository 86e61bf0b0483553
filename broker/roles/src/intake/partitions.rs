//! The partition table in a disk's first sector. Only the end of its first partition matters: it says with how many heads and
//! sectors the disk was partitioned. A hostile sector can deceive its own guest alone.
use bulkhead_plan::intake::Partitioned;

/// Bytes of the first sector.
pub(super) const SECTOR: usize = 512;
/// Offset of the partition table in the first sector. The sector ends with the signature.
const PARTITIONS: usize = 0x1be;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// Most cylinders in IDENTIFY DEVICE's answer (ATA/ATAPI-5, 6.2.1).
const MOST_CYLINDERS: u64 = 16383;

/// Cylinders, heads and sectors of a track, from the end of the first partition. `total`: sectors of the disk.
pub(super) fn partitioned(first: &[u8; SECTOR], total: u64) -> Option<Partitioned> {
    if !first.ends_with(&SIGNATURE) {
        return None;
    }
    let entries = first.get(PARTITIONS..)?.as_chunks::<16>().0;
    entries.iter().take(4).find_map(|entry| {
        let [_, _, _, _, _, head, sector, _, _, _, _, _, count @ ..] = *entry;
        let (heads, sectors) = (u16::from(head).saturating_add(1), sector & 0x3f);
        if u32::from_le_bytes(count) == 0 || heads == 1 || sectors == 0 {
            return None;
        }
        let cylinders = total.checked_div(u64::from(heads).saturating_mul(sectors.into()))?;
        let cylinders = Some(cylinders).filter(|c| (1..=MOST_CYLINDERS).contains(c))?;
        Some(Partitioned { cylinders: cylinders as u16, heads, sectors })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(end: [u8; 3]) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        bytes[PARTITIONS..][..16]
            .copy_from_slice(&[0x80, 1, 1, 0, 6, end[0], end[1], end[2], 63, 0, 0, 0, 0x41, 0x1f, 0, 0]);
        bytes[510..].copy_from_slice(&SIGNATURE);
        bytes
    }

    #[test]
    fn heads_and_sectors_are_those_of_the_first_partitions_end() {
        let seen = |first: [u8; SECTOR]| partitioned(&first, 61_440).map(|p| (p.cylinders, p.heads, p.sectors));
        assert_eq!(seen(sector([127, 63, 0])), Some((7, 128, 63)));
        assert_eq!(seen(sector([255, 63, 0])), Some((3, 256, 63)));
        assert_eq!(seen(sector([3, 32, 7])), Some((480, 4, 32)));
        // Sectors without a usable table.
        let mut unsigned = sector([127, 63, 0]);
        unsigned[510] = 0;
        for first in [[0; SECTOR], unsigned, sector([0, 63, 7]), sector([3, 0, 7]), [0xff; SECTOR]] {
            assert_eq!(seen(first), None);
        }
        assert_eq!(partitioned(&sector([3, 32, 7]), 0), None);
    }
}
