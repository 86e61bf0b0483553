//! One client's session: greeting, negotiation, framing, ids and errors as in QEMU (docs/interop/qmp-spec).
use super::picture::PATIENCE;
use super::{Returned, Screenshot, version};
use crate::json::{Piece, Splitter};
use crate::outcome::QmpError;
use crate::session_state::Shared;
use rustix::fd::OwnedFd;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::{Value, json};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, Interest};
use tokio::net::UnixStream;

/// A client's connection. Only a socket passes descriptors.
pub(crate) enum Connection {
    Socket(UnixStream),
    Vchan(DuplexStream),
}

impl Connection {
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Socket(stream) => stream.write_all(bytes).await,
            Self::Vchan(stream) => stream.write_all(bytes).await,
        }
    }

    async fn receive(&mut self, buffer: &mut [u8]) -> std::io::Result<(usize, Option<OwnedFd>)> {
        match self {
            Self::Socket(stream) => stream.async_io(Interest::READABLE, || receive(stream, buffer)).await,
            Self::Vchan(stream) => stream.read(buffer).await.map(|n| (n, None)),
        }
    }
}

/// The answer to one request.
pub(crate) enum Reply {
    Value(Value),
    /// A picture, and the request's id.
    Picture(Screenshot, Option<Value>),
}

impl Reply {
    fn error(class: &str, description: &str) -> Self {
        Self::Value(json!({ "error": { "class": class, "desc": description } }))
    }

    async fn send(self, to: &mut Connection) -> std::io::Result<()> {
        match self {
            Self::Value(value) => to.write_all(format!("{value}\r\n").as_bytes()).await,
            Self::Picture(picture, id) => {
                to.write_all(b"{\"return\":{\"png\":\"").await?;
                picture.send(to, PATIENCE).await?;
                let id = id.map(|id| format!(",\"id\":{id}")).unwrap_or_default();
                to.write_all(format!("\"}}{id}}}\r\n").as_bytes()).await
            }
        }
    }
}

/// Answers one request of a client; the answer has the request's id.
pub(crate) async fn answer(shared: &Shared, negotiated: &mut bool, piece: Piece, fd: Option<OwnedFd>) -> Reply {
    let Piece::Object(text) = piece else {
        return Reply::error("GenericError", "JSON parse error");
    };
    let request: Value = match serde_json::from_slice(&text) {
        Ok(Value::Object(map)) => Value::Object(map),
        Ok(_) => return Reply::error("GenericError", "QMP input must be a JSON object"),
        Err(e) => return Reply::error("GenericError", &format!("JSON parse error: {e}")),
    };
    let id = request.get("id").cloned();
    let name = request.get("execute").and_then(Value::as_str);
    let empty = json!({});
    let arguments = request.get("arguments").unwrap_or(&empty);
    let outcome = match name {
        None => Err(QmpError::generic("QMP input lacks member 'execute'")),
        Some(_) if !arguments.is_object() => Err(QmpError::generic("QMP input member 'arguments' must be an object")),
        Some("qmp_capabilities") if *negotiated => {
            Err(QmpError::no_command("Capabilities negotiation is already complete, command ignored"))
        }
        Some("qmp_capabilities") => {
            *negotiated = true;
            Ok(Returned::Value(json!({})))
        }
        Some(_) if !*negotiated => {
            Err(QmpError::no_command("Expecting capabilities negotiation with 'qmp_capabilities'"))
        }
        Some(name) => shared.execute(name, arguments, fd).await,
    };
    let mut reply = match outcome {
        Ok(Returned::Picture(picture)) => return Reply::Picture(picture, id),
        Ok(Returned::Value(value)) => json!({ "return": value }),
        Err(e) => json!({ "error": { "class": e.class, "desc": e.description } }),
    };
    if let (Some(id), Some(reply)) = (id, reply.as_object_mut()) {
        reply.insert("id".into(), id);
    }
    Reply::Value(reply)
}

/// Receives bytes, and the descriptor sent with them, if any.
fn receive(stream: &UnixStream, buffer: &mut [u8]) -> std::io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let fd = ancillary.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((got.bytes, fd))
}

/// Serves one connection until the client closes it.
pub(crate) async fn session(shared: Arc<Shared>, mut stream: Connection) {
    let greeting = json!({ "QMP": { "version": version(), "capabilities": [] } });
    if stream.write_all(format!("{greeting}\r\n").as_bytes()).await.is_err() {
        return;
    }
    let mut events = shared.events.subscribe();
    let mut splitter = Splitter::default();
    let mut negotiated = false;
    let mut fd = None;
    let mut buffer = vec![0; 4096];
    loop {
        let got = tokio::select! {
            got = stream.receive(&mut buffer) => got,
            event = events.recv() => {
                if let Ok(event) = event && negotiated && stream.write_all(event.as_bytes()).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let n = match got {
            Ok((0, _)) | Err(_) => return,
            Ok((n, new)) => {
                fd = new.or(fd);
                n
            }
        };
        splitter.push(buffer.get(..n).unwrap_or_default());
        while let Some(piece) = splitter.next() {
            let reply = answer(&shared, &mut negotiated, piece, fd.take()).await;
            if reply.send(&mut stream).await.is_err() {
                return;
            }
        }
    }
}
