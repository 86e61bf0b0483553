//! Pictures of the guest's screen: screendump, x-bulkhead-screenshot.
use super::session::Connection;
use crate::clients::CallError;
use crate::outcome::{Outcome, QmpError};
use crate::session_state::Shared;
use base64::Engine as _;
use bulkhead_control_api::v1;
use bulkhead_control_api::v1::call::Call;
use bulkhead_plan::Picture;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::OwnedMutexGuard;

/// Most bytes of a picture in an answer. Control has 24 MiB in all (policy/profiles/control.toml), and the display may be hostile.
const PICTURE: usize = 8 << 20;
/// Bytes that are encoded and sent at a time: a multiple of 3, so that their base 64 can be joined.
const BLOCK: usize = 48 << 10;
/// Longest time until the display has written the whole picture, and until a client takes a block of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(6);

/// Why there is no picture, although the display has not refused it.
#[derive(Debug, thiserror::Error)]
enum PictureError {
    #[error("the picture has more than {} MiB; screendump writes it to a file", PICTURE >> 20)]
    TooLarge,
    #[error("the display does not finish the picture")]
    Unfinished,
    #[error("a pipe for the picture: {0}")]
    Pipe(#[from] std::io::Error),
    #[error("another client's picture is not sent yet")]
    Busy,
}

/// A PNG on its way to a client. There is one at a time.
pub(crate) struct Screenshot {
    blocks: VecDeque<Vec<u8>>,
    _turn: OwnedMutexGuard<()>,
}

impl Screenshot {
    /// Sends it in base 64, block by block. Fails if the client takes nothing of one for so long.
    pub(super) async fn send(mut self, to: &mut Connection, patience: Duration) -> std::io::Result<()> {
        while let Some(block) = self.blocks.pop_front() {
            let text = base64::prelude::BASE64_STANDARD.encode(block);
            tokio::time::timeout(patience, to.write_all(text.as_bytes()))
                .await
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        }
        Ok(())
    }
}

/// Reads a picture until its writer closes the pipe, in blocks of [`BLOCK`] bytes of which the last may be shorter.
async fn collect(mut pipe: Receiver, patience: Duration) -> Result<VecDeque<Vec<u8>>, PictureError> {
    let read = async {
        let (mut blocks, mut total) = (VecDeque::new(), 0usize);
        loop {
            let mut block = vec![0; BLOCK];
            let mut filled = 0;
            while let rest @ [_, ..] = block.get_mut(filled..).unwrap_or_default() {
                match pipe.read(rest).await? {
                    0 => break,
                    n => filled = filled.saturating_add(n),
                }
            }
            total = total.saturating_add(filled);
            if total > PICTURE {
                return Err(PictureError::TooLarge);
            }
            let last = filled < BLOCK;
            block.truncate(filled);
            blocks.push_back(block);
            if last {
                return Ok(blocks);
            }
        }
    };
    tokio::time::timeout(patience, read).await.unwrap_or(Err(PictureError::Unfinished))
}

fn failed_call(e: CallError) -> QmpError {
    match e {
        CallError::NotRunning => QmpError::generic("the display's process does not run"),
        e => QmpError::generic(e.to_string()),
    }
}

impl Shared {
    /// screendump: writes a PNG to a file of the dump directory or to a descriptor of add-fd.
    pub(super) async fn screendump(&self, arguments: &Value) -> Outcome {
        let filename = arguments.get("filename").and_then(Value::as_str);
        let filename = filename.ok_or_else(|| QmpError::generic("Parameter 'filename' is missing"))?;
        if !matches!(arguments.get("format").and_then(Value::as_str), None | Some("png")) {
            return Err(QmpError::generic("the only format is png"));
        }
        let slot = self.slot_of(|c| c.kind().picture == Picture::Draws);
        let slot = slot.ok_or_else(|| QmpError::generic("this machine has no display"))?;
        let fd = self.fdsets.lock().unwrap_or_else(PoisonError::into_inner).named(filename)?;
        let token = match fd {
            Some(fd) => self.launcher.give(slot, &*fd).await,
            None => {
                let Some(dir) = &self.plan.dump_dir else {
                    return Err(QmpError::generic(
                        "a stub domain has no files; x-bulkhead-screenshot answers with the picture",
                    ));
                };
                let name = filename.strip_prefix(dir.as_str()).and_then(|n| n.strip_prefix('/')).unwrap_or(filename);
                if name.contains('/') {
                    let text = format!("pictures go to {dir}/NAME, or to a descriptor passed by add-fd: /dev/fdset/N");
                    return Err(QmpError::generic(text));
                }
                self.launcher.dump(slot, name).await
            }
        };
        let token = token.map_err(QmpError::generic)?;
        self.clients.call(slot, Call::Screenshot(v1::Token { token })).await.map_err(failed_call)?;
        Ok(json!({}))
    }

    /// x-bulkhead-screenshot: returns the PNG, which the session sends in base 64.
    pub(super) async fn screenshot(&self) -> Result<Screenshot, QmpError> {
        let slot = self.slot_of(|c| c.kind().picture == Picture::Draws);
        let slot = slot.ok_or_else(|| QmpError::generic("this machine has no display"))?;
        let turn = tokio::time::timeout(PATIENCE, self.picture.clone().lock_owned());
        let turn = turn.await.map_err(|_| QmpError::generic(PictureError::Busy))?;
        let failed = |e: std::io::Error| QmpError::generic(PictureError::Pipe(e));
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        rustix::io::ioctl_fionbio(&read, true).map_err(|e| failed(e.into()))?;
        let pipe = Receiver::from_owned_fd_unchecked(read).map_err(failed)?;
        let token = self.launcher.give(slot, &write).await.map_err(QmpError::generic)?;
        // The display's process then has the only writing end; closing it ends the picture.
        drop(write);
        let call = self.clients.call(slot, Call::Screenshot(v1::Token { token }));
        let (asked, got) = tokio::join!(call, collect(pipe, PATIENCE));
        // A display whose picture is not taken any more fails too, and its own words say less.
        if let Err(e @ (PictureError::TooLarge | PictureError::Unfinished)) = got {
            return Err(QmpError::generic(e));
        }
        asked.map_err(failed_call)?;
        Ok(Screenshot { blocks: got.map_err(QmpError::generic)?, _turn: turn })
    }
}

#[cfg(test)]
mod tests;
