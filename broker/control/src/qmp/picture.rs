//! Pictures of the guest's screen: screendump, x-bulkhead-screenshot.
use crate::clients::CallError;
use crate::outcome::{Outcome, QmpError};
use crate::session_state::Shared;
use base64::Engine as _;
use bulkhead_control_api::v1;
use bulkhead_control_api::v1::call::Call;
use bulkhead_plan::Picture;
use serde_json::{Value, json};
use std::sync::PoisonError;
use tokio::io::AsyncReadExt as _;

/// Most bytes of a picture: the largest possible PNG of the largest mode.
const PICTURE: u64 = 64 << 20;

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

    /// x-bulkhead-screenshot: returns the PNG in the answer, in base 64.
    pub(super) async fn screenshot(&self) -> Outcome {
        let slot = self.slot_of(|c| c.kind().picture == Picture::Draws);
        let slot = slot.ok_or_else(|| QmpError::generic("this machine has no display"))?;
        let failed = |e: std::io::Error| QmpError::generic(format!("a pipe for the picture: {e}"));
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        rustix::io::ioctl_fionbio(&read, true).map_err(|e| failed(e.into()))?;
        let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(read).map_err(failed)?;
        let token = self.launcher.give(slot, &write).await.map_err(QmpError::generic)?;
        // The display's process then has the only writing end; closing it ends the picture.
        drop(write);
        let mut png = Vec::new();
        let mut pipe = pipe.take(PICTURE);
        let call = self.clients.call(slot, Call::Screenshot(v1::Token { token }));
        let (asked, got) = tokio::join!(call, pipe.read_to_end(&mut png));
        asked.map_err(failed_call)?;
        got.map_err(failed)?;
        Ok(json!({ "png": base64::prelude::BASE64_STANDARD.encode(&png) }))
    }
}
