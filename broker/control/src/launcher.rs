//! Control's requests to the launcher, and the answers.
use bulkhead_bus::nic::NicSettings;
use bulkhead_plan::{Ask, DriveId, Ending, FromProcess, FrontDisk, ProcessRow, RequestRefused, Slot};
use bulkhead_runtime::{Link, LinkError};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// An answer of the launcher.
pub(crate) enum Answer {
    Number(u32),
    Processes(Vec<ProcessRow>),
    /// Names of rules, and the number of frames that each has dropped.
    Dropped(Vec<(String, u64)>),
    /// The disks, oldest first, and a descriptor for each that is newer than the request's.
    Disks(Vec<FrontDisk>, Vec<OwnedFd>),
}

/// Why a request to the launcher failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The launcher refuses the request; the text is its own.
    #[error(transparent)]
    Refused(#[from] RequestRefused),
    /// Its socket fails.
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the launcher does not answer")]
    NoAnswer,
    /// The answer's kind does not match the request.
    #[error("the launcher's answer does not match the request")]
    OtherAnswer,
    /// A file's name is longer than the 64 bytes of the request.
    #[error("the name is too long")]
    LongName,
}

type Answers = HashMap<u32, oneshot::Sender<Result<Answer, AskError>>>;

/// Sends requests to the launcher, and passes each answer to the task that waits for it.
#[derive(Clone)]
pub(crate) struct LauncherClient {
    pub(crate) link: Arc<Link>,
    waiting: Arc<Mutex<(u32, Answers)>>,
}

impl LauncherClient {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, waiting: Arc::default() }
    }

    async fn ask(&self, ask: Ask, fd: Option<BorrowedFd<'_>>) -> Result<Answer, AskError> {
        let (sender, receiver) = oneshot::channel();
        let serial = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.0 = waiting.0.wrapping_add(1);
            let serial = waiting.0;
            waiting.1.insert(serial, sender);
            serial
        };
        self.link.send(&FromProcess { serial, ask }, fd)?;
        match tokio::time::timeout(Duration::from_secs(5), receiver).await {
            Ok(Ok(answer)) => answer,
            _ => Err(AskError::NoAnswer),
        }
    }

    /// Sends a request that is answered with a number.
    async fn number(&self, ask: Ask, fd: Option<BorrowedFd<'_>>) -> Result<u32, AskError> {
        match self.ask(ask, fd).await? {
            Answer::Number(number) => Ok(number),
            _ => Err(AskError::OtherAnswer),
        }
    }

    /// The process table, with a row for each process of the guest.
    pub(crate) async fn processes(&self) -> Result<Vec<ProcessRow>, AskError> {
        match self.ask(Ask::Processes, None).await? {
            Answer::Processes(rows) => Ok(rows),
            _ => Err(AskError::OtherAnswer),
        }
    }

    /// The CDs of a stub domain, oldest first, with descriptors of those newer than the disk with sequence number `known`.
    pub(crate) async fn disks(&self, known: u64) -> Result<(Vec<FrontDisk>, Vec<OwnedFd>), AskError> {
        match self.ask(Ask::Disks { known }, None).await? {
            Answer::Disks(disks, fds) => Ok((disks, fds)),
            _ => Err(AskError::OtherAnswer),
        }
    }

    /// Sets the medium of a drive, or empties it; returns the token of the medium's descriptor in the drive's process.
    pub(crate) async fn medium(&self, slot: Slot, drive: DriveId, fd: Option<BorrowedFd<'_>>) -> Result<u32, AskError> {
        self.number(Ask::Medium { slot, drive }, fd).await
    }

    /// Applies settings to a network card's interface, and for later restarts of its process.
    pub(crate) async fn nic(&self, slot: Slot, settings: &NicSettings) -> Result<(), AskError> {
        self.number(Ask::Nic { slot, settings: settings.to_bytes() }, None).await.map(|_| ())
    }

    /// The number of frames that each rule on a network card's interface has dropped.
    pub(crate) async fn dropped(&self, slot: Slot) -> Result<Vec<(String, u64)>, AskError> {
        match self.ask(Ask::Dropped { slot }, None).await? {
            Answer::Dropped(rules) => Ok(rules),
            _ => Err(AskError::OtherAnswer),
        }
    }

    /// Passes the launcher's answer to the task that waits for the request with this serial number.
    pub(crate) fn complete(&self, serial: u32, result: Result<Answer, AskError>) {
        if let Some(sender) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&serial) {
            let _ = sender.send(result);
        }
    }

    /// Lets processes that are started from now on know whether the machine stands still. There is no answer.
    pub(crate) fn paused(&self, paused: bool) {
        let _ = self.link.send(&FromProcess::from(Ask::Paused { paused }), None);
    }

    /// Takes the locks of the images that the guest writes, or gives them away.
    pub(crate) async fn locks(&self, held: bool) -> Result<(), AskError> {
        self.number(Ask::Locks { held }, None).await.map(|_| ())
    }

    /// Kills a device's process, which is then restarted.
    pub(crate) async fn restart(&self, slot: Slot) -> Result<(), AskError> {
        self.ask(Ask::Restart { slot }, None).await.map(|_| ())
    }

    /// Adds a device that the plan reserves; returns when the guest can find it.
    pub(crate) async fn plug(&self, slot: Slot) -> Result<(), AskError> {
        self.number(Ask::Plug { slot }, None).await.map(|_| ())
    }

    /// Ends the guest's device model.
    pub(crate) async fn stop(&self, ending: Ending) -> Result<(), AskError> {
        self.ask(Ask::Stop { ending }, None).await.map(|_| ())
    }

    /// Passes a descriptor to a process; returns its token there.
    pub(crate) async fn give(&self, slot: Slot, fd: impl AsFd) -> Result<u32, AskError> {
        self.number(Ask::GiveFd { slot }, Some(fd.as_fd())).await
    }

    /// Creates a file in the dump directory and passes it to a process; returns its token there.
    pub(crate) async fn dump(&self, slot: Slot, name: &str) -> Result<u32, AskError> {
        let mut bytes = [0; 64];
        let Some(to) = bytes.get_mut(..name.len()) else { return Err(AskError::LongName) };
        to.copy_from_slice(name.as_bytes());
        self.number(Ask::Dump { slot, name: bytes }, None).await
    }
}
