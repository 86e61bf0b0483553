//! The device for its fuzz target and its corpus test.
mod ends;
mod ledger;
mod recipes;

use super::{Backend, FdBackend, FileBackend, NullBackend, Serial, spec};
use bulkhead_bus::exercise::{Host, Restart, Stage, Target};
use bulkhead_bus::{Context, Device, Ready};
use ends::{End, Tap};
use ledger::{Ledger, Shared, Watched};
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, OFlags, memfd_create};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

/// Kinds of back ends, by setting 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `null`: all is accepted, nothing comes.
    Null,
    /// All is accepted, and characters come.
    Open,
    /// The other end is full until it makes room.
    Full,
    /// The same, and only the back end's time tells when there is room.
    Slow,
    /// A socket.
    Socket,
    /// Two small files of which one has the output before the other's.
    Files,
}

/// Bytes of each of the two files.
const FILE: u64 = 2048;
/// Most bytes that are on the way to the guest.
const COMING: usize = 512;

/// What the other end does.
#[repr(u8)]
enum Action {
    /// It sends the data.
    Send,
    /// It has room for `value` more bytes, up to 512.
    Room,
    /// It has no room.
    Full,
    /// It is gone: what is sent to it is lost.
    Gone,
    /// It is there again.
    Back,
}
const ACTIONS: u8 = Action::Back as u8 + 1;

struct Other {
    index: u8,
    kind: Kind,
    ledger: Shared,
    end: Arc<Mutex<End>>,
    socket: Option<(UnixStream, UnixStream)>,
    files: Option<[OwnedFd; 2]>,
    lives: u32,
}

impl Other {
    fn new(stage: &Stage) -> Self {
        let [index, kind, ..] = stage.settings;
        let kind = match kind % 6 {
            1 => Kind::Open,
            2 => Kind::Full,
            3 => Kind::Slow,
            4 => Kind::Socket,
            5 => Kind::Files,
            _ => Kind::Null,
        };
        let end = End { limited: matches!(kind, Kind::Full | Kind::Slow), slow: kind == Kind::Slow, ..End::default() };
        // It is full at first, so that a state with unsent characters is the same in a new process.
        let socket = || {
            let (mut mine, other) = UnixStream::pair().ok()?;
            mine.set_nonblocking(true).ok()?;
            other.set_nonblocking(true).ok()?;
            rustix::net::sockopt::set_socket_send_buffer_size(&mine, 1).ok()?;
            while mine.write(b"x").is_ok() {}
            Some((mine, other))
        };
        let file = |name| {
            let file = memfd_create(name, MemfdFlags::CLOEXEC).ok()?;
            rustix::fs::fcntl_setfl(&file, OFlags::APPEND).ok()?;
            Some(file)
        };
        let files = || Some([file("file")?, file("earlier")?]);
        Self {
            index,
            kind,
            ledger: Shared::default(),
            end: Arc::new(Mutex::new(end)),
            socket: (kind == Kind::Socket).then(socket).flatten(),
            files: (kind == Kind::Files).then(files).flatten(),
            lives: 0,
        }
    }

    fn back_end(&self) -> Box<dyn Backend> {
        let made: Option<Box<dyn Backend>> = match self.kind {
            Kind::Null => None,
            Kind::Open | Kind::Full | Kind::Slow => Some(Box::new(ends::Wire(self.end.clone()))),
            Kind::Socket => self.socket(),
            Kind::Files => self.files(),
        };
        made.unwrap_or_else(|| Box::new(NullBackend))
    }

    fn socket(&self) -> Option<Box<dyn Backend>> {
        let (mine, _) = self.socket.as_ref()?;
        Some(Box::new(FdBackend::new(mine.try_clone().ok()?.into())))
    }

    fn files(&self) -> Option<Box<dyn Backend>> {
        let [file, earlier] = self.files.as_ref()?;
        Some(Box::new(FileBackend::new(file.try_clone().ok()?, earlier.try_clone().ok()?, FILE).ok()?))
    }

    /// Changes the other end as the action says. True: the runtime learns of it.
    fn change(&mut self, action: u8, value: u64, data: &[u8]) -> bool {
        let mut end = ends::lock(&self.end);
        match action % ACTIONS {
            a if a == Action::Send as u8 => match &mut self.socket {
                Some((_, other)) => drop(other.write(data)),
                None => {
                    let room = COMING.saturating_sub(end.coming.len());
                    end.coming.extend(data.iter().take(room));
                }
            },
            a if a == Action::Room as u8 => {
                end.room = end.room.saturating_add(value as usize & 0x1ff).min(COMING);
                if let Some((_, other)) = &mut self.socket {
                    let mut bytes = [0; 512];
                    while other.read(&mut bytes).is_ok_and(|n| n != 0) {}
                }
                return !end.slow;
            }
            a if a == Action::Full as u8 => end.room = 0,
            a if a == Action::Gone as u8 => {
                end.gone = true;
                end.coming.clear();
            }
            _ => end.gone = false,
        }
        true
    }
}

impl Host for Other {
    fn device(&mut self) -> Box<dyn Device> {
        self.lives = self.lives.saturating_add(1);
        if self.lives > 1 {
            Ledger::of(&self.ledger).restarted = true;
        }
        let back_end = Box::new(Tap { inner: self.back_end(), ledger: self.ledger.clone() });
        Box::new(Watched { port: Serial::new(self.index, back_end), ledger: self.ledger.clone() })
    }

    fn act(&mut self, action: u8, value: u64, data: &[u8], device: &mut dyn Device, cx: &mut Context) {
        if self.change(action, value, data) {
            device.poll(Ready::Fd(0), cx);
        }
    }

    fn holds(&mut self) -> Result<(), String> {
        Ledger::of(&self.ledger).wrong.take().map_or(Ok(()), Err)
    }
}

fn make(stage: &Stage) -> Box<dyn Host> {
    Box::new(Other::new(stage))
}

/// A port and its other end, whose received bytes are compared with what the guest has sent. It has no DMA.
pub static TARGET: Target = Target {
    registers: spec::REGISTERS,
    actions: ACTIONS,
    recipes: recipes::ALL,
    restart: Restart::Same,
    ..Target::new("serial", make)
};
