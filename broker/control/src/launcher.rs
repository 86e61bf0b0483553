//! Asking the launcher.
use bulkhead_bus::plan::{Ask, FromProcess, ProcessRow, Slot};
use bulkhead_runtime::Link;
use rustix::fd::{AsFd, BorrowedFd};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// What the launcher answers.
pub(crate) enum Answer {
    Number(u32),
    Processes(Vec<ProcessRow>),
}

type Answers = HashMap<u32, oneshot::Sender<Result<Answer, String>>>;

/// Requests to the launcher, and who waits for their answers.
#[derive(Clone)]
pub(crate) struct Launcher {
    pub(crate) link: Arc<Link>,
    waiting: Arc<Mutex<(u32, Answers)>>,
}

impl Launcher {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, waiting: Arc::default() }
    }

    async fn ask(&self, ask: Ask, arg: u8, name: [u8; 64], fd: Option<BorrowedFd<'_>>) -> Result<Answer, String> {
        let (sender, receiver) = oneshot::channel();
        let serial = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.0 = waiting.0.wrapping_add(1);
            let serial = waiting.0;
            waiting.1.insert(serial, sender);
            serial
        };
        let message = FromProcess { serial, name, ..FromProcess::new(ask, arg, 0) };
        self.link.send(&message, fd).map_err(|e| e.to_string())?;
        match tokio::time::timeout(Duration::from_secs(5), receiver).await {
            Ok(Ok(answer)) => answer,
            _ => Err("the launcher does not answer".into()),
        }
    }

    /// A request whose answer is a number.
    async fn number(&self, ask: Ask, arg: u8, name: [u8; 64], fd: Option<BorrowedFd<'_>>) -> Result<u32, String> {
        match self.ask(ask, arg, name, fd).await? {
            Answer::Number(number) => Ok(number),
            Answer::Processes(_) => Err("the launcher answers something else".into()),
        }
    }

    /// The process table.
    pub(crate) async fn processes(&self) -> Result<Vec<ProcessRow>, String> {
        match self.ask(Ask::Processes, 0, [0; 64], None).await? {
            Answer::Processes(rows) => Ok(rows),
            Answer::Number(_) => Err("the launcher answers something else".into()),
        }
    }

    /// The launcher's answer to a request.
    pub(crate) fn answered(&self, serial: u32, result: Result<Answer, String>) {
        if let Some(sender) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&serial) {
            let _ = sender.send(result);
        }
    }

    /// Restarts a device.
    pub(crate) async fn restart(&self, slot: Slot) -> Result<(), String> {
        self.ask(Ask::Restart, slot, [0; 64], None).await.map(|_| ())
    }

    /// Ends the machine: 0 just end, 1 the guest is switched off, 2 rebooted.
    pub(crate) async fn stop(&self, how: u8) -> Result<(), String> {
        self.ask(Ask::Stop, how, [0; 64], None).await.map(|_| ())
    }

    /// Gives a process a descriptor; returns its token.
    pub(crate) async fn give(&self, slot: Slot, fd: impl AsFd) -> Result<u32, String> {
        self.number(Ask::GiveFd, slot, [0; 64], Some(fd.as_fd())).await
    }

    /// Makes a file in the dump directory and gives it to a process; returns its token.
    pub(crate) async fn dump(&self, slot: Slot, name: &str) -> Result<u32, String> {
        let mut bytes = [0; 64];
        let Some(to) = bytes.get_mut(..name.len()) else { return Err("the name is too long".into()) };
        to.copy_from_slice(name.as_bytes());
        self.number(Ask::Dump, slot, bytes, None).await
    }
}
