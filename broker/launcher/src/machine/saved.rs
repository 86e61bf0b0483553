//! A saved machine that goes on here (`-incoming`). The stream is hostile: it is copied once, `intake` says where its sections are, and
//! each section is parsed by its own device alone.
use super::Incoming;
use super::host::inherit;
use crate::intake::{IntakeFault, Look};
use bulkhead_plan::intake::{Answer, Question, StateIndex};
use bulkhead_stream::{LONGEST, Name, ReadError};
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

/// Why a saved machine does not go on here.
#[derive(Debug, thiserror::Error)]
pub enum SavedFault {
    /// The toolstack has given no such descriptor, or it cannot be read.
    #[error("fd:{number}: {source}")]
    Fd {
        /// Its number.
        number: i32,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// libxl's word for a stub domain's console stands in the arguments of another device model.
    #[error("this is no stub domain, which has a console for it")]
    NoConsole,
    /// A file for a part of it cannot be made.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// Nobody could look into it.
    #[error("{0}")]
    Intake(#[from] IntakeFault),
    /// It is not taken.
    #[error("{0}")]
    Refused(#[from] ReadError),
    /// A part of it is for a device that this machine does not have.
    #[error("it has a part for {0}, which this machine does not have")]
    NoDevice(Name),
    /// A part that every saved machine has is not there.
    #[error("this machine has {0}, the saved one has not")]
    Missing(String),
}

impl From<Errno> for SavedFault {
    fn from(e: Errno) -> Self {
        Self::System(e.into())
    }
}

/// A saved machine.
#[derive(Debug)]
pub(crate) struct Saved {
    stream: Vec<u8>,
    index: StateIndex,
    clock: i64,
    /// Names of the sections that a process has got.
    taken: Vec<Name>,
}

impl Saved {
    /// Copies the stream from a descriptor that the toolstack has opened, or takes the one that a stub domain's console has brought, and
    /// looks into it.
    pub(crate) fn open(from: Incoming, console: Option<Vec<u8>>, look: &impl Look) -> Result<Self, SavedFault> {
        let stream = match from {
            Incoming::Fd(number) => read(number).map_err(|e| SavedFault::Fd { number, source: e.into() })?,
            Incoming::Console => console.ok_or(SavedFault::NoConsole)?,
        };
        let copy = sealed(&stream)?;
        match look.look(&copy, Question::State)? {
            Answer::State(index) => {
                let index = index?;
                let now = bulkhead_bus::Clock::Real.now();
                let clock = i64::try_from(i128::from(index.time).saturating_sub(i128::from(now)));
                let clock = clock.map_err(|_| ReadError::Field)?;
                Ok(Self { stream, index, clock, taken: Vec::new() })
            }
            Answer::Header(_) | Answer::Partitions(_) => Err(IntakeFault::Answer.into()),
        }
    }

    /// First guest frame of video RAM.
    pub(crate) fn video_ram(&self) -> u64 {
        self.index.video_ram
    }

    /// Nanoseconds by which the machine's clock is ahead of this host's: it goes on from the time at which it was saved.
    pub(crate) fn clock(&self) -> i64 {
        self.clock
    }

    /// The section of this name, as a file; `None` if there is none.
    pub(crate) fn take(&mut self, name: &str) -> Result<Option<OwnedFd>, SavedFault> {
        let Some(place) = self.index.places.iter().find(|p| p.name.text() == name) else { return Ok(None) };
        let from = place.at as usize;
        let payload = self.stream.get(from..).and_then(|rest| rest.get(..place.len as usize));
        // intake may have been taken over by the stream: a place outside of it is no section.
        let file = sealed(payload.ok_or(ReadError::Length)?)?;
        self.taken.push(place.name);
        Ok(Some(file))
    }

    /// Checks that every section has found its process.
    pub(crate) fn is_whole(&self) -> Result<(), SavedFault> {
        let left = self.index.places.iter().find(|p| !self.taken.contains(&p.name));
        left.map_or(Ok(()), |place| Err(SavedFault::NoDevice(place.name)))
    }
}

/// The first bytes of a file, as many as a stream can have.
fn read(number: i32) -> Result<Vec<u8>, Errno> {
    let file = inherit(number)?;
    let mut bytes = vec![0; LONGEST];
    let mut len = 0usize;
    while let Some(room) = bytes.get_mut(len..).filter(|room| !room.is_empty()) {
        match rustix::io::pread(&file, room, len as u64) {
            Ok(0) => break,
            Ok(n) => len = len.saturating_add(n),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// These bytes as a file that nobody can change, to be read from its begin.
fn sealed(bytes: &[u8]) -> Result<OwnedFd, SavedFault> {
    let file = memfd_create("saved", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut len = 0usize;
    while let Some(rest) = bytes.get(len..).filter(|rest| !rest.is_empty()) {
        len = len.saturating_add(rustix::io::pwrite(&file, rest, len as u64)?);
    }
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
