//! gRPC to every process. A process may be hostile: messages are limited, every call has a deadline.
use bulkhead_control_api::v1::call::Call;
use bulkhead_control_api::v1::process_client::ProcessClient;
use bulkhead_control_api::{MESSAGE_MAX, STATE_MAX, v1};
use bulkhead_plan::{BROKER, Slot};
use hyper_util::rt::TokioIo;
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// Longest time of a call.
const DEADLINE: Duration = Duration::from_secs(6);

/// Longest time for which a call is retried while its process is restarted.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest time of a stop: what has begun is waited for, as a write that its storage holds up.
pub(crate) const STOP: Duration = Duration::from_secs(30);
/// Time after which a stop is asked for once more.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Interval between two tries.
const STEP: Duration = Duration::from_millis(20);

type Client = ProcessClient<Channel>;

/// The gRPC clients of the running processes, by slot.
#[derive(Clone, Default)]
pub(crate) struct Clients(Arc<Mutex<BTreeMap<Slot, Client>>>);

impl Clients {
    /// Adds the connection to a new process.
    pub(crate) fn add(&self, slot: Slot, socket: OwnedFd) {
        let stream = tokio::net::UnixStream::from_std(std::os::unix::net::UnixStream::from(socket));
        let mut stream = stream.ok();
        let connect = tower::service_fn(move |_| {
            let stream = stream.take();
            async move {
                stream
                    .map(TokioIo::new)
                    .ok_or_else(|| std::io::Error::other("the connection to this process is closed"))
            }
        });
        // The address is required but not used.
        let channel = Endpoint::from_static("http://process").timeout(DEADLINE).connect_with_connector_lazy(connect);
        let client =
            ProcessClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, client);
    }

    /// Removes the client of a process that has died or was unplugged.
    pub(crate) fn remove(&self, slot: Slot) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }

    /// The client of a slot. Waits up to two seconds for a process that is being started, or whose socket a restarted control has
    /// not received yet.
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

    /// Stops all processes, or lets them go on: first the broker, so that the guest's accesses come to devices that run, then all devices
    /// at once. Returns the slots that have not done it.
    pub(crate) async fn set_running(&self, running: bool) -> Vec<Slot> {
        let mut slots: Vec<Slot> = self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        slots.retain(|slot| *slot != BROKER);
        let mut failed = Vec::new();
        let begun = tokio::time::Instant::now();
        if !self.set_running_of(BROKER, running, STOP).await {
            failed.push(BROKER);
        }
        let most = STOP.saturating_sub(begun.elapsed());
        let mut all = tokio::task::JoinSet::new();
        for slot in slots {
            let clients = self.clone();
            all.spawn(async move { (slot, clients.set_running_of(slot, running, most).await) });
        }
        while let Some(done) = all.join_next().await {
            failed.extend(done.ok().filter(|(_, done)| !done).map(|(slot, _)| slot));
        }
        // The last changes of devices' lines are Xen's too then.
        if !running && failed.is_empty() && !self.set_running_of(BROKER, false, PATIENCE).await {
            failed.push(BROKER);
        }
        failed.sort_unstable();
        failed
    }

    /// Stops a process, or lets it go on; false if it has not done that. A slot without a process has nothing to do: its next process is
    /// told when it comes.
    pub(crate) async fn set_running_of(&self, slot: Slot, running: bool, longest: Duration) -> bool {
        let begun = tokio::time::Instant::now();
        let mut told = false;
        loop {
            let Some(mut client) = self.get(slot) else { return true };
            let call =
                async { if running { client.start(v1::Empty {}).await } else { client.stop(v1::Empty {}).await } };
            let (why, most) = match tokio::time::timeout(ASK_AGAIN, call).await {
                Ok(Ok(_)) => return true,
                Ok(Err(e)) => (e.message().to_owned(), PATIENCE.min(longest)),
                Err(_) => ("it has work under way".to_owned(), if running { PATIENCE } else { longest }),
            };
            if begun.elapsed() >= most {
                tracing::warn!("slot {slot} has not {}: {why}", if running { "started" } else { "stopped" });
                return false;
            }
            if !std::mem::replace(&mut told, true) {
                tracing::info!("slot {slot} is waited for: {why}");
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// The complete state of the process in a slot, of a machine that stands still.
    ///
    /// # Errors
    /// If the process does not run or does not answer.
    pub(crate) async fn save(&self, slot: Slot) -> Result<Vec<u8>, CallError> {
        let client = self.get(slot).ok_or(CallError::NotRunning)?;
        let answer = client.max_decoding_message_size(STATE_MAX).save(v1::Empty {}).await;
        answer.map(|state| state.into_inner().data).map_err(|e| CallError::NoAnswer(e.message().to_owned()))
    }

    /// The facts that the process in a slot reports; `None` if it does not answer. Waits for the restart of a process that has just
    /// died.
    pub(crate) async fn facts(&self, slot: Slot) -> Option<v1::FactsReply> {
        let begun = tokio::time::Instant::now();
        loop {
            let mut client = self.wait(slot).await?;
            match client.facts(v1::Empty {}).await {
                Ok(answer) => return Some(answer.into_inner()),
                Err(e) if begun.elapsed() >= PATIENCE => {
                    tracing::warn!("slot {slot} does not answer: {}", e.message());
                    return None;
                }
                Err(_) => tokio::time::sleep(STEP).await,
            }
        }
    }

    /// Calls a function that only some devices have.
    ///
    /// # Errors
    /// If the process does not run, refuses the call or does not answer.
    pub(crate) async fn call(&self, slot: Slot, call: Call) -> Result<(), CallError> {
        let mut client = self.wait(slot).await.ok_or(CallError::NotRunning)?;
        let done = client.call(v1::Call { call: Some(call) }).await;
        done.map(|_| ()).map_err(|e| match e.code() {
            tonic::Code::FailedPrecondition | tonic::Code::InvalidArgument => {
                CallError::Refused(e.message().to_owned())
            }
            _ => CallError::NoAnswer(e.message().to_owned()),
        })
    }

    /// As [`Clients::call`], but repeats the call if the process does not answer because it has just died.
    ///
    /// # Errors
    /// See [`Clients::call`].
    pub(crate) async fn call_again(&self, slot: Slot, call: Call) -> Result<(), CallError> {
        let begun = tokio::time::Instant::now();
        loop {
            match self.call(slot, call.clone()).await {
                Err(CallError::NoAnswer(_)) if begun.elapsed() < PATIENCE => tokio::time::sleep(STEP).await,
                done => return done,
            }
        }
    }
}

/// Why a call was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// The slot has no running process.
    #[error("the process does not run")]
    NotRunning,
    /// The device refuses the call; the text is its own.
    #[error("{0}")]
    Refused(String),
    /// The process has died during the call or is stuck; the text is gRPC's.
    #[error("{0}")]
    NoAnswer(String),
}
