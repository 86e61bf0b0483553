//! Requests to the launcher, and its answers.
use bulkhead_bus::nic::NicSettings;
use bulkhead_plan::{Ask, DriveId, Ending, FromProcess, FrontDisk, ProcessRow, RequestRefused, Slot};
use bulkhead_runtime::{Link, LinkError};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// What the launcher answers.
pub(crate) enum Answer {
    Number(u32),
    Processes(Vec<ProcessRow>),
    /// Names of rules, and what each has dropped.
    Dropped(Vec<(String, u64)>),
    /// Disks, and a descriptor for each of the newest of them.
    Disks(Vec<FrontDisk>, Vec<OwnedFd>),
}

/// Why the launcher has not done what it was asked.
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
    /// The answer is one to another question.
    #[error("the launcher answers something else")]
    OtherAnswer,
    /// A file's name is longer than the question has room for.
    #[error("the name is too long")]
    LongName,
}

type Answers = HashMap<u32, oneshot::Sender<Result<Answer, AskError>>>;

/// Sends requests to the launcher; whoever waits for an answer gets it.
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

    /// A request whose answer is a number.
    async fn number(&self, ask: Ask, fd: Option<BorrowedFd<'_>>) -> Result<u32, AskError> {
        match self.ask(ask, fd).await? {
            Answer::Number(number) => Ok(number),
            _ => Err(AskError::OtherAnswer),
        }
    }

    /// The process table.
    pub(crate) async fn processes(&self) -> Result<Vec<ProcessRow>, AskError> {
        match self.ask(Ask::Processes, None).await? {
            Answer::Processes(rows) => Ok(rows),
            _ => Err(AskError::OtherAnswer),
        }
    }

    /// The CDs of a stub domain, oldest first; descriptors come for those that are newer than the disk with number `known`.
    pub(crate) async fn disks(&self, known: u64) -> Result<(Vec<FrontDisk>, Vec<OwnedFd>), AskError> {
        match self.ask(Ask::Disks { known }, None).await? {
            Answer::Disks(disks, fds) => Ok((disks, fds)),
            _ => Err(AskError::OtherAnswer),
        }
    }

    /// A drive has this medium from now on, or none; the token by which its process knows it.
    pub(crate) async fn medium(&self, slot: Slot, drive: DriveId, fd: Option<BorrowedFd<'_>>) -> Result<u32, AskError> {
        self.number(Ask::Medium { slot, drive }, fd).await
    }

    /// A network card has these settings from now on, on its interface and in later lives of its process.
    pub(crate) async fn nic(&self, slot: Slot, settings: &NicSettings) -> Result<(), AskError> {
        self.number(Ask::Nic { slot, settings: settings.to_bytes() }, None).await.map(|_| ())
    }

    /// What the rules on a network card's interface have dropped.
    pub(crate) async fn dropped(&self, slot: Slot) -> Result<Vec<(String, u64)>, AskError> {
        match self.ask(Ask::Dropped { slot }, None).await? {
            Answer::Dropped(rules) => Ok(rules),
            _ => Err(AskError::OtherAnswer),
        }
    }

    /// The launcher's answer to a request.
    pub(crate) fn answered(&self, serial: u32, result: Result<Answer, AskError>) {
        if let Some(sender) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&serial) {
            let _ = sender.send(result);
        }
    }

    /// Restarts a device.
    pub(crate) async fn restart(&self, slot: Slot) -> Result<(), AskError> {
        self.ask(Ask::Restart { slot }, None).await.map(|_| ())
    }

    /// A device that may be added comes; returns when the guest can find it.
    pub(crate) async fn plug(&self, slot: Slot) -> Result<(), AskError> {
        self.number(Ask::Plug { slot }, None).await.map(|_| ())
    }

    /// Ends the machine.
    pub(crate) async fn stop(&self, ending: Ending) -> Result<(), AskError> {
        self.ask(Ask::Stop { ending }, None).await.map(|_| ())
    }

    /// Gives a process a descriptor; returns its token.
    pub(crate) async fn give(&self, slot: Slot, fd: impl AsFd) -> Result<u32, AskError> {
        self.number(Ask::GiveFd { slot }, Some(fd.as_fd())).await
    }

    /// Makes a file in the dump directory and gives it to a process; returns its token.
    pub(crate) async fn dump(&self, slot: Slot, name: &str) -> Result<u32, AskError> {
        let mut bytes = [0; 64];
        let Some(to) = bytes.get_mut(..name.len()) else { return Err(AskError::LongName) };
        to.copy_from_slice(name.as_bytes());
        self.number(Ask::Dump { slot, name: bytes }, None).await
    }
}
