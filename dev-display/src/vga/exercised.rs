//! The device for its fuzz target and its corpus test: with viewers, whose picture must be the one that registers and video RAM
//! describe.
mod modes;
mod recipes;
mod screen;

use super::Vga;
use super::spec::{REGISTERS, dispi};
use bulkhead_bus::exercise::{Host, Restart, RunMemory, SETTINGS, Stage, Target};
use bulkhead_bus::{Context, Device, DmaError, GuestMemory, Ready, Segment};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::pipe::{PipeFlags, pipe_with};
use screen::Screen;
use std::sync::Arc;

/// Bytes of memory of a run: the largest video RAM.
const VRAM: u32 = 1 << 20;
/// Most pixels that a run draws for viewers. Large pictures take milliseconds.
const DRAWN: usize = 1 << 20;

/// What viewers do, and what the guest does without this process.
pub(super) mod action {
    /// The picture is drawn for a viewer.
    pub(in crate::vga) const REFRESH: u8 = 0;
    /// The viewer's surface is too small.
    pub(in crate::vga) const REFUSE: u8 = 1;
    /// The picture is drawn and compared with what registers and video RAM describe.
    pub(in crate::vga) const COMPARE: u8 = 2;
    pub(in crate::vga) const SCREENSHOT: u8 = 3;
    /// The data are written to the pipe of requested sizes.
    pub(in crate::vga) const WISH: u8 = 4;
    /// The guest writes the data to the linear frame buffer, at 16 * value.
    pub(in crate::vga) const DRAW: u8 = 5;
    pub(in crate::vga) const COUNT: u8 = 6;
}

/// Video RAM of some length: nothing is behind its end.
#[derive(Debug)]
struct VideoRam {
    memory: Arc<RunMemory>,
    len: u64,
}

impl VideoRam {
    fn has(&self, address: u64, len: usize) -> Result<(), DmaError> {
        let end = address.checked_add(len as u64).filter(|end| *end <= self.len);
        end.map(drop).ok_or(DmaError::NoRam(address))
    }
}

impl GuestMemory for VideoRam {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.has(address, to.len())?;
        self.memory.read(address, to)
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaError> {
        self.has(address, from.len())?;
        self.memory.write(address, from)
    }

    fn read_file(&self, _: BorrowedFd<'_>, _: u64, _: &[Segment]) -> Result<usize, DmaError> {
        Err(DmaError::NoRam(0))
    }

    fn write_file(&self, _: BorrowedFd<'_>, _: u64, _: &[Segment]) -> Result<usize, DmaError> {
        Err(DmaError::NoRam(0))
    }

    fn invalidate(&self) {}
}

/// The host's side of the card.
struct Viewers {
    ram: Arc<VideoRam>,
    rom: u32,
    /// The pipe of requested sizes: its end for the device, and the viewers' end.
    wishes: Option<(OwnedFd, OwnedFd)>,
    screen: Screen,
    violation: Option<String>,
}

/// Settings: the size of video RAM, of the ROM, and whether there is a pipe of viewers' requested sizes.
fn make(stage: &Stage) -> Box<dyn Host> {
    let [vram, rom, pipe, ..]: [u8; SETTINGS] = stage.settings;
    let len = [VRAM, VRAM >> 1, VRAM >> 2, 1 << 16].get(usize::from(vram & 3)).copied().unwrap_or(VRAM);
    let rom = [65536, 0, 2048, 32768].get(usize::from(rom & 3)).copied().unwrap_or(0);
    let pipe = (pipe & 1 != 0).then(|| pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok());
    Box::new(Viewers {
        ram: Arc::new(VideoRam { memory: stage.memory.clone(), len: len.into() }),
        rom,
        wishes: pipe.flatten(),
        screen: Screen::default(),
        violation: None,
    })
}

impl Viewers {
    fn card(&self) -> Vga {
        Vga::new(3, self.ram.len as u32, self.rom, self.ram.clone())
    }

    /// Compares the viewer's picture with one that a new card of this state draws. A blink may be in either half.
    fn compare(&mut self, device: &dyn Device) {
        // The reads of the comparison are not the device's.
        let (calls, _) = self.ram.memory.take_work();
        if calls > WORK && self.violation.is_none() {
            self.violation = Some(format!("a picture makes {calls} accesses to video RAM, more than {WORK}"));
        }
        let mut card = self.card();
        if card.decode(&device.save()).is_err() {
            return;
        }
        let same = [true, false].into_iter().any(|on| {
            let frame = card.frame_in(on, super::Frame::default());
            self.screen.shows(&frame)
        });
        if !same && self.violation.is_none() {
            self.violation = Some("a viewer sees another picture than the registers describe".into());
        }
        let _ = self.ram.memory.take_work();
    }
}

impl Host for Viewers {
    fn device(&mut self) -> Box<dyn Device> {
        let pipe = self.wishes.as_ref().and_then(|(pipe, _)| pipe.try_clone().ok());
        Box::new(self.card().with_wishes(pipe))
    }

    fn act(&mut self, action: u8, value: u64, data: &[u8], device: &mut dyn Device, cx: &mut Context) {
        match action {
            action::REFRESH | action::REFUSE | action::COMPARE if self.screen.drawn < DRAWN => {
                // Two pictures of memory that changes by being read would differ.
                self.ram.memory.set_pattern(Vec::new(), 0);
                self.screen.accepts = action != action::REFUSE;
                let Some(display) = device.display() else { return };
                display.refresh(&mut self.screen);
                self.screen.finished();
                if action == action::COMPARE {
                    self.compare(device);
                }
            }
            action::SCREENSHOT if self.screen.drawn < DRAWN => {
                let png = device.display().and_then(|display| display.screenshot());
                self.screen.drawn = self.screen.drawn.saturating_add(DRAWN >> 1);
                if !png.is_some_and(|png| png.starts_with(b"\x89PNG")) {
                    self.violation = Some("a screenshot is no picture".into());
                }
            }
            action::WISH => {
                if let Some((_, pipe)) = &self.wishes {
                    let _ = rustix::io::write(pipe, data);
                    device.poll(Ready::Fd(0), cx);
                }
            }
            action::DRAW => self.ram.memory.guest_writes(value.wrapping_mul(16), data),
            _ => {}
        }
    }

    fn holds(&mut self) -> Result<(), String> {
        self.violation.take().or_else(|| self.screen.wrong.take()).map_or(Ok(()), Err)
    }
}

/// Calls to video RAM of one record: a picture of the Bochs interface reads each of its lines once. This is more than the clearing
/// of video RAM by pages (256), a text of 1024 lines (two reads for each of its source and its picture, and four of fonts), and eight
/// bytes of the window in four planes.
const WORK: u64 = dispi::MAX_Y as u64;

/// A display whose video RAM is the guest memory of the run.
pub static TARGET: Target = Target {
    work: WORK,
    memory: VRAM as usize,
    registers: REGISTERS,
    actions: action::COUNT,
    recipes: recipes::ALL,
    restart: Restart::Same,
    ..Target::new("vga", make)
};
