//! Data transfer by the bus master (Intel, Programming Interface for Bus Master IDE Controller 1.0).
use super::bus_master::{Progress, shown};
use super::{After, Channel, TransferPhase};
use crate::ata::drive::Drive;
use crate::ata::spec::Status;
use crate::ata::transfer::{Data, List, Reply};
use crate::backend::Executor;
use bulkhead_bus::{Context, DmaError, Segment};

/// Most entries of a PRD table, which may not cross 64 KiB.
const PRDS: usize = 8192;

/// A transfer as described by a PRD table.
struct Described {
    /// Its buffers in guest memory.
    segments: Vec<Segment>,
    /// The table's length in comparison to the transfer's: equal, longer or shorter.
    progress: Progress,
    /// Address of the entry at which the next transfer begins, and the number of its used bytes.
    position: (u32, u32),
}

impl Channel {
    /// A command is ready for DMA: begins the transfer if the bus master is armed, or waits for it.
    pub(super) fn prepare_dma(&mut self, data: Data, io: &mut dyn Executor, cx: &mut Context) {
        if let Some(current) = self.current() {
            current.task_file.status = Status::new().with_drdy(true).with_bsy(true);
        }
        self.phase = TransferPhase::AwaitDma(data);
        if self.bus_master.may_transfer() {
            self.start_dma(io, cx);
        }
    }

    /// Reads the PRD table for the next `bytes` bytes; `None` if the table is outside of RAM.
    fn described(&self, bytes: usize, cx: &Context) -> Option<Described> {
        let mut segments = Vec::new();
        let mut need = bytes;
        let (next, mut used) = self.bus_master.position();
        let mut at = u64::from(next);
        let mut page = [0; 512];
        let mut cached = 0..0;
        for _ in 0..PRDS {
            // The table is read in pieces of 512 bytes, at the end of RAM entry by entry.
            if !(cached.start <= at && at.saturating_add(8) <= cached.end) {
                if cx.memory.read(at, &mut page).is_ok() {
                    cached = at..at.saturating_add(512);
                } else {
                    cx.memory.read(at, page.first_chunk_mut::<8>()?).ok()?;
                    cached = at..at.saturating_add(8);
                }
            }
            let inside = usize::try_from(at.saturating_sub(cached.start)).ok()?;
            let entry = page.get(inside..)?.first_chunk::<8>()?;
            let [a0, a1, a2, a3, c0, c1, _, flags] = *entry;
            let address = u32::from_le_bytes([a0, a1, a2, a3]) & !1;
            let count = match u16::from_le_bytes([c0, c1]) & !1 {
                0 => 0x1_0000,
                n => u32::from(n),
            };
            let last = flags & 0x80 != 0;
            let len = u32::try_from(need).unwrap_or(u32::MAX).min(count.saturating_sub(used));
            if len > 0 {
                segments.push(Segment { address: u64::from(address).saturating_add(u64::from(used)), len });
            }
            used = used.saturating_add(len);
            need = need.saturating_sub(len as usize);
            let entry_ends = used >= count;
            let progress = match (need, last && entry_ends) {
                (0, true) => Some(Progress::Equal),
                (0, false) => Some(Progress::Longer),
                (_, true) => Some(Progress::Shorter),
                (_, false) => None,
            };
            if entry_ends && !last {
                at = at.saturating_add(8);
                used = 0;
            }
            if let Some(progress) = progress {
                return Some(Described { segments, progress, position: (u32::try_from(at).ok()?, used) });
            }
        }
        // The table has no end mark and exceeds the longest table.
        Some(Described { segments, progress: Progress::Shorter, position: (0, 0) })
    }

    fn start_dma(&mut self, io: &mut dyn Executor, cx: &mut Context) {
        // If no command waits for DMA, the engine is armed, and a command in progress continues.
        let TransferPhase::AwaitDma(data) = &self.phase else { return };
        let (bytes, to_memory) = (data.bytes(), data.to_host());
        let TransferPhase::AwaitDma(data) = std::mem::replace(&mut self.phase, TransferPhase::Idle) else { return };
        let direction_right = self.bus_master.command().to_memory() == to_memory;
        let Some(described) = self.described(bytes, cx).filter(|_| direction_right) else {
            return self.dma_failed();
        };
        let Described { segments, progress, position } = described;
        if !shown(progress, true).interrupt {
            return self.dma_short();
        }
        self.bus_master.begin(progress, position);
        match data {
            Data::In(sectors) if sectors.unchanged() => self.submit(sectors.read_to(segments), After::Dma, io),
            Data::Out(sectors) => self.submit(sectors.write_from(segments), After::Dma, io),
            Data::In(sectors) => {
                self.to = segments.into();
                self.sectors = sectors;
                self.fetch(After::Formed, io);
            }
            Data::Bytes(data) => {
                self.to = segments.into();
                match self.scatter(&data, cx) {
                    Ok(()) => self.dma_done(),
                    Err(_) => self.dma_failed(),
                }
            }
            Data::List { list, .. } => match Self::gathered(segments, cx) {
                Ok(data) => self.list_by_dma(list, &data, io),
                Err(_) => self.dma_failed(),
            },
        }
    }

    /// Passes a complete list to the drive.
    fn list_by_dma(&mut self, list: List, data: &[u8], io: &mut dyn Executor) {
        match self.with(|drive, r| drive.list(list, data, r)) {
            Some(Reply::Job(job)) => return self.submit(job, After::Dma, io),
            // Refused ranges end the transfer with an error; the transfer of parameters succeeds even if they are refused.
            _ if list == List::Ranges => self.bus_master.ended(Progress::Failed),
            _ => self.bus_master.done(),
        }
        self.ended();
    }

    fn gathered(segments: Vec<Segment>, cx: &Context) -> Result<Vec<u8>, DmaError> {
        let mut list = Vec::new();
        for segment in segments {
            let mut piece = vec![0; segment.len as usize];
            cx.memory.read(segment.address, &mut piece)?;
            list.append(&mut piece);
        }
        Ok(list)
    }

    /// Copies bytes to the next destinations of the transfer.
    pub(super) fn scatter(&mut self, data: &[u8], cx: &Context) -> Result<(), DmaError> {
        let mut rest = data;
        while !rest.is_empty() {
            let Some(segment) = self.to.pop_front() else { return Ok(()) };
            let (now, later) = rest.split_at(rest.len().min(segment.len as usize));
            cx.memory.write(segment.address, now)?;
            rest = later;
            let written = u32::try_from(now.len()).unwrap_or(u32::MAX);
            if written < segment.len {
                let address = segment.address.saturating_add(u64::from(written));
                self.to.push_front(Segment { address, len: segment.len.saturating_sub(written) });
            }
        }
        Ok(())
    }

    /// The table is shorter than the transfer. The drive waits for the rest without an interrupt or an error; the next command or a
    /// reset finds it ready. Nothing is transferred, because a partial write would be one that the guest has not requested.
    fn dma_short(&mut self) {
        self.bus_master.ended(Progress::Shorter);
        self.phase = TransferPhase::Idle;
        if let Some(current) = self.current() {
            current.task_file.status = Status::READY;
        }
    }

    pub(super) fn dma_failed(&mut self) {
        self.bus_master.ended(Progress::Refused);
        self.with(Drive::transfer_failed);
        self.ended();
    }

    pub(super) fn dma_done(&mut self) {
        self.bus_master.done();
        self.done();
    }

    /// Writes a bus master register, and begins a waiting transfer if Start is set.
    pub(crate) fn bm_write(&mut self, offset: u64, size: u8, value: u32, io: &mut dyn Executor, cx: &mut Context) {
        self.dirty = true;
        if self.bus_master.write(offset, size, value) {
            self.start_dma(io, cx);
        }
    }
}
