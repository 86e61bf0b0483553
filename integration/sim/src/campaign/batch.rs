//! One batch of faults: a machine after the other with the same disks, the guest's load, and what becomes of each fault.
use crate::dice::Dice;
use crate::disk::{self, Disk, FORMATTED_BYTES, RAW_BYTES, SECTOR};
use crate::fault::{Fault, Part, Strike};
use crate::guest::{Guest, Stop};
use crate::judge;
use crate::outcome::Outcome;
use crate::strikes::Progress;
use crate::victim::{DISCS, Files, Victim};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a fault has come to: the row of the table, and the processes that stay dead.
#[derive(Debug)]
pub struct Verdict {
    pub outcome: Outcome,
    pub dead: Vec<Part>,
}

/// How often the guest's commands did not succeed during a fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    pub errors: u32,
    pub away: u32,
}

/// The machine, its guest, and all that is known of both.
pub struct Batch {
    pub files: Arc<Files>,
    pub victim: Option<Victim>,
    pub disks: [Disk; 2],
    /// Values of the devices' registers, of which one must be there.
    pub registers: BTreeMap<&'static str, Vec<u32>>,
    /// The word of the disc in the drive.
    pub disc: Option<u32>,
    /// Number of the last write.
    written: u32,
    pub met: Met,
    pub dice: Dice,
}

/// Takes what a campaign fails for out of the results of a command.
fn wrong(stop: Stop) -> Result<Stop, String> {
    match stop {
        Stop::Wrong(why) => Err(why),
        other => Ok(other),
    }
}

impl Batch {
    /// Makes the files; there is no machine yet.
    pub fn new() -> Result<Self, String> {
        Ok(Self {
            files: Arc::new(Files::new()?),
            victim: None,
            disks: [Disk::new(RAW_BYTES), Disk::new(FORMATTED_BYTES)],
            registers: BTreeMap::new(),
            disc: None,
            written: 0,
            met: Met::default(),
            dice: Dice::new(0, 0),
        })
    }

    /// The machine that runs.
    pub fn victim(&mut self) -> Result<&mut Victim, String> {
        self.victim.as_mut().ok_or_else(|| "there is no machine".to_owned())
    }

    /// Lets the guest do something.
    pub fn guest<T>(&mut self, act: impl FnOnce(&mut Guest<'_>) -> Result<T, Stop>) -> Result<T, Stop> {
        let waits = self.dice.chance(50);
        match &mut self.victim {
            Some(victim) => act(&mut Guest(&mut victim.sim, waits)),
            None => Err(Stop::Gone("there is no machine".to_owned())),
        }
    }

    /// Starts a machine if none runs.
    pub fn machine(&mut self) -> Result<(), String> {
        if self.victim.is_some() {
            return Ok(());
        }
        // A part that stayed dead has not taken its cues.
        self.files.understudies().clear();
        let mut started = Victim::start(&self.files);
        for _ in 0..2 {
            // On a host that is too busy a start runs out of time; no fault has befallen it.
            if let Err(why) = &started {
                eprintln!("{why}\nonce more");
                started = Victim::start(&self.files);
            }
        }
        self.victim = Some(started?);
        self.disc = Some(DISCS[0]);
        self.registers.clear();
        let fail = |stop| format!("a machine that has just started: {stop:?}");
        self.guest(|g| g.configure()).map_err(fail)?;
        for part in Part::DEVICES {
            self.set(part).map_err(fail)?;
        }
        let disc = self.guest(|g| g.packet(&[3, 0, 0, 0, 18], 18)).map_err(fail)?;
        disc.map(drop).map_err(|sense| format!("the CD's sense after the start: {sense:?}"))
    }

    /// Ends the machine, and checks that nothing of it is left and that the images have what the guest has written.
    pub fn end(&mut self) -> Result<(), String> {
        let Some(mut victim) = self.victim.take() else { return Ok(()) };
        if victim.sim.ended().is_none() {
            let status = victim.sim.end().map_err(|e| e.to_string())?;
            if !status.success() {
                return Err(format!("the launcher ends with {status}:\n{}", victim.sim.log()));
            }
            let left: Vec<_> = std::fs::read_dir(victim.sim.dir()).into_iter().flatten().flatten().collect();
            // The starter removes the socket's path; the launcher may not.
            let starter = !victim.sim.log().contains("BH-0503");
            if starter && !left.is_empty() {
                return Err(format!("files are left: {left:?}"));
            }
        }
        drop(victim);
        judge::orphans()?;
        self.images()
    }

    /// Compares the images with what the guest has written.
    pub fn images(&mut self) -> Result<(), String> {
        let raw = std::fs::read(self.files.raw()).map_err(|e| e.to_string())?;
        self.disks[0].check_all(0, &raw)?;
        let formatted = disk::read_formatted(&self.files.formatted(), &self.files.path("contents"))?;
        self.disks[1].check_all(1, &formatted)
    }

    /// Throws the machine and the images away.
    pub fn discard(&mut self) -> Result<(), String> {
        self.victim = None;
        let _ = judge::orphans();
        *self = Self { written: self.written, ..Self::new()? };
        Ok(())
    }

    /// A new qcow2 image in place of the one that was cut.
    pub fn format(&mut self) -> Result<(), String> {
        self.files.format()?;
        self.disks[1] = Disk::new(FORMATTED_BYTES);
        Ok(())
    }

    /// Writes a register of a part and reads it back.
    fn set(&mut self, part: Part) -> Result<(), Stop> {
        let value = 1 + self.dice.below(0x7d) as u32;
        self.guest(|g| g.set_scratch(part, value))?;
        let Some(read) = self.guest(|g| g.scratch(part))? else { return Ok(()) };
        let may = self.registers.entry(part.name()).or_default();
        may.push(value);
        self.seen(part, read)
    }

    /// Notes the value of a register that was read.
    pub fn seen(&mut self, part: Part, read: u32) -> Result<(), Stop> {
        let Some(may) = self.registers.get_mut(part.name()) else { return Ok(()) };
        if read & 0xff == 0xff {
            return Ok(());
        }
        if !may.contains(&read) {
            return Err(Stop::Wrong(format!("{part:?}: register {read:#x} instead of {may:x?}")));
        }
        *may = vec![read];
        Ok(())
    }

    /// Counts what the guest has met, and lets its driver recover.
    fn stopped(&mut self, stop: Stop) -> Result<(), Stop> {
        match stop {
            Stop::Error(_) => self.met.errors += 1,
            Stop::Away => self.met.away += 1,
            other => return Err(other),
        }
        self.guest(|g| g.recover())
    }

    /// Writes sectors with a number of their own. True if the guest was told that it is done.
    pub fn write(&mut self, disk: u8, lba: u32, sectors: u32, dma: bool) -> Result<bool, Stop> {
        self.written += 1;
        let number = self.written;
        let data: Vec<u8> = (lba..lba + sectors).flat_map(|lba| disk::contents(disk, lba, number)).collect();
        let done = self.guest(|g| g.write_sectors(disk, lba, &data, dma));
        for lba in lba..lba + sectors {
            match done {
                Ok(()) => self.disks[usize::from(disk)].done(lba, number),
                Err(_) => self.disks[usize::from(disk)].unsure(lba, number),
            }
        }
        match done {
            Ok(()) => Ok(true),
            Err(stop) => self.stopped(stop).map(|()| false),
        }
    }

    /// Reads sectors and compares them. True if there was no error.
    pub fn read(&mut self, disk: u8, lba: u32, sectors: u32, dma: bool) -> Result<bool, Stop> {
        match self.guest(|g| g.read_sectors(disk, lba, sectors, dma)) {
            Ok(data) => {
                for (lba, sector) in (lba..).zip(data.chunks(SECTOR)) {
                    self.disks[usize::from(disk)].check(disk, lba, sector).map_err(Stop::Wrong)?;
                }
                Ok(true)
            }
            Err(stop) => self.stopped(stop).map(|()| false),
        }
    }

    fn flush(&mut self, disk: u8) -> Result<bool, Stop> {
        match self.guest(|g| g.flush(disk)) {
            Ok(()) => Ok(true),
            Err(stop) => self.stopped(stop).map(|()| false),
        }
    }

    /// Something on a disk.
    fn disk_work(&mut self, disk: u8) -> Result<(), Stop> {
        let sectors = 1 + self.dice.below(4) as u32;
        // Half of it is where something was written before.
        let whole = u64::from(self.disks[usize::from(disk)].len() - sectors);
        let end = if self.dice.chance(50) { 64 } else { whole };
        let (lba, dma) = (self.dice.below(end) as u32, self.dice.chance(60));
        match self.dice.below(100) {
            0..45 => self.write(disk, lba, sectors, dma).map(drop),
            45..88 => self.read(disk, lba, sectors, dma).map(drop),
            _ => self.flush(disk).map(drop),
        }
    }

    /// One step of the guest's work, and of somebody who uses control.
    pub fn work(&mut self, aim: Option<Part>) -> Result<(), Stop> {
        if let Some(part) = aim.filter(|_| self.dice.chance(20)) {
            return self.guest(|g| g.touch(part));
        }
        if aim == Some(Part::Ide) && self.dice.chance(80) {
            let disk = self.dice.below(2) as u8;
            return self.disk_work(disk);
        }
        match self.dice.below(100) {
            0..45 => {
                let disk = self.dice.below(2) as u8;
                self.disk_work(disk)
            }
            45..80 => {
                let part = self.dice.pick(&Part::DEVICES);
                self.set(part)
            }
            80..88 => self.read_disc(),
            88..98 => {
                let value = self.dice.next() as u32;
                self.guest(|g| g.bustle(value))
            }
            _ => {
                let Some(victim) = &self.victim else { return Ok(()) };
                // Control may be away.
                let _ = victim.hands.qmp(r#"{"execute":"query-status"}"#);
                Ok(())
            }
        }
    }

    /// Reads the CD, whatever comes of it.
    fn read_disc(&mut self) -> Result<(), Stop> {
        match self.guest(|g| g.disc()) {
            Ok(Ok(word)) if DISCS.contains(&word) => Ok(()),
            Ok(Ok(_) | Err(_)) | Err(Stop::Away | Stop::Error(_)) => self.guest(|g| g.recover_disc()),
            Err(other) => Err(other),
        }
    }

    /// Does what meets the fault of a strike that lasts until then.
    pub fn meet(&mut self, strike: Strike, progress: &Progress) -> Result<(), Stop> {
        if !progress.active.load(Ordering::SeqCst) || progress.met.load(Ordering::SeqCst) {
            return Ok(());
        }
        use bulkhead_bus::faults::FaultOn;
        let dma = self.dice.chance(50);
        let met = match strike {
            Strike::Fails(disk, on, _) | Strike::Slow(disk, on, _) | Strike::Held(disk, on, _) => {
                let lba = self.dice.below(64) as u32;
                match on {
                    FaultOn::Read => self.read(disk, lba, 1, dma)?,
                    FaultOn::Write => self.write(disk, lba, 1, dma)?,
                    _ => self.flush(disk)?,
                };
                // The table says when a job has met it, unless the drives stay dead.
                self.guest(|g| Ok(g.is_dead()))?
            }
            Strike::Full(_) => {
                let disk = self.dice.below(2) as u8;
                let lba = self.dice.below(u64::from(self.disks[usize::from(disk)].len())) as u32;
                !self.write(disk, lba, 1, dma)?
            }
            Strike::Truncated(at, _) => {
                let first = (at / SECTOR as u64) as u32;
                let lba = first + self.dice.below(u64::from(self.disks[0].len() - first)) as u32;
                // What was there is lost.
                self.disks[0].lost(first);
                !self.read(0, lba, 1, dma)?
            }
            Strike::TruncatedFormat(_) => {
                self.disks[1].lost(0);
                for _ in 0..8 {
                    self.disk_work(1)?;
                }
                true
            }
            _ => true,
        };
        progress.met.store(met, Ordering::SeqCst);
        Ok(())
    }

    /// Runs one fault. An error says what must not be.
    pub fn fault(&mut self, fault: &Fault, dice: Dice) -> Result<Verdict, String> {
        self.dice = dice;
        self.machine()?;
        self.met = Met::default();
        let before = judge::Before::of(self.victim()?);
        let strikes: Vec<_> =
            fault.strikes.iter().map(|(wait, s)| (*wait, *s, Arc::new(Progress::default()))).collect();
        let mut threads = Vec::new();
        for (place, (wait, strike, progress)) in strikes.iter().cloned().enumerate() {
            let hands = self.victim()?.hands.clone();
            threads.push(std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_micros(wait));
                let done = hands.strike(strike, place, &progress);
                progress.over.store(true, Ordering::SeqCst);
                done
            }));
        }
        let worked = self.work_through(&strikes);
        // Without a guest nothing is met any more.
        strikes.iter().for_each(|(_, _, progress)| progress.met.store(true, Ordering::SeqCst));
        let mut dies = Vec::new();
        let mut struck = Vec::new();
        for thread in threads {
            let done = thread.join().map_err(|_| "a strike panics".to_owned())?;
            struck.push(done);
        }
        let gone = match worked.map_err(wrong) {
            Ok(()) => false,
            Err(why) => match why? {
                Stop::Gone(why) if why.contains("timed out") || why.contains("temporarily") => {
                    return Err(format!("no answer to an access in a minute: {why}"));
                }
                Stop::Gone(_) => true,
                other => return Err(format!("the guest's work ends: {other:?}")),
            },
        };
        for done in struck {
            match done {
                Ok(more) => dies.extend(more),
                Err(_) if gone => {}
                Err(why) => return Err(why),
            }
        }
        for (place, (_, strike, _)) in strikes.iter().enumerate() {
            let victim = self.victim()?;
            victim.hands.faults.set(place, None).map_err(|e| e.to_string())?;
            match strike {
                // What the guest has written beyond the cut while it was there may be gone too.
                Strike::Truncated(at, _) => self.disks[0].lost((at / SECTOR as u64) as u32),
                Strike::Medium(insert) => self.disc = insert.then_some(DISCS[1]),
                _ => {}
            }
        }
        let strikes: Vec<Strike> = strikes.into_iter().map(|(_, s, _)| s).collect();
        judge::settle(self, &strikes, &before, &dies)
    }

    /// The guest works until all strikes are over, and a little longer.
    fn work_through(&mut self, strikes: &[(u64, Strike, Arc<Progress>)]) -> Result<(), Stop> {
        let (mut after, mut steps) = (3 + self.dice.below(6), 0);
        loop {
            let over = strikes.iter().all(|(_, _, progress)| progress.over.load(Ordering::SeqCst));
            if over {
                after -= 1;
            }
            if after == 0 {
                return Ok(());
            }
            for (_, strike, progress) in strikes {
                self.meet(*strike, progress)?;
            }
            steps += 1;
            if !over
                && steps > 40
                && let Some(victim) = &mut self.victim
            {
                // A strike that lasts is no reason to keep the processors busy.
                victim.sim.listen(std::time::Duration::from_millis(2));
            }
            let aim = strikes.first().and_then(|(_, s, _)| s.part()).filter(|_| !over);
            self.work(aim)?;
        }
    }
}
