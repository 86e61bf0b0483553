//! Control's process: start, sandbox and main loop.
use crate::clients::Clients;
use crate::fdsets::FdSets;
use crate::launcher::{Answer, AskError, LauncherClient};
use crate::log::{self, LogFile};
use crate::nic_settings::Nics;
use crate::qmp::{self, Connection};
use crate::session_state::{RunState, Shared};
use crate::{saved, sessions};
use bulkhead_plan::{FdUse, Starts, ToProcess};
use bulkhead_runtime::{LinkError, Process, StartError, read_saved};
use rustix::fd::OwnedFd;
use serde_json::json;
use std::sync::{Arc, Mutex};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast};
use tokio::time::Duration;

/// Most simultaneous QMP connections, on all sockets together.
const SESSIONS: usize = 16;

/// Runs control. Returns when the launcher has closed its socket.
pub fn run() -> Result<(), StartError> {
    let mut process = Process::start("control")?;
    let listening = process.fds.take_all(|u| (*u == FdUse::QmpListen).then_some(()));
    let bridge = process.fds.take(&FdUse::Sessions);
    let save = process.fds.take(&FdUse::SaveStream);
    let saved = process.fds.take(&FdUse::SavedState);
    let logs = process.fds.take_all(|u| if let FdUse::Log(slot) = u { Some(*slot) } else { None });
    let file = LogFile::new(process.fds.require(&FdUse::LogFile)?, logs.len(), process.plan.log_begins);
    let report = process.confine()?;
    // tokio requires a non-blocking socket; no other process shares this end.
    rustix::io::ioctl_fionbio(&process.link, true)?;
    let link_copy = rustix::io::dup(&process.link)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    // tokio's sockets and pipes are created before the filter, because their creation needs further system calls.
    let entered = runtime.enter();
    let link_copy = UnixStream::from_std(std::os::unix::net::UnixStream::from(link_copy))?;
    let mut pipes = Vec::new();
    for (slot, fd) in logs {
        pipes.push((slot, tokio::net::unix::pipe::Receiver::from_owned_fd(fd)?));
    }
    let mut listeners = Vec::new();
    for (_, fd) in listening {
        listeners.push(UnixListener::from_std(std::os::unix::net::UnixListener::from(fd))?);
    }
    let bridge = bridge.map(|fd| UnixStream::from_std(std::os::unix::net::UnixStream::from(fd))).transpose()?;
    drop(entered);
    process.seal()?;
    let saved_nics = match saved {
        Some(state) => saved::compare(&read_saved(&state)?, &process.plan),
        None => Ok(Vec::new()),
    };
    let saved_nics = saved_nics.map_err(|why| StartError::Device(Box::new(why)))?;
    process.ready()?;
    tracing::info!(landlock = report.landlock, "in the sandbox");
    let Process { link, plan, .. } = process;
    let state = match (plan.paused, plan.stopped) {
        (true, _) => RunState::Paused,
        (false, true) => RunState::Prelaunch,
        (false, false) => RunState::Running,
    };
    let names: Vec<String> = pipes
        .iter()
        .map(|(slot, _)| match *slot {
            0 => "control".to_owned(),
            1 => "broker".to_owned(),
            slot => plan.devices.iter().find(|d| d.slot == slot).map_or(format!("slot {slot}"), |d| d.name.clone()),
        })
        .collect();
    let nics = Arc::new(Nics::new(&plan));
    let saved_nics: Vec<_> = saved_nics.into_iter().inspect(|(slot, had)| nics.set(*slot, had.clone())).collect();
    let shared = Arc::new(Shared {
        plan,
        clients: Clients::default(),
        launcher: LauncherClient::new(Arc::new(link)),
        state: Mutex::new(state),
        turn: Arc::default(),
        order: tokio::sync::Mutex::default(),
        logs_dirty: std::sync::atomic::AtomicBool::new(false),
        has_stopped: std::sync::atomic::AtomicBool::new(state == RunState::Paused),
        nics,
        saved_nics: Mutex::new(saved_nics.into_iter().map(|(slot, _)| slot).collect()),
        vnc_password: Mutex::default(),
        usb_id: Mutex::default(),
        fdsets: Mutex::new(FdSets::new(save)),
        media: Mutex::default(),
        picture: Arc::default(),
        captures: Arc::default(),
        events: broadcast::channel(16).0,
        past: Mutex::default(),
        recent: file.recent(),
        landlock: report.landlock,
    });
    runtime.block_on(async move {
        let logs: Vec<_> = names.into_iter().zip(pipes).map(|(name, (_, pipe))| (name, pipe)).collect();
        let mut waiting = Some((logs, file, listeners, bridge));
        let serving = shared.clone();
        // Once all processes run. With dm_restrict an answer on QMP is all by which libxl knows that they do.
        let serve = move || {
            let Some((logs, file, listeners, bridge)) = waiting.take() else { return };
            for (name, pipe) in logs {
                tokio::spawn(log::copy(name, pipe, file.clone()));
            }
            let room = Arc::new(Semaphore::new(SESSIONS));
            for listener in listeners {
                let next = async move || listener.accept().await.map(|(stream, _)| stream);
                tokio::spawn(accept(serving.clone(), next, room.clone()));
            }
            if let Some(bridge) = bridge {
                tokio::spawn(sessions::serve(serving.clone(), bridge));
            }
        };
        follow(&shared, link_copy, serve).await
    })
}

/// Pause after an error of `accept`: the causes are shortages of descriptors or memory, and clients that have closed already.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves the clients that `next` returns. An error, such as a shortage of descriptors, does not end the server.
async fn accept(shared: Arc<Shared>, mut next: impl AsyncFnMut() -> std::io::Result<UnixStream>, room: Arc<Semaphore>) {
    let mut failing = false;
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match next().await {
            Ok(stream) => {
                failing = false;
                let shared = shared.clone();
                tokio::spawn(async move {
                    qmp::session(shared, Connection::Socket(stream)).await;
                    drop(permit);
                });
            }
            Err(e) => {
                // Once for a series.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!("QMP: a client is not accepted: {e}");
                }
                drop(permit);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Handles the launcher's messages until it closes the socket.
async fn follow(shared: &Arc<Shared>, socket: UnixStream, mut serve: impl FnMut()) -> Result<(), StartError> {
    // tokio only waits on the socket; messages are received by the link.
    let receive = || match shared.launcher.link.receive(false) {
        Ok(None) => Err(std::io::ErrorKind::WouldBlock.into()),
        other => Ok(other),
    };
    loop {
        match socket.async_io(Interest::READABLE, receive).await? {
            Ok(Some((ToProcess::Running, _))) => serve(),
            Ok(Some((message, fds))) => handle(shared, message, fds),
            Ok(None) => {}
            Err(LinkError::Closed) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

fn handle(shared: &Arc<Shared>, message: ToProcess, fds: Vec<OwnedFd>) {
    match message {
        ToProcess::Client { slot, .. } => {
            if let Some(fd) = fds.into_iter().next() {
                shared.clients.add(slot, fd);
                crate::vnc::restore_password(shared, slot);
                let shared = shared.clone();
                tokio::spawn(async move { shared.tell_state(slot).await });
            }
        }
        ToProcess::Offline { slot, restart, reason } => {
            shared.clients.remove(slot);
            let name = shared.plan.devices.iter().find(|d| d.slot == slot).map_or("", |d| d.name.as_str());
            shared.event("X_BULKHEAD_DEVICE_DIED", &json!({ "device": name, "reason": reason, "restarts": restart }));
        }
        ToProcess::Answer { serial, result } => {
            shared.launcher.complete(serial, result.map(Answer::Number).map_err(AskError::Refused))
        }
        ToProcess::Disks { serial, disks } => shared.launcher.complete(serial, Ok(Answer::Disks(disks, fds))),
        ToProcess::Dropped { serial, rules } => shared.launcher.complete(serial, Ok(Answer::Dropped(rules))),
        ToProcess::Unplugged { slot } => {
            shared.clients.remove(slot);
            shared.nics.remove(slot);
            shared.captures.remove(slot);
            let device = shared.plan.devices.iter().find(|d| d.slot == slot);
            let mut name = device.map_or("", |d| d.name.as_str()).to_owned();
            if device.is_some_and(|d| d.config.starts() == Starts::WhenAdded) {
                let id = std::mem::take(&mut *shared.usb_id.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
                // A restarted control does not know the client's id.
                name = if id.is_empty() { name } else { id };
            }
            shared.event("DEVICE_DELETED", &json!({ "device": name, "path": format!("/machine/peripheral/{name}") }));
        }
        ToProcess::Processes { serial, rows } => shared.launcher.complete(serial, Ok(Answer::Processes(rows))),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    /// Without a pause control would spin while descriptors are short.
    #[test]
    fn a_series_of_errors_of_accept_is_slow() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
            let counted = calls.clone();
            let next = async move || {
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Err(rustix::io::Errno::MFILE.into())
            };
            let shared = Arc::new(qmp::tests::shared(false));
            // It never ends by itself; as long as the clock allows, it is called a few times only.
            let served = accept(shared, next, Arc::new(Semaphore::new(1)));
            assert!(tokio::time::timeout(PAUSE * 3, served).await.is_err());
            assert!((1..=4).contains(&calls.load(std::sync::atomic::Ordering::Relaxed)));
        });
    }

    /// One error, such as EMFILE, ended the QMP server for good.
    #[test]
    fn an_error_of_accept_does_not_end_the_server() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let shared = Arc::new(qmp::tests::shared(false));
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut answers = vec![Ok(theirs), Err(rustix::io::Errno::MFILE), Err(rustix::io::Errno::CONNABORTED)];
            let next = async move || match answers.pop() {
                Some(answer) => answer.map_err(std::io::Error::from),
                None => std::future::pending().await,
            };
            tokio::spawn(accept(shared, next, Arc::new(Semaphore::new(1))));
            let mut greeting = [0; 8];
            let mut ours = ours;
            tokio::time::timeout(Duration::from_secs(20), ours.read_exact(&mut greeting)).await.unwrap().unwrap();
            assert_eq!(&greeting, b"{\"QMP\":{");
        });
    }
}
