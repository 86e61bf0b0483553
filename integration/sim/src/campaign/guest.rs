//! The guest: a driver for the disks, one for the CD, and registers of every device whose values it knows.
use crate::disk::SECTOR;
use crate::fault::Part;
use bulkhead_sim::{Sim, SimError};
use bulkhead_xen_abi::ioreq;
use std::time::{Duration, Instant};

/// Longest time that the driver waits for its interrupt. Storage that is slow on purpose, a deadline, and a start that stops in each of its
/// three phases are shorter.
const PATIENCE: Duration = Duration::from_secs(90);
/// The bus master's registers.
const BUS_MASTER: u16 = 0xc000;
const RTL8139: u16 = 0xc100;
const USB: u16 = 0xc200;
const E1000: u64 = 0xf100_0000;
/// Where in its memory the guest has its descriptors and its data.
const TABLE: u64 = 0x1000;
const BUFFER: u64 = 0x8000;
const BSY: u32 = 0x80;
const DRQ: u32 = 0x08;
const ERR: u32 = 0x01;

/// Why a command of the guest has no result.
#[derive(Debug)]
pub enum Stop {
    /// The drive has reported an error: its error register, or where its registers do not fit.
    Error(#[expect(dead_code, reason = "for people")] u32),
    /// Nobody answers at its registers.
    Away,
    /// The machine has ended.
    Gone(String),
    /// What must not happen.
    Wrong(String),
}

impl From<SimError> for Stop {
    fn from(e: SimError) -> Self {
        Self::Gone(e.0)
    }
}

/// The guest's processor. The second field: its driver waits for interrupts and looks at nothing else meanwhile, as most do.
pub struct Guest<'a>(pub &'a mut Sim, pub bool);

impl Guest<'_> {
    fn read(&mut self, port: u16, size: u32) -> Result<u32, Stop> {
        Ok(self.0.port_read(port, size)?)
    }

    fn write(&mut self, port: u16, size: u32, value: u32) -> Result<(), Stop> {
        Ok(self.0.port_write(port, size, value)?)
    }

    /// Gives every device its addresses, as firmware does.
    pub fn configure(&mut self) -> Result<(), Stop> {
        let mut at = |device, function, register, size, value| {
            self.0.config_write(device, function, register, size, value).map_err(Stop::from)
        };
        at(1, 1, 0x20, 4, u32::from(BUS_MASTER) | 1)?;
        at(1, 1, 4, 2, 5)?;
        at(1, 2, 0x20, 4, u32::from(USB) | 1)?;
        at(1, 2, 4, 2, 5)?;
        for device in 3..8 {
            match self.0.config_read(device, 0, 0, 4)? {
                0x100e_8086 => {
                    self.0.config_write(device, 0, 0x10, 4, E1000 as u32)?;
                    self.0.config_write(device, 0, 4, 2, 7)?;
                }
                0x8139_10ec => {
                    self.0.config_write(device, 0, 0x10, 4, u32::from(RTL8139) | 1)?;
                    self.0.config_write(device, 0, 4, 2, 7)?;
                }
                _ => {}
            }
        }
        // The VGA's registers are at the addresses for colour.
        self.write(0x3c2, 1, 0x67)
    }

    /// Reads the register of a part whose value the guest knows; all ones if nobody answers. `None`: it has no such register.
    pub fn scratch(&mut self, part: Part) -> Result<Option<u32>, Stop> {
        let value = match part {
            Part::Platform => {
                self.write(0x70, 1, 0x40)?;
                self.read(0x71, 1)?
            }
            Part::Vga => {
                self.write(0x3d4, 1, 0x0f)?;
                self.read(0x3d5, 1)?
            }
            Part::Serial => self.read(0x3ff, 1)?,
            Part::Usb => self.read(USB + 0x0c, 1)?,
            Part::Rtl8139 => self.read(RTL8139 + 0x08, 1)?,
            Part::E1000 => {
                let mut bytes = [0; 4];
                self.0.memory_read(E1000 + 0x38, &mut bytes)?;
                u32::from_le_bytes(bytes) & 0xff
            }
            Part::Ps2 | Part::Ide | Part::Vnc | Part::Control | Part::Broker | Part::Launcher | Part::Starter => {
                return Ok(None);
            }
        };
        Ok(Some(value))
    }

    /// Writes it.
    pub fn set_scratch(&mut self, part: Part, value: u32) -> Result<(), Stop> {
        match part {
            Part::Platform => {
                self.write(0x70, 1, 0x40)?;
                self.write(0x71, 1, value)
            }
            Part::Vga => {
                self.write(0x3d4, 1, 0x0f)?;
                self.write(0x3d5, 1, value)
            }
            Part::Serial => self.write(0x3ff, 1, value),
            Part::Usb => self.write(USB + 0x0c, 1, value),
            Part::Rtl8139 => self.write(RTL8139 + 0x08, 1, value),
            Part::E1000 => Ok(self.0.memory_write(E1000 + 0x38, &value.to_le_bytes())?),
            Part::Ps2 | Part::Ide | Part::Vnc | Part::Control | Part::Broker | Part::Launcher | Part::Starter => Ok(()),
        }
    }

    /// An access that the part itself must answer.
    pub fn touch(&mut self, part: Part) -> Result<(), Stop> {
        match part {
            // Its other registers are answered by the broker.
            Part::Ide => self.write(0x1f1, 1, 0),
            Part::Ps2 => self.read(0x60, 1).map(drop),
            _ => self.scratch(part).map(drop),
        }
    }

    /// Whether the keyboard's controller answers.
    pub fn keyboard(&mut self) -> Result<bool, Stop> {
        Ok(self.read(0x64, 1)? & 0xc4 == 0x04)
    }

    /// Prints, draws, types and sends: what devices do beside.
    pub fn bustle(&mut self, value: u32) -> Result<(), Stop> {
        self.write(0x3f8, 1, 0x40 | value & 0x1f)?;
        self.0.memory_write(0xb8000 + u64::from(value & 0xffe), &[b'x', 7])?;
        self.0.memory_write(0x2_0000, &[0xff; 64])?;
        self.write(RTL8139 + 0x20, 4, 0x2_0000)?;
        self.write(RTL8139 + 0x10, 4, 64)?;
        self.read(0x60, 1).map(drop)
    }

    /// Waits for the interrupt of the first channel; returns the status.
    fn interrupted(&mut self) -> Result<u32, Stop> {
        let end = Instant::now() + PATIENCE;
        let mut looks = 0u32;
        loop {
            self.0.listen(Duration::from_micros(300));
            if self.0.isa[14] {
                let status = self.read(0x1f7, 1)?;
                return if status == 0xff { Err(Stop::Away) } else { Ok(status) };
            }
            if Instant::now() > end {
                return match self.read(0x3f6, 1)? {
                    0xff => Err(Stop::Away),
                    status => Err(Stop::Wrong(format!("the guest waits for an interrupt; status {status:#x}"))),
                };
            }
            let gone = if self.1 { self.is_dead() } else { self.read(0x3f6, 1)? == 0xff };
            if gone {
                return Err(Stop::Away);
            }
            self.pause(&mut looks);
        }
    }

    /// Whether the drives' process is not started any more: no interrupt comes then.
    pub fn is_dead(&self) -> bool {
        self.0.log().contains("bulkhead-dm: ide: died too often")
    }

    /// Lets others work, longer after some looks.
    fn pause(&mut self, looks: &mut u32) {
        *looks += 1;
        self.0.listen(Duration::from_micros(if *looks > 20 { 2000 } else { 200 }));
    }

    /// Waits until the selected drive is ready for the next command.
    fn ready(&mut self) -> Result<(), Stop> {
        let end = Instant::now() + PATIENCE;
        let mut looks = 0;
        loop {
            match self.read(0x3f6, 1)? {
                0xff => return Err(Stop::Away),
                status if status & (BSY | DRQ) == 0 => return Ok(()),
                status if Instant::now() > end => {
                    return Err(Stop::Wrong(format!("the drive is not ready; status {status:#x}")));
                }
                _ => self.pause(&mut looks),
            }
        }
    }

    /// Waits for the drive's request for data.
    fn requested(&mut self) -> Result<(), Stop> {
        let end = Instant::now() + PATIENCE;
        let mut looks = 0;
        loop {
            match self.read(0x3f6, 1)? {
                0xff => return Err(Stop::Away),
                status if status & (BSY | DRQ) == DRQ => return Ok(()),
                status if status & (BSY | ERR) == ERR => return self.failed(status),
                status if Instant::now() > end => {
                    return Err(Stop::Wrong(format!("no request for data; status {status:#x}")));
                }
                _ => self.pause(&mut looks),
            }
        }
    }

    fn failed<T>(&mut self, status: u32) -> Result<T, Stop> {
        let error = self.read(0x1f1, 1)?;
        // Takes the interrupt back.
        self.read(0x1f7, 1)?;
        Err(if status == 0xff { Stop::Away } else { Stop::Error(error) })
    }

    fn command(&mut self, disk: u8, command: u32, lba: u32, sectors: u32) -> Result<(), Stop> {
        self.write(0x1f6, 1, 0xe0 | u32::from(disk) << 4 | lba >> 24)?;
        self.ready()?;
        self.read(0x1f7, 1)?;
        for (port, value) in [
            (0x1f2, sectors),
            (0x1f3, lba & 0xff),
            (0x1f4, lba >> 8 & 0xff),
            (0x1f5, lba >> 16 & 0xff),
            (0x1f7, command),
        ] {
            self.write(port, 1, value)?;
        }
        Ok(())
    }

    /// REP INSD or REP OUTSD of so many bytes of data.
    fn string(&mut self, bytes: usize, reads: bool) -> Result<(), Stop> {
        let mut request = Sim::simple(ioreq::IOREQ_TYPE_PIO, 0x1f0, 4, BUFFER, reads);
        (request.count, request.bits) = ((bytes / 4) as u32, request.bits.with_data_is_ptr(true));
        self.0.request(0, request)?;
        Ok(())
    }

    fn dma(&mut self, reads: bool, disk: u8, lba: u32, sectors: u32) -> Result<(), Stop> {
        let bytes = sectors * SECTOR as u32;
        self.0.memory_write(TABLE, &(BUFFER as u32).to_le_bytes())?;
        self.0.memory_write(TABLE + 4, &(0x8000_0000 | bytes).to_le_bytes())?;
        self.write(BUS_MASTER, 1, 0)?;
        self.write(BUS_MASTER + 2, 1, 6)?;
        self.write(BUS_MASTER + 4, 4, TABLE as u32)?;
        self.command(disk, if reads { 0xc8 } else { 0xca }, lba, sectors)?;
        self.write(BUS_MASTER, 1, 1 | u32::from(reads) << 3)?;
        let status = self.interrupted()?;
        let bus_master = self.read(BUS_MASTER + 2, 1)?;
        self.write(BUS_MASTER, 1, 0)?;
        if status & ERR != 0 {
            return self.failed(status);
        }
        // As a driver does: without the bus master's interrupt the transfer is not complete.
        match bus_master {
            0xff => Err(Stop::Away),
            b if b & 6 == 4 && status & (BSY | DRQ) == 0 => Ok(()),
            b => Err(Stop::Error(0x100 | b)),
        }
    }

    /// Reads sectors by PIO or DMA.
    pub fn read_sectors(&mut self, disk: u8, lba: u32, sectors: u32, dma: bool) -> Result<Vec<u8>, Stop> {
        let mut data = vec![0xee; sectors as usize * SECTOR];
        if dma {
            let _ = self.0.ram().copy_in(BUFFER as usize, &data);
            self.dma(true, disk, lba, sectors)?;
            let _ = self.0.ram().copy_out(BUFFER as usize, &mut data);
            return Ok(data);
        }
        self.command(disk, 0x20, lba, sectors)?;
        for sector in data.chunks_mut(SECTOR) {
            let status = self.interrupted()?;
            if status & ERR != 0 {
                return self.failed(status);
            }
            if status & (BSY | DRQ) != DRQ {
                return Err(Stop::Error(0x200 | status));
            }
            self.string(sector.len(), true)?;
            let _ = self.0.ram().copy_out(BUFFER as usize, sector);
        }
        // The drive's process may have died while its data were read: all ones are no data then.
        match self.read(0x3f6, 1)? {
            0xff => Err(Stop::Away),
            status if status & (BSY | DRQ | ERR) == 0 => Ok(data),
            status => Err(Stop::Error(0x300 | status)),
        }
    }

    /// Writes sectors. If this is `Ok`, the guest was told that the write is done.
    pub fn write_sectors(&mut self, disk: u8, lba: u32, data: &[u8], dma: bool) -> Result<(), Stop> {
        let sectors = (data.len() / SECTOR) as u32;
        if dma {
            let _ = self.0.ram().copy_in(BUFFER as usize, data);
            return self.dma(false, disk, lba, sectors);
        }
        self.command(disk, 0x30, lba, sectors)?;
        for (number, sector) in data.chunks(SECTOR).enumerate() {
            if number == 0 {
                self.requested()?;
            } else {
                let status = self.interrupted()?;
                if status & ERR != 0 {
                    return self.failed(status);
                }
                if status & (BSY | DRQ) != DRQ {
                    return Err(Stop::Error(0x400 | status));
                }
            }
            let _ = self.0.ram().copy_in(BUFFER as usize, sector);
            self.string(sector.len(), false)?;
        }
        self.completed()
    }

    fn completed(&mut self) -> Result<(), Stop> {
        let status = self.interrupted()?;
        match status & (BSY | DRQ | ERR) {
            0 => Ok(()),
            s if s & ERR != 0 => self.failed(status),
            _ => Err(Stop::Error(0x500 | status)),
        }
    }

    /// FLUSH CACHE.
    pub fn flush(&mut self, disk: u8) -> Result<(), Stop> {
        self.command(disk, 0xe7, 0, 0)?;
        self.completed()
    }

    /// What a driver does after an error: it waits until the drives are there, and resets them.
    pub fn recover(&mut self) -> Result<(), Stop> {
        let end = Instant::now() + PATIENCE;
        let mut looks = 0;
        loop {
            let answers = self.read(0x3f6, 1)? != 0xff;
            if answers {
                self.write(BUS_MASTER, 1, 0)?;
                self.write(0x3f6, 1, 4)?;
                self.write(0x3f6, 1, 0)?;
                self.write(0x1f6, 1, 0xe0)?;
                match self.ready() {
                    Ok(()) => return self.read(0x1f7, 1).map(drop),
                    Err(Stop::Away) => {}
                    Err(other) => return Err(other),
                }
            }
            if self.is_dead() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(Stop::Wrong("the drives do not come back".to_owned()));
            }
            self.pause(&mut looks);
        }
    }

    /// Sends a packet to the CD's drive; its data, or the sense.
    pub fn packet(&mut self, bytes: &[u8], limit: u32) -> Result<Result<Vec<u8>, [u8; 3]>, Stop> {
        for (port, value) in [(0x176, 0xa0), (0x171, 0), (0x174, limit & 0xff), (0x175, limit >> 8), (0x177, 0xa0)] {
            self.write(port, 1, value)?;
        }
        let mut whole = [0; 12];
        whole[..bytes.len()].copy_from_slice(bytes);
        for pair in whole.chunks(2) {
            self.write(0x170, 2, u32::from(u16::from_le_bytes([pair[0], pair[1]])))?;
        }
        let mut data = Vec::new();
        let end = Instant::now() + PATIENCE;
        let mut looks = 0;
        loop {
            let status = self.read(0x376, 1)?;
            if status == 0xff {
                return Err(Stop::Away);
            }
            if status & BSY != 0 {
                if Instant::now() > end {
                    return Err(Stop::Wrong(format!("the CD's drive: status {status:#x}")));
                }
                self.pause(&mut looks);
                continue;
            }
            if status & ERR != 0 {
                if bytes[0] == 3 {
                    return Err(Stop::Error(0x600 | status));
                }
                let sense = self.packet(&[3, 0, 0, 0, 18], 18)?;
                return match sense {
                    Ok(s) if s.len() > 13 => Ok(Err([s[2], s[12], s[13]])),
                    other => Err(Stop::Error(0x700 | other.map_or(0, |s| s.len() as u32))),
                };
            }
            if status & DRQ == 0 {
                return Ok(Ok(data));
            }
            let n = self.read(0x174, 1)? | self.read(0x175, 1)? << 8;
            if n == 0xffff || data.len() > 4096 {
                return Err(Stop::Away);
            }
            for _ in 0..n.div_ceil(2) {
                data.extend((self.read(0x170, 2)? as u16).to_le_bytes());
            }
        }
    }

    /// The word of the CD's first sector.
    pub fn disc(&mut self) -> Result<Result<u32, [u8; 3]>, Stop> {
        let read = self.packet(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1], 2048)?;
        if self.read(0x376, 1)? == 0xff {
            return Err(Stop::Away);
        }
        Ok(read.map(|d| d.first_chunk().map_or(0, |c| u32::from_le_bytes(*c))))
    }

    /// Resets the CD's drive, as [`Self::recover`] the others.
    pub fn recover_disc(&mut self) -> Result<(), Stop> {
        if self.read(0x376, 1)? != 0xff {
            self.write(0x376, 1, 4)?;
            self.write(0x376, 1, 0)?;
            self.write(0x176, 1, 0xa0)?;
            self.write(0x177, 1, 8)?;
        }
        Ok(())
    }
}
