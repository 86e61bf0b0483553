//! The control service: one thread with a single-threaded tokio runtime, created before the system call filter is installed. It
//! passes every call to the data thread and waits for the answer; the data thread never waits for it.
use crate::call::{Call, Called, FacetError};
use crate::facts::Facts;
use crate::process::{eventfd, ring};
use crate::{StartError, log};
use bulkhead_bus::StateError;
use bulkhead_control_api::{MESSAGE_MAX, STATE_MAX, v1};
use bulkhead_wire::SAVED;
use rustix::fd::OwnedFd;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

// What a message adds to a state is little.
const _: () = assert!(STATE_MAX == SAVED + 64);

/// The answer to a request that returns nothing.
pub type Done = oneshot::Sender<()>;

/// A request to the data thread.
#[derive(Debug)]
pub enum ControlRequest {
    /// Answer at once.
    Ping(oneshot::Sender<()>),
    /// Set the most lines of guest text that are logged in a second.
    GuestLogLines(u32),
    /// Run (true) or stop. A stop is answered when nothing is under way any more.
    Running(bool, Done),
    /// Reset the device to its power-on state.
    Reset(oneshot::Sender<()>),
    /// Save the complete state.
    Save(oneshot::Sender<Result<Vec<u8>, SaveError>>),
    /// Restore a state.
    Load(Vec<u8>, oneshot::Sender<Result<(), LoadError>>),
    /// Return the registers by name.
    Inspect(oneshot::Sender<Vec<(String, String)>>),
    /// Return the counters by name.
    Statistics(oneshot::Sender<Vec<(&'static str, u64)>>),
    /// Return the typed facts.
    Facts(oneshot::Sender<Facts>),
    /// Call a facet of the device.
    Call(Call, oneshot::Sender<Result<Called, FacetError>>),
}

/// Why a state cannot be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveError {
    /// Xen refuses marks of written pages.
    #[error("Xen does not take the pages that devices have written")]
    Refused,
    /// A process goes on marking pages, which an honest one does not while the machine stands still.
    #[error("a device goes on writing while the machine stands still")]
    Writes,
    /// Pages were written that the guest did not have when it was started.
    #[error("devices have written memory above all that the guest was started with")]
    Beyond,
}

/// Why a saved state is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The device refuses the state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The process is the broker, which takes a state at its start alone.
    #[error("the broker takes a state at its start alone")]
    Broker,
}

/// The data thread's end. The control thread lives as long as the process: a thread's end needs system calls that no filter allows.
#[derive(Debug)]
pub struct ControlHandle {
    requests: Receiver<ControlRequest>,
    connections: tokio::sync::mpsc::UnboundedSender<OwnedFd>,
    /// An eventfd that is readable while requests are pending.
    pub bell: Arc<OwnedFd>,
}

impl ControlHandle {
    /// Serves a connection: the first one, and one after each restart of control. The socket must be non-blocking.
    pub fn connect(&self, socket: OwnedFd) {
        let _ = self.connections.send(socket);
    }

    /// Takes the next request; `None` if there is none.
    pub fn take(&self) -> Option<ControlRequest> {
        self.requests.try_recv().ok()
    }
}

impl Drop for ControlHandle {
    fn drop(&mut self) {
        // While this sender exists, the thread waits for the next connection.
        std::mem::forget(self.connections.clone());
    }
}

struct Service {
    role: &'static str,
    requests: Mutex<Sender<ControlRequest>>,
    bell: Arc<OwnedFd>,
}

/// Time in which the data thread must answer; after it the thread counts as stuck.
const PATIENCE: Duration = Duration::from_secs(5);

impl Service {
    fn send(&self, request: ControlRequest) -> Result<(), Status> {
        let sender = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        sender.send(request).map_err(|_| Status::unavailable("the process is ending"))?;
        ring(&self.bell);
        Ok(())
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> ControlRequest) -> Result<T, Status> {
        let (sender, receiver) = oneshot::channel();
        self.send(request(sender))?;
        match tokio::time::timeout(PATIENCE, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Status::unavailable("the process is ending")),
            Err(_) => Err(Status::deadline_exceeded("the data thread does not answer")),
        }
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl v1::process_server::Process for Service {
    async fn ping(&self, request: Request<v1::PingRequest>) -> Reply<v1::PingReply> {
        self.ask(ControlRequest::Ping).await?;
        let nonce = request.into_inner().nonce;
        Ok(Response::new(v1::PingReply { nonce, role: self.role.to_owned(), pid_in_namespace: std::process::id() }))
    }

    async fn configure(&self, request: Request<v1::Settings>) -> Reply<v1::Settings> {
        let settings = request.into_inner();
        self.send(ControlRequest::GuestLogLines(settings.guest_log_lines))?;
        Ok(Response::new(settings))
    }

    async fn start(&self, _: Request<v1::Empty>) -> Reply<v1::Empty> {
        self.ask(|s| ControlRequest::Running(true, s)).await.map(|()| Response::new(v1::Empty {}))
    }

    async fn stop(&self, _: Request<v1::Empty>) -> Reply<v1::Empty> {
        self.ask(|s| ControlRequest::Running(false, s)).await.map(|()| Response::new(v1::Empty {}))
    }

    async fn reset(&self, _: Request<v1::Empty>) -> Reply<v1::Empty> {
        self.ask(ControlRequest::Reset).await.map(|()| Response::new(v1::Empty {}))
    }

    async fn save(&self, _: Request<v1::Empty>) -> Reply<v1::State> {
        let saved = self.ask(ControlRequest::Save).await?;
        let data = saved.map_err(|why| Status::failed_precondition(why.to_string()))?;
        Ok(Response::new(v1::State { version: 1, data }))
    }

    async fn load(&self, request: Request<v1::State>) -> Reply<v1::Empty> {
        let state = request.into_inner();
        if state.version != 1 {
            return Err(Status::invalid_argument(format!("state version {} is not known", state.version)));
        }
        let done = self.ask(|s| ControlRequest::Load(state.data, s)).await?;
        done.map(|()| Response::new(v1::Empty {})).map_err(|why| Status::invalid_argument(why.to_string()))
    }

    async fn inspect(&self, _: Request<v1::Empty>) -> Reply<v1::Registers> {
        let items = self.ask(ControlRequest::Inspect).await?;
        let registers = items.into_iter().map(|(name, value)| v1::Register { name, value }).collect();
        Ok(Response::new(v1::Registers { registers }))
    }

    async fn statistics(&self, _: Request<v1::Empty>) -> Reply<v1::Counters> {
        let items = self.ask(ControlRequest::Statistics).await?;
        let counters = items.into_iter().map(|(name, value)| v1::Counter { name: name.to_owned(), value }).collect();
        Ok(Response::new(v1::Counters { counters }))
    }

    async fn set_log_level(&self, request: Request<v1::LogLevel>) -> Reply<v1::LogLevel> {
        let level = request.into_inner();
        if !log::set_level(&level.level) {
            return Err(Status::invalid_argument("the levels are error, warn, info, debug and trace"));
        }
        Ok(Response::new(level))
    }

    async fn facts(&self, _: Request<v1::Empty>) -> Reply<v1::FactsReply> {
        Ok(Response::new(self.ask(ControlRequest::Facts).await?.into()))
    }

    async fn call(&self, request: Request<v1::Call>) -> Reply<v1::CallReply> {
        let call = Call::try_from(request.into_inner()).map_err(|why| Status::invalid_argument(why.to_string()))?;
        let called = self.ask(|s| ControlRequest::Call(call, s)).await?;
        match called.map_err(|why| Status::failed_precondition(why.to_string()))? {
            Called::Done => Ok(Response::new(v1::CallReply { bytes: 0 })),
            Called::Write(bytes, fd) => {
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let n = rustix::io::write(&fd, rest).map_err(|e| Status::internal(format!("writing: {e}")))?;
                    rest = rest.get(n..).unwrap_or_default();
                }
                Ok(Response::new(v1::CallReply { bytes: bytes.len() as u64 }))
            }
        }
    }
}

/// A connection that was inherited, so its peer is known. (tonic's own wrapper asks the kernel for name and credentials.)
struct Inherited(tokio::net::UnixStream);

impl tonic::transport::server::Connected for Inherited {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Inherited {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, to)
    }
}

impl AsyncWrite for Inherited {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        from: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, from)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    // Dropping the value closes the socket; a shutdown would need one more system call in the profiles.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Starts the control thread, which serves nobody until [`ControlHandle::connect`]. Returns once the thread is in its loop.
pub fn serve(role: &'static str) -> Result<ControlHandle, StartError> {
    let (sender, requests) = channel();
    let bell = Arc::new(eventfd()?);
    let service = Service { role, requests: Mutex::new(sender), bell: bell.clone() };
    let (connections, mut arriving) = tokio::sync::mpsc::unbounded_channel::<OwnedFd>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let (ready, is_ready) = channel();
    let thread = move || {
        runtime.block_on(async move {
            let server = v1::process_server::ProcessServer::new(service)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(STATE_MAX);
            let (streams, incoming) = tokio::sync::mpsc::unbounded_channel();
            let accept = async move {
                let _ = ready.send(());
                while let Some(socket) = arriving.recv().await {
                    let stream = tokio::net::UnixStream::from_std(std::os::unix::net::UnixStream::from(socket));
                    if streams.send(stream.map(Inherited)).is_err() {
                        break;
                    }
                }
            };
            let served = tonic::transport::Server::builder()
                .max_concurrent_streams(8)
                .concurrency_limit_per_connection(4)
                .add_service(server)
                .serve_with_incoming(tokio_stream::wrappers::UnboundedReceiverStream::new(incoming));
            let _ = tokio::join!(accept, served);
        });
    };
    std::thread::Builder::new().name("control".into()).stack_size(256 * 1024).spawn(thread)?;
    let _ = is_ready.recv();
    Ok(ControlHandle { requests, connections, bell })
}
