//! The controller, as a guest sees it: sectors that a guest has read or written by programmed I/O are compared with the image.
use super::super::{Ide, spec};
use super::world::{Images, Shared, locked};
use crate::ata::spec::{SECTOR, Status, command};
use bulkhead_bus::pci::ConfigSpace;
use bulkhead_bus::{
    Access, Context, Declaration, Device, DriveError, DriveFacts, Drives, Inspect, IoResult, Ready, RegionId, Reset,
    Shadows, StateError,
};
use rustix::fd::OwnedFd;

/// Most sectors of a command that is followed.
const FOLLOWED: u32 = 256;

/// A command that transfers sectors by the data register.
#[derive(Debug)]
struct Transfer {
    channel: usize,
    place: usize,
    offset: u64,
    writes: bool,
    /// All bytes of the command, and the bytes that the guest has read or written.
    want: usize,
    bytes: Vec<u8>,
    /// Bytes of a block, and those of the current block.
    block: usize,
    in_block: usize,
    /// The world's count at the command.
    changes: u64,
}

/// The controller with an eye on its data register.
pub(super) struct Watched {
    ide: Ide,
    world: Shared,
    images: Images,
    transfers: [Option<Transfer>; 2],
}

impl Watched {
    pub(super) fn new(ide: Ide, world: Shared, images: Images) -> Self {
        let mut new = Self { ide, world, images, transfers: [None, None] };
        new.name_images();
        new
    }

    /// Tells the storage which image is that of which drive.
    fn name_images(&mut self) {
        for (index, image) in (0u8..).zip(locked(&self.images).iter_mut()) {
            *image = self.ide.drive(index).ok().and_then(|drive| drive.image.clone());
        }
    }

    fn forget(&mut self) {
        self.transfers = [None, None];
    }

    fn status(&self, channel: usize) -> Status {
        self.ide.channels.get(channel).map_or(Status::new(), |c| Status::from_bits(c.status()))
    }

    /// The transfer of the command `code` that the guest is about to write, from the registers.
    fn begins(&self, channel: usize, code: u8) -> Option<Transfer> {
        use command::*;
        let multiple = matches!(code, READ_MULTIPLE | READ_MULTIPLE_EXT | WRITE_MULTIPLE | WRITE_MULTIPLE_EXT);
        let (writes, ext) = match code {
            READ_SECTORS | READ_SECTORS_NORETRY | READ_MULTIPLE => (false, false),
            READ_SECTORS_EXT | READ_MULTIPLE_EXT => (false, true),
            WRITE_SECTORS | WRITE_SECTORS_NORETRY | WRITE_MULTIPLE => (true, false),
            WRITE_SECTORS_EXT | WRITE_MULTIPLE_EXT => (true, true),
            _ => return None,
        };
        if self.status(channel).bsy() {
            return None;
        }
        let saved = self.ide.channels.get(channel)?.save();
        let second = usize::from(saved.device & 0x10 != 0);
        let place = channel.saturating_mul(2).saturating_add(second);
        let world = locked(&self.world);
        let on = |place: usize| world.places.get(place).is_some_and(Option::is_some);
        // The saved state has drives without the gaps between them.
        let number = if second == 1 && on(channel.saturating_mul(2)) { 1 } else { 0 };
        let drive = saved.drives.get(number).filter(|_| on(place))?;
        let r = drive.registers?;
        if world.places.get(place)?.as_ref()?.cdrom || (!ext && saved.device & 0x40 == 0) {
            return None;
        }
        let low = r.lba_low | r.lba_mid << 8 | r.lba_high << 16;
        let high =
            if ext { r.lba_low_before | r.lba_mid_before << 8 | r.lba_high_before << 16 } else { saved.device & 0x0f };
        let count = match (ext, r.count, r.count_before) {
            (true, 0, 0) => 65536,
            (true, now, before) => now | before << 8,
            (false, 0, _) => 256,
            (false, now, _) => now,
        };
        let want = usize::try_from(count).ok().filter(|_| count <= FOLLOWED)?.saturating_mul(SECTOR);
        let block = if multiple { drive.multiple as usize } else { 1 };
        Some(Transfer {
            channel,
            place,
            offset: (u64::from(high) << 24 | u64::from(low)).saturating_mul(SECTOR as u64),
            writes,
            want,
            bytes: Vec::new(),
            block: block.saturating_mul(SECTOR),
            in_block: 0,
            changes: world.changes,
        })
    }

    /// The transfer of which the guest may now read or write bytes, and how many of `len`.
    fn next(&mut self, region: u16, len: usize, writes: bool) -> Option<(&mut Transfer, usize)> {
        let channel = usize::from(region >> 1);
        let status = self.status(channel);
        let transfer = self.transfers.get_mut(channel)?.as_mut()?;
        if !status.drq() || status.bsy() || transfer.writes != writes {
            return None;
        }
        let left = transfer.want.saturating_sub(transfer.bytes.len());
        let block = transfer.block.saturating_sub(transfer.in_block).min(left);
        let most = if writes { block } else { left };
        Some((transfer, len.min(most)))
    }

    fn will_write(&mut self, region: u16, data: &[u8]) {
        if let Some((transfer, n)) = self.next(region, data.len(), true) {
            transfer.bytes.extend_from_slice(data.get(..n).unwrap_or_default());
            let at = transfer.in_block.saturating_add(n);
            transfer.in_block = at.checked_rem(transfer.block).unwrap_or(0);
        }
    }

    /// Of `data`, which the guest has read, the first `next` bytes belong to the transfer.
    fn has_read(&mut self, region: u16, next: Option<usize>, data: &[u8]) {
        if let (Some(n), Some(Some(transfer))) = (next, self.transfers.get_mut(usize::from(region >> 1))) {
            transfer.bytes.extend_from_slice(data.get(..n).unwrap_or_default());
            self.check();
        }
    }

    /// Checks the transfers that are complete.
    fn check(&mut self) {
        for channel in 0..2 {
            let status = self.status(channel);
            let Some(transfer) = self.transfers.get_mut(channel).and_then(Option::take) else { continue };
            let complete = transfer.bytes.len() >= transfer.want;
            if status.err() || status.df() {
                continue;
            }
            if !complete || (transfer.writes && (status.bsy() || status.drq())) {
                if let Some(place) = self.transfers.get_mut(channel) {
                    *place = Some(transfer);
                }
                continue;
            }
            let mut world = locked(&self.world);
            let Some(disk) = world.places.get(transfer.place).and_then(|p| p.as_ref()?.medium.as_ref()) else {
                continue;
            };
            if transfer.changes != world.changes {
                continue;
            }
            let must = disk.expected(transfer.offset, transfer.want);
            let is = if transfer.writes { disk.actual(transfer.offset, transfer.want) } else { None };
            if transfer.bytes != must || is.is_some_and(|is| is != transfer.bytes) {
                let what = if transfer.writes { "written" } else { "read" };
                let Transfer { place, offset, want, channel, .. } = transfer;
                world.wrong(format!(
                    "{want} bytes at {offset:#x} that were {what} are not those of drive {place}, channel {channel}"
                ));
            }
        }
    }
}

impl Device for Watched {
    fn declaration(&self) -> Declaration {
        self.ide.declaration()
    }

    fn read(&mut self, at: Access, cx: &mut Context) -> IoResult<u64> {
        if matches!((at.region, at.offset), (0 | 2, spec::reg::DATA)) {
            let next = self.next(at.region, usize::from(at.size), false).map(|(_, n)| n);
            let value = self.ide.read(at, cx)?;
            self.has_read(at.region, next, value.to_le_bytes().get(..usize::from(at.size)).unwrap_or_default());
            return Ok(value);
        }
        self.ide.read(at, cx)
    }

    fn write(&mut self, at: Access, value: u64, cx: &mut Context) -> IoResult<()> {
        let channel = usize::from(at.region >> 1);
        match (at.region, at.offset) {
            (0 | 2, spec::reg::DATA) if at.size <= 4 => {
                self.will_write(at.region, value.to_le_bytes().get(..usize::from(at.size)).unwrap_or_default());
            }
            (0 | 2, spec::reg::STATUS_COMMAND) if at.size == 1 => {
                let begins = self.begins(channel, value as u8);
                self.ide.write(at, value, cx)?;
                if let Some(transfer) = self.transfers.get_mut(channel) {
                    *transfer = begins;
                }
                return Ok(());
            }
            // The status is that of the selected drive, and a reset ends the command.
            (0 | 2, spec::reg::DEVICE) | (1 | 3, _) => {
                if let Some(transfer) = self.transfers.get_mut(channel) {
                    *transfer = None;
                }
            }
            _ => {}
        }
        self.ide.write(at, value, cx)
    }

    fn read_string(&mut self, at: Access, data: &mut [u8], cx: &mut Context) -> IoResult<()> {
        let follows = matches!((at.region, at.offset), (0 | 2, spec::reg::DATA));
        let next = if follows { self.next(at.region, data.len(), false).map(|(_, n)| n) } else { None };
        let result = self.ide.read_string(at, data, cx);
        self.has_read(at.region, next, data);
        result
    }

    fn write_string(&mut self, at: Access, data: &[u8], cx: &mut Context) -> IoResult<()> {
        if matches!((at.region, at.offset), (0 | 2, spec::reg::DATA)) {
            self.will_write(at.region, data);
        }
        self.ide.write_string(at, data, cx)
    }

    fn config_read(&mut self, function: u8, offset: u8, size: u8) -> u32 {
        self.ide.config_read(function, offset, size)
    }

    fn config_write(&mut self, function: u8, offset: u8, size: u8, value: u32, cx: &mut Context) {
        self.ide.config_write(function, offset, size, value, cx);
    }

    fn config(&self, function: u8) -> Option<&ConfigSpace> {
        self.ide.config(function)
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        self.ide.poll(ready, cx);
        self.check();
    }

    fn reset(&mut self, kind: Reset, cx: &mut Context) {
        self.forget();
        self.ide.reset(kind, cx);
    }

    fn lost_writes(&mut self, region: RegionId, offset: u64, cx: &mut Context) {
        self.forget();
        self.ide.lost_writes(region, offset, cx);
    }

    fn unplug(&mut self, mask: u16, cx: &mut Context) -> bool {
        self.forget();
        self.ide.unplug(mask, cx)
    }

    fn quiescent(&self) -> bool {
        self.ide.quiescent()
    }

    fn running(&mut self, running: bool, cx: &mut Context) {
        self.ide.running(running, cx);
    }

    fn shadows(&self, out: &mut Shadows<'_>) {
        self.ide.shadows(out);
    }

    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        self.ide.checkpoint()
    }

    fn save(&self) -> Vec<u8> {
        self.ide.save()
    }

    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        self.forget();
        self.ide.load(state, cx)
    }

    fn inspect(&self, out: &mut Inspect) {
        self.ide.inspect(out);
    }

    fn drives(&mut self) -> Option<&mut dyn Drives> {
        Some(self)
    }
}

impl Drives for Watched {
    fn eject(&mut self, drive: u8, force: bool, cx: &mut Context) -> Result<(), DriveError> {
        self.ide.eject(drive, force, cx)?;
        self.name_images();
        Ok(())
    }

    fn insert(&mut self, drive: u8, medium: OwnedFd, cx: &mut Context) -> Result<(), DriveError> {
        self.ide.insert(drive, medium, cx)?;
        self.name_images();
        Ok(())
    }

    fn facts(&self) -> Vec<DriveFacts> {
        self.ide.facts()
    }
}
