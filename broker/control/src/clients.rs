//! gRPC to every process. A process may be hostile: messages are limited, every call has a deadline.
use bulkhead_control_api::v1::process_client::ProcessClient;
use bulkhead_control_api::{MESSAGE_MAX, v1};
use bulkhead_plan::Slot;
use hyper_util::rt::TokioIo;
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(6);

type Client = ProcessClient<Channel>;

/// The clients, by slot.
#[derive(Clone, Default)]
pub(crate) struct Clients(Arc<Mutex<BTreeMap<Slot, Client>>>);

impl Clients {
    /// Adds the connection to a new process.
    pub(crate) fn add(&self, slot: Slot, socket: OwnedFd) {
        let stream = tokio::net::UnixStream::from_std(std::os::unix::net::UnixStream::from(socket));
        let mut stream = stream.ok();
        let connect = tower::service_fn(move |_| {
            let stream = stream.take();
            async move { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::other("this process has gone")) }
        });
        // The address is never looked at.
        let channel = Endpoint::from_static("http://process").timeout(DEADLINE).connect_with_connector_lazy(connect);
        let client =
            ProcessClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, client);
    }

    /// A process is dead.
    pub(crate) fn remove(&self, slot: Slot) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }

    /// The client of a slot; a process that is being started (or of which this control, being new, has not heard yet)
    /// is waited for.
    pub(crate) async fn wait(&self, slot: Slot) -> Option<Client> {
        for _ in 0..100 {
            if let Some(client) = self.get(slot) {
                return Some(client);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// The client of a slot, if its process runs.
    pub(crate) fn get(&self, slot: Slot) -> Option<Client> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&slot).cloned()
    }

    /// Starts or stops all processes.
    pub(crate) async fn set_running(&self, running: bool) {
        let clients: Vec<_> = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().into_iter().collect();
        for (slot, mut client) in clients {
            let done = if running { client.start(v1::Empty {}).await } else { client.stop(v1::Empty {}).await };
            if let Err(e) = done {
                tracing::warn!("slot {slot}: {}", e.message());
            }
        }
    }
}
