//! The only process of the back ends with a connection to xenstored. Each back end may read two directories, and write a few nodes of
//! one; the launcher determines the directories, and the back end's kind the nodes. xenstored serves all guests, and dom0 has no
//! quota there, so calls are counted.
//!
//! Nothing here waits for xenstored. A back end's call waits [`PATIENCE`] and fails then; while xenstored is silent, further calls
//! fail at once. When it answers again, each back end whose call has failed is told of a change, and reads its nodes again.
mod caller;

use crate::error::BuildError;
use crate::role::{Prepared, Role, Seen, wrong};
use bulkhead_bus::{Auxiliary, Callers, Context, Inspect, Ready, TimerId, Unseen};
use bulkhead_plan::{DeviceConfig, FdUse, kind};
use bulkhead_runtime::Resources;
use bulkhead_xen::{Call, Heard, XenError, XenstoreQueue};
use caller::Caller;
use rustix::fd::OwnedFd;

pub(crate) static XENBUS: Role = Role { kind: &kind::XENBUS, seen: Seen::No, prepare };

fn prepare(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Xenbus { callers: all } = config else { return Err(wrong(config)) };
    let store = resources.fds.require(&FdUse::Xenstore)?;
    let mut polled = vec![(STORE, rustix::io::dup(&store)?)];
    let now = bulkhead_bus::Clock::Real.now();
    let mut callers = Vec::new();
    for (caller, ready) in all.iter().zip(FIRST_CALLER..) {
        let means = caller.means().ok_or_else(|| BuildError::NoBackEnd(caller.role.clone()))?;
        let socket = resources.fds.take(&FdUse::Nodes(caller.number));
        polled.extend(socket.as_ref().map(rustix::io::dup).transpose()?.map(|socket| (ready, socket)));
        callers.push(Caller::new(caller.number, means, caller.about.clone(), socket, now));
    }
    Ok(Prepared::device(Unseen(Xenbus::new(store, callers)?), polled))
}

/// Ready number of xenstored's connection; those of the back ends follow, in their order.
const STORE: u32 = 0;
const FIRST_CALLER: u32 = 1;
/// Timer: changes that were not reported yet.
const REPORT: TimerId = 0;
/// Timer: calls that xenstored has not answered.
const LATE: TimerId = 1;
/// Nanoseconds until a call fails that xenstored does not answer. A back end's call waits longer for this process.
const PATIENCE: u64 = 2_000_000_000;
/// Most calls of a back end, and most answers and events of xenstored, before other work.
const BUDGET: usize = 16;

/// The process `xenbus`: it reads and writes xenstore for the back ends that are its callers.
struct Xenbus {
    store: XenstoreQueue,
    callers: Vec<Caller>,
    /// Watches that xenstored has not answered: number, and index of the back end.
    watches: Vec<(u32, usize)>,
    /// xenstored has left a call unanswered, which is in the log.
    silent: bool,
    silences: u64,
}

impl Xenbus {
    /// Watches the directories of all `callers`.
    fn new(socket: OwnedFd, callers: Vec<Caller>) -> Result<Self, XenError> {
        let mut store = XenstoreQueue::over_kept_socket(socket);
        let mut watches = Vec::new();
        for (index, caller) in callers.iter().enumerate() {
            for path in caller.directories() {
                watches.push((store.ask(0, Call::Watch(path, &index.to_string()))?, index));
            }
        }
        Ok(Self { store, callers, watches, silent: false, silences: 0 })
    }

    /// Takes a back end's calls, one at a time. Returns whether more may be pending.
    fn serve(&mut self, index: usize, cx: &mut Context) -> bool {
        let Some(caller) = self.callers.get_mut(index) else { return false };
        let now = cx.now();
        for _ in 0..BUDGET {
            if caller.is_waiting() {
                return false;
            }
            let Some((serial, call)) = caller.take(now) else {
                if caller.is_over() {
                    cx.overruns.push(caller.number);
                }
                return false;
            };
            match call {
                None => caller.refuse(serial),
                Some(_) if self.silent => caller.miss(serial),
                Some(call) => caller.begin(&mut self.store, serial, call, now).unwrap_or_else(|e| give_up(&e)),
            }
        }
        true
    }

    /// Takes what xenstored has sent. Returns whether more may be pending.
    fn hear(&mut self) -> bool {
        self.store.flush().unwrap_or_else(|e| give_up(&e));
        for _ in 0..BUDGET {
            match self.store.hear().unwrap_or_else(|e| give_up(&e)) {
                None => return false,
                Some(Heard::Fired(token)) => self.changed(token.parse().ok()),
                Some(Heard::Answer(number, answer)) => self.answered(number, answer),
            }
        }
        true
    }

    fn changed(&mut self, index: Option<usize>) {
        if let Some(caller) = index.and_then(|index| self.callers.get_mut(index)) {
            caller.has_changed();
        }
    }

    /// Handles an answer; one to a call of a dead process is dropped.
    fn answered(&mut self, number: u32, answer: Result<Vec<u8>, XenError>) {
        if let Some(at) = self.watches.iter().position(|(watch, _)| *watch == number) {
            let (_, index) = self.watches.swap_remove(at);
            match answer {
                Ok(_) => {}
                // A dead process has set it on this connection. It has taken events that nobody has heard of.
                Err(e) if e.names("EEXIST") => self.changed(Some(index)),
                Err(e) => give_up(&e),
            }
        } else if let Some(caller) = self.callers.iter_mut().find(|c| c.awaits() == Some(number)) {
            caller.answered(&mut self.store, answer).unwrap_or_else(|e| give_up(&e));
        }
        if self.silent && !self.callers.iter().any(Caller::is_late) {
            self.silent = false;
            tracing::info!("xenstored answers again");
            self.callers.iter_mut().for_each(Caller::hear_again);
        }
    }

    /// Fails the calls that xenstored has not answered in time.
    fn check(&mut self, cx: &mut Context) {
        let now = cx.now();
        for caller in &mut self.callers {
            if caller.expire(now, PATIENCE) && !std::mem::replace(&mut self.silent, true) {
                self.silences = self.silences.saturating_add(1);
                tracing::warn!("xenstored does not answer; calls of back ends fail until it does");
            }
        }
        let next = self.callers.iter().filter_map(Caller::since).min();
        cx.timers.set(LATE, next.map(|since| since.saturating_add(PATIENCE)));
    }

    /// Tells back ends of changed nodes, at once or later. Those cannot be read while xenstored is silent.
    fn report(&mut self, cx: &mut Context) {
        let now = cx.now();
        let next = match self.silent {
            true => None,
            false => self.callers.iter_mut().filter_map(|c| c.report(now)).min(),
        };
        cx.timers.set(REPORT, next);
    }
}

/// Ends this process: the connection is lost. The launcher makes another one for the next process.
fn give_up(e: &XenError) -> ! {
    tracing::error!("{e}");
    bulkhead_runtime::end(1)
}

impl Callers for Xenbus {
    fn ready(&self, caller: u8) -> Option<u32> {
        let index = self.callers.iter().position(|c| c.number == caller)?;
        u32::try_from(index).ok()?.checked_add(FIRST_CALLER)
    }

    fn begin_life(&mut self, caller: u8, socket: OwnedFd, cx: &mut Context) -> Option<OwnedFd> {
        let caller = self.callers.iter_mut().find(|c| c.number == caller)?;
        caller.begin_life(socket, cx.now())
    }
}

impl Auxiliary for Xenbus {
    fn start(&mut self, cx: &mut Context) {
        // A previous process may have left calls.
        cx.again();
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        let mut more = self.hear();
        match ready {
            Ready::Fd(STORE) | Ready::Timer(_) | Ready::Again => {}
            Ready::Fd(n) => more |= self.serve(n.saturating_sub(FIRST_CALLER) as usize, cx),
        }
        self.check(cx);
        // A back end whose call has just been answered may have sent another one.
        for index in 0..self.callers.len() {
            if ready == Ready::Again || self.callers.get_mut(index).is_some_and(Caller::take_done) {
                more |= self.serve(index, cx);
            }
        }
        self.check(cx);
        self.report(cx);
        if more {
            cx.again();
        }
    }

    fn callers(&mut self) -> Option<&mut dyn Callers> {
        Some(self)
    }

    fn inspect(&self, out: &mut Inspect) {
        out.value("xenstored is silent", self.silent).value("silences", self.silences);
        for caller in &self.callers {
            caller.inspect(out);
        }
    }
}

#[cfg(test)]
mod tests;
