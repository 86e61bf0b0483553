//! What the guest's disks must contain: every sector's number of the last write that was acknowledged.
use std::path::Path;
use std::process::Command;

/// Bytes of the raw disk.
pub const RAW_BYTES: u64 = 2 << 20;
/// Bytes of the qcow2 disk.
pub const FORMATTED_BYTES: u64 = 16 << 20;
/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// What a sector may contain: the writes of which one must be there. Empty: anything.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known(Vec<u32>);

/// A disk of the guest.
#[derive(Debug)]
pub struct Disk {
    sectors: Vec<Known>,
}

/// The contents of sector `lba` of disk `disk` after write `number`; 0 is a disk that was never written.
pub fn contents(disk: u8, lba: u32, number: u32) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if number == 0 {
        return bytes;
    }
    let mut word = u64::from(lba) << 32 | u64::from(number);
    bytes[..8].copy_from_slice(&word.to_le_bytes());
    for place in bytes[8..].chunks_mut(8) {
        word = (word ^ word >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(disk));
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

impl Disk {
    /// A disk of this many bytes, all zero.
    pub fn new(bytes: u64) -> Self {
        Self { sectors: vec![Known(vec![0]); (bytes / SECTOR as u64) as usize] }
    }

    /// Number of sectors.
    pub fn len(&self) -> u32 {
        self.sectors.len() as u32
    }

    /// The guest was told that the write is done.
    pub fn done(&mut self, lba: u32, number: u32) {
        self.sectors[lba as usize] = Known(vec![number]);
    }

    /// The guest was told of an error, or of nothing: the sector has what it had, or what was written.
    pub fn unsure(&mut self, lba: u32, number: u32) {
        let Known(may) = &mut self.sectors[lba as usize];
        if !may.is_empty() {
            may.push(number);
        }
    }

    /// The host has destroyed these sectors.
    pub fn lost(&mut self, from: u32) {
        for known in self.sectors.iter_mut().skip(from as usize) {
            known.0.clear();
        }
    }

    /// Compares what was read with what must be there.
    pub fn check(&mut self, disk: u8, lba: u32, read: &[u8]) -> Result<(), String> {
        let Known(may) = &mut self.sectors[lba as usize];
        if may.is_empty() {
            return Ok(());
        }
        // The last one first: of a sector that was written often it is the likeliest.
        match may.iter().rev().find(|n| contents(disk, lba, **n) == read) {
            Some(number) => {
                *may = vec![*number];
                Ok(())
            }
            None => {
                let found: Vec<u64> =
                    read.chunks(8).take(3).map(|c| u64::from_le_bytes(c.try_into().unwrap_or_default())).collect();
                Err(format!("disk {disk}, sector {lba}: {found:x?} instead of write {may:x?}"))
            }
        }
    }

    /// Compares a whole image.
    pub fn check_all(&mut self, disk: u8, image: &[u8]) -> Result<(), String> {
        if image.len() != self.sectors.len() * SECTOR {
            return Err(format!("disk {disk} has {} bytes", image.len()));
        }
        for (lba, sector) in image.chunks(SECTOR).enumerate() {
            self.check(disk, lba as u32, sector)?;
        }
        Ok(())
    }
}

/// Runs qemu-img; its exit status and what it says.
pub fn qemu_img(arguments: &[&str]) -> Result<(i32, String), String> {
    let out = Command::new("qemu-img").args(arguments).output().map_err(|e| format!("qemu-img: {e}"))?;
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    Ok((out.status.code().unwrap_or(-1), said))
}

/// Reads the contents of a qcow2 image after it was checked. Clusters that nothing refers to are no damage: a process that was killed
/// leaves some. The contents pass through the file `raw`.
pub fn read_formatted(path: &Path, raw: &Path) -> Result<Vec<u8>, String> {
    let image = path.display().to_string();
    let (status, said) = qemu_img(&["check", &image])?;
    if status != 0 && status != 3 {
        return Err(format!("qemu-img check: status {status}: {said}"));
    }
    let (status, said) = qemu_img(&["convert", "-O", "raw", &image, &raw.display().to_string()])?;
    if status != 0 {
        return Err(format!("qemu-img convert: status {status}: {said}"));
    }
    let bytes = std::fs::read(raw).map_err(|e| e.to_string())?;
    let _ = std::fs::remove_file(raw);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_write_and_a_wrong_sector_are_found() {
        let mut disk = Disk::new(4096);
        disk.done(3, 7);
        disk.unsure(3, 8);
        assert_eq!(disk.clone_check(3, 7), Ok(()));
        assert_eq!(disk.clone_check(3, 8), Ok(()));
        assert!(disk.clone_check(3, 6).is_err() && disk.clone_check(3, 0).is_err());
        assert!(disk.check(0, 3, &contents(0, 4, 7)).is_err(), "another sector's");
        assert!(disk.check(0, 3, &contents(1, 3, 7)).is_err(), "another disk's");
        assert_eq!(disk.check(0, 3, &contents(0, 3, 7)), Ok(()));
        assert!(disk.check(0, 3, &contents(0, 3, 8)).is_err(), "it was seen to be the older one");
        disk.lost(2);
        assert_eq!(disk.check(0, 3, &contents(0, 3, 1)), Ok(()));
        assert!(disk.check_all(0, &[1; 4096]).is_err() && disk.check_all(0, &[0; 4096]).is_ok());
    }

    impl Disk {
        fn clone_check(&self, lba: u32, number: u32) -> Result<(), String> {
            Disk { sectors: self.sectors.clone() }.check(0, lba, &contents(0, lba, number))
        }
    }
}
