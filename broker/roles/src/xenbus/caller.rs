//! A back end, its directories, and the one call of it that is under way.
use crate::token_bucket::TokenBucket;
use bulkhead_bus::Inspect;
use bulkhead_bus::pv::means::{CALLS, CALLS_PER_NOTICE, CALLS_PER_SECOND};
use bulkhead_bus::pv::{Means, Side};
use bulkhead_plan::PvNodes;
use bulkhead_plan::pv_calls::{XenbusCall, XenbusReply};
use bulkhead_xen::{Call, Progress, WriteBeside, XenError, XenstoreQueue};
use rustix::fd::OwnedFd;
use rustix::net::{RecvFlags, SendFlags};

/// A change is reported to a back end that has so many calls left: it may still be at work on an earlier notice. Then no guest can
/// bring its back end to the limit by changing its nodes.
const RESERVE: u32 = 2 * CALLS_PER_NOTICE;

/// A back end and its directories.
pub(super) struct Caller {
    /// The launcher's number.
    pub(super) number: u8,
    means: &'static Means,
    nodes: PvNodes,
    /// The socket to its process, if it has had one.
    socket: Option<OwnedFd>,
    /// Calls that it may make.
    allowance: TokenBucket,
    /// It has made more calls than it may, and is not answered any more in this life.
    ended: bool,
    /// That has not been reported.
    over: bool,
    /// Its nodes have changed, and it has not been told.
    unreported: bool,
    /// A call has failed because xenstored was silent.
    missed: bool,
    /// Its call that xenstored has not answered.
    job: Option<Job>,
    /// A call was answered after it had waited; another one may be in the socket.
    done: bool,
    counted: Counted,
}

#[derive(Default)]
struct Counted {
    calls: u64,
    refused: u64,
    late: u64,
    missed: u64,
    overruns: u64,
    changes: u64,
}

/// A call that xenstored has not answered.
struct Job {
    /// Number of the packet.
    serial: u8,
    /// Since when it waits, in nanoseconds.
    since: u64,
    /// Nobody waits for the answer any more: the call has failed, or the process that made it is dead.
    abandoned: bool,
    /// xenstored has not answered in time.
    late: bool,
    work: Work,
}

enum Work {
    /// The number of xenstored's answer.
    Read(u32),
    Write(WriteBeside),
}

impl Caller {
    pub(super) fn new(number: u8, means: &'static Means, nodes: PvNodes, socket: Option<OwnedFd>, now: u64) -> Self {
        Self {
            number,
            means,
            nodes,
            socket,
            allowance: TokenBucket::new(CALLS, CALLS_PER_SECOND, now),
            ended: false,
            over: false,
            unreported: false,
            missed: false,
            job: None,
            done: false,
            counted: Counted::default(),
        }
    }

    /// The directories that are watched for it.
    pub(super) fn directories(&self) -> [&str; 2] {
        [&self.nodes.back, &self.nodes.front]
    }

    /// Begins to serve its next process. Returns the socket of the last one.
    pub(super) fn begin_life(&mut self, socket: OwnedFd, now: u64) -> Option<OwnedFd> {
        self.allowance = TokenBucket::new(CALLS, CALLS_PER_SECOND, now);
        (self.ended, self.over, self.unreported, self.missed) = (false, false, false, false);
        // What the last process has called for must not be done for this one.
        self.abandon();
        self.socket.replace(socket)
    }

    /// Takes a call out of the socket; `None` within: it is not the back end's to make. `None`: there is none, or the back end has
    /// made more than it may.
    pub(super) fn take(&mut self, now: u64) -> Option<(u8, Option<XenbusCall>)> {
        let socket = self.socket.as_ref().filter(|_| !self.ended)?;
        let mut packet = [0; 1 + XenbusCall::MAX];
        let (n, _) = rustix::net::recv(socket, packet.as_mut_slice(), RecvFlags::DONTWAIT).ok()?;
        if !self.allowance.take(now) {
            tracing::error!("{} makes more calls than it may; it is ended", self.nodes.back);
            (self.ended, self.over) = (true, true);
            self.counted.overruns = self.counted.overruns.saturating_add(1);
            return None;
        }
        let (serial, call) = packet.get(..n)?.split_first()?;
        self.counted.calls = self.counted.calls.saturating_add(1);
        let call = XenbusCall::from_bytes(call).filter(|call| match call {
            XenbusCall::Read(..) => true,
            XenbusCall::Write(name, value) => self.means.may_write(name, value),
        });
        Some((*serial, call))
    }

    /// Whether it has made more calls than it may since the last question.
    pub(super) fn is_over(&mut self) -> bool {
        std::mem::take(&mut self.over)
    }

    /// Answers a call that is not the back end's to make.
    pub(super) fn refuse(&mut self, serial: u8) {
        self.counted.refused = self.counted.refused.saturating_add(1);
        self.send(serial, &XenbusReply::Failed);
    }

    /// Fails a call because xenstored is silent.
    pub(super) fn miss(&mut self, serial: u8) {
        self.missed = true;
        self.counted.missed = self.counted.missed.saturating_add(1);
        self.send(serial, &XenbusReply::Failed);
    }

    /// Asks xenstored what a call asks for.
    pub(super) fn begin(
        &mut self,
        store: &mut XenstoreQueue,
        serial: u8,
        call: XenbusCall,
        now: u64,
    ) -> Result<(), XenError> {
        let PvNodes { back, front } = &self.nodes;
        let work = match call {
            XenbusCall::Read(side, name) => {
                let directory = if side == Side::Back { back } else { front };
                Work::Read(store.ask(0, Call::Read(&format!("{directory}/{name}")))?)
            }
            XenbusCall::Write(name, value) => {
                let [there, path] = ["state", &name].map(|name| format!("{back}/{name}"));
                Work::Write(WriteBeside::begin(store, &there, &path, &value)?)
            }
        };
        self.job = Some(Job { serial, since: now, abandoned: false, late: false, work });
        Ok(())
    }

    /// The number of the answer that its call awaits.
    pub(super) fn awaits(&self) -> Option<u32> {
        Some(match &self.job.as_ref()?.work {
            Work::Read(number) => *number,
            Work::Write(write) => write.awaits(),
        })
    }

    /// Handles the awaited answer.
    pub(super) fn answered(
        &mut self,
        store: &mut XenstoreQueue,
        answer: Result<Vec<u8>, XenError>,
    ) -> Result<(), XenError> {
        let Some(mut job) = self.job.take() else { return Ok(()) };
        let reply = match &mut job.work {
            Work::Read(_) => match answer {
                Ok(value) => XenbusReply::Value(Some(XenstoreQueue::value(&value))),
                Err(e) if e.is_missing() => XenbusReply::Value(None),
                Err(_) => XenbusReply::Failed,
            },
            Work::Write(write) => match write.answer(store, answer)? {
                Progress::Awaits => {
                    self.job = Some(job);
                    return Ok(());
                }
                Progress::Done(Ok(written)) => {
                    self.counted.late = self.counted.late.saturating_add(u64::from(!written));
                    XenbusReply::Value(None)
                }
                Progress::Done(Err(_)) => XenbusReply::Failed,
            },
        };
        self.done = true;
        if !job.abandoned {
            self.send(job.serial, &reply);
        }
        Ok(())
    }

    /// Whether its next call must wait for the one under way.
    pub(super) fn is_waiting(&self) -> bool {
        self.since().is_some()
    }

    /// Since when the call under way waits, if it is not late.
    pub(super) fn since(&self) -> Option<u64> {
        self.job.as_ref().filter(|job| !job.late).map(|job| job.since)
    }

    /// Whether xenstored owes an answer that is late.
    pub(super) fn is_late(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.late)
    }

    /// Fails the call under way if it has waited for `patience` nanoseconds. Returns whether it has.
    pub(super) fn expire(&mut self, now: u64, patience: u64) -> bool {
        let Some(job) = self.job.as_mut().filter(|j| !j.late && now.saturating_sub(j.since) >= patience) else {
            return false;
        };
        job.late = true;
        if let Some(serial) = self.abandon() {
            self.miss(serial);
        }
        true
    }

    /// Leaves the call under way without its caller. Returns the packet's number.
    fn abandon(&mut self) -> Option<u8> {
        let job = self.job.as_mut().filter(|job| !job.abandoned)?;
        job.abandoned = true;
        if let Work::Write(write) = &mut job.work {
            write.give_up();
        }
        Some(job.serial)
    }

    /// Whether a call was answered since the last question.
    pub(super) fn take_done(&mut self) -> bool {
        std::mem::take(&mut self.done)
    }

    /// Notes that its nodes have changed.
    pub(super) fn has_changed(&mut self) {
        self.unreported = true;
    }

    /// Notes that xenstored answers again.
    pub(super) fn hear_again(&mut self) {
        self.unreported |= std::mem::take(&mut self.missed);
    }

    /// Tells the back end of changed nodes if it has calls left for what it does then. Otherwise returns the time when it has.
    pub(super) fn report(&mut self, now: u64) -> Option<u64> {
        self.socket.as_ref().filter(|_| self.unreported && !self.ended)?;
        let at = self.allowance.has_at(RESERVE, now);
        if at > now {
            return Some(at);
        }
        self.unreported = false;
        self.counted.changes = self.counted.changes.saturating_add(1);
        // A full socket holds earlier notices, so this one is not needed.
        self.send(0, &XenbusReply::Changed);
        None
    }

    fn send(&self, serial: u8, reply: &XenbusReply) {
        let packet = [vec![serial], reply.to_bytes()].concat();
        if let Some(socket) = &self.socket {
            let _ = rustix::net::send(socket, &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
    }

    pub(super) fn inspect(&self, out: &mut Inspect) {
        let Counted { calls, refused, late, missed, overruns, changes } = self.counted;
        out.group(self.nodes.back.rsplit('/').next().unwrap_or(""), |out| {
            out.value("back end", &self.nodes.back)
                .value("calls", calls)
                .value("refused", refused)
                .value("writes after removal", late)
                .value("failed while xenstored was silent", missed)
                .value("overruns", overruns)
                .value("ended", self.ended)
                .value("changes", changes);
        });
    }
}
