//! This process's connection to xenstored while the guest runs. Nothing waits for it: a look at nodes is a few rounds of questions,
//! whose answers are handled when they have arrived. One look is under way at a time, and after it the writes that it leads to. A
//! xenstored that is silent is asked nothing more until it has answered what it was asked.
use crate::log::say;
use crate::nodes::{Question, Seen};
use bulkhead_policy::Starter;
use bulkhead_xen::{Call, Heard, Progress, WriteBeside, XenError, XenstoreQueue, is_socket};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::collections::{BTreeMap, VecDeque};

/// What a look is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Drivers that come to a PV disk which nobody serves, and, if disks have `changed`, those that come, go and are handed off. What
    /// changes during a look is another look's.
    Disks { changed: bool },
    /// The address of a stub domain's VNC server.
    Viewer,
    /// The CDs of this stub domain, for a request of control's: its number, and the last disk that control knows.
    Media { serial: u32, known: u64 },
    /// The disk of a drive that the guest of this stub domain has unplugged, by the name of its block device.
    Release { block: String },
}

/// A node that is written if the node `there` exists.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) there: String,
    pub(crate) path: String,
    pub(crate) value: String,
    /// Lines for the log: it is written, and it cannot be written.
    pub(crate) lines: [Option<String>; 2],
}

/// Ticks without an answer until a look is given up, and repeated when xenstored answers again.
const LATE_TICKS: u32 = 50;
/// Ticks without an answer until a connection over a domain's ring is taken for lost, and another one is opened.
const LOST_TICKS: u32 = 10 * LATE_TICKS;
/// How often that time is doubled at most.
const MOST_DOUBLED: u32 = 6;
/// Ticks between two attempts to connect.
const CONNECT_TICKS: u32 = 10;
/// Most looks that wait for their turn. Control alone can ask for many.
const WAITING: usize = 16;
/// Most rounds of a look.
const ROUNDS: u32 = 16;
/// Most answers and events that are taken at once.
const BUDGET: usize = 256;

/// A way to another connection. It does not wait.
type Connect = Box<dyn Fn() -> Result<XenstoreQueue, XenError>>;

/// Opens a way to xenstored without waiting: by the starter once there is one, since this process then may call no service of the
/// host.
pub(crate) fn open(starter: &Starter) -> Result<OwnedFd, XenError> {
    match starter.xenstored() {
        Some(opened) => opened.map_err(|source| XenError { what: "xenstored, by the starter", source }),
        None => XenstoreQueue::open(),
    }
}

/// The same for a process that needs a socket.
pub(crate) fn open_stream(starter: &Starter) -> Result<OwnedFd, XenError> {
    let opened = open(starter)?;
    if is_socket(&opened) {
        return Ok(opened);
    }
    Err(XenError { what: "xenstored has no socket here", source: std::io::ErrorKind::Unsupported.into() })
}

/// The connection, and what is under way on it.
pub(crate) struct Store {
    queue: Option<XenstoreQueue>,
    /// Makes another connection; `None`: this process has given up the right to.
    connect: Option<Connect>,
    /// Paths and tokens.
    watches: Vec<(String, &'static str)>,
    /// Watches that xenstored has not answered, by number.
    watched: BTreeMap<u32, String>,
    /// The set of events of the main loop, and the connection's number there.
    events: Option<(OwnedFd, u64)>,
    work: Option<Work>,
    waiting: VecDeque<Subject>,
    /// Ticks since the last answer, or since the last attempt to connect, and 0 before the first one.
    ticks: u32,
    /// xenstored is silent, which is in the log.
    silent: bool,
    /// Connections over a ring that were given up since xenstored's last answer: each next one is given twice the time.
    given_up: u32,
}

/// A look, or the writes after it.
struct Work {
    subject: Subject,
    seen: Seen,
    rounds: u32,
    /// Unanswered questions by number.
    asked: BTreeMap<u32, Question>,
    writing: Option<(WriteBeside, Write)>,
    writes: VecDeque<Write>,
    /// It is given up. What was asked is still answered one day.
    stale: bool,
}

impl Store {
    /// No connection yet; the first look makes one.
    pub(crate) fn new(connect: Option<Connect>) -> Self {
        Self {
            queue: None,
            connect,
            watches: Vec::new(),
            watched: BTreeMap::new(),
            events: None,
            work: None,
            waiting: VecDeque::new(),
            ticks: 0,
            silent: false,
            given_up: 0,
        }
    }

    /// Watches nodes over an open connection, and over each one that replaces it.
    pub(crate) fn watch(&mut self, queue: XenstoreQueue, watches: Vec<(String, &'static str)>) -> Result<(), XenError> {
        self.watches = watches;
        self.begin(queue)
    }

    /// Makes the connection, and each one that replaces it, an event with the number `data` of `events`.
    pub(crate) fn register(&mut self, events: &OwnedFd, data: u64) -> Result<(), rustix::io::Errno> {
        let events = rustix::io::dup(events)?;
        if let Some(queue) = &self.queue {
            epoll::add(&events, queue.as_fd(), EventData::new_u64(data), EventFlags::IN)?;
        }
        self.events = Some((events, data));
        Ok(())
    }

    /// Gives up the right to make another connection.
    pub(crate) fn keep_connection(&mut self) {
        self.connect = None;
    }

    /// The connection, to be polled.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.queue.as_ref().map(XenstoreQueue::as_fd)
    }

    fn begin(&mut self, mut queue: XenstoreQueue) -> Result<(), XenError> {
        self.watched.clear();
        for (path, token) in &self.watches {
            self.watched.insert(queue.ask(0, Call::Watch(path, token))?, path.clone());
        }
        if let Some((events, data)) = &self.events {
            epoll::add(events, queue.as_fd(), EventData::new_u64(*data), EventFlags::IN)
                .map_err(|e| XenError { what: "epoll_ctl", source: e.into() })?;
        }
        self.queue = Some(queue);
        self.ticks = 0;
        Ok(())
    }

    /// Gives the connection up, and puts what was under way off.
    fn lose(&mut self, e: &XenError) {
        let Some(queue) = self.queue.take() else { return };
        if let Some((events, _)) = &self.events {
            // Closing is not enough: a child before its exec holds a copy.
            let _ = epoll::delete(events, queue.as_fd());
        }
        let then = if self.connect.is_some() { "another one is made" } else { "this process can make no other one" };
        // Of a xenstored that is silent the log knows already. The next connection may have another one.
        if !std::mem::take(&mut self.silent) {
            say(&format!("the connection to xenstored is lost ({e}); {then}"));
        }
        self.ticks = 1;
        self.put_off();
        self.work = None;
    }

    /// Lets the look under way come again. Nobody else would ask for it.
    fn put_off(&mut self) {
        let Some(work) = self.work.as_mut().filter(|w| !w.stale) else { return };
        work.stale = true;
        if let Some((write, _)) = &mut work.writing {
            write.give_up();
        }
        work.writes.clear();
        if !self.waiting.contains(&work.subject) {
            self.waiting.push_front(work.subject.clone());
        }
    }

    /// Asks for a look. False if that is impossible now: xenstored is silent, or too many wait.
    pub(crate) fn look(&mut self, subject: Subject) -> bool {
        if self.waiting.contains(&subject) {
            return true;
        }
        let may = !self.silent && self.waiting.len() < WAITING && (self.queue.is_some() || self.connect.is_some());
        // A look at disks costs nothing while it waits, and nobody would ask for it again.
        let may = may || matches!(subject, Subject::Disks { .. } | Subject::Viewer | Subject::Release { .. });
        if may && self.waiting.len() < 2 * WAITING {
            self.waiting.push_back(subject);
        }
        may
    }

    /// A look whose questions are all answered: what it is for, and what it has found. It goes on with
    /// [`Self::complete`].
    pub(crate) fn next_round(&mut self) -> Option<(Subject, Seen)> {
        if let Some(work) = &self.work {
            let idle = work.asked.is_empty() && work.writing.is_none();
            return if idle {
                self.work.as_mut().map(|w| (w.subject.clone(), std::mem::take(&mut w.seen)))
            } else {
                None
            };
        }
        if self.queue.is_none() && !self.waiting.is_empty() && self.ticks == 0 {
            self.try_to_connect();
        }
        self.queue.as_ref()?;
        let subject = self.waiting.pop_front()?;
        self.ticks = 0;
        self.work = Some(Work {
            subject: subject.clone(),
            seen: Seen::default(),
            rounds: 0,
            asked: BTreeMap::new(),
            writing: None,
            writes: VecDeque::new(),
            stale: false,
        });
        Some((subject, Seen::default()))
    }

    /// Asks what a round of the look under way has not found. `None`: it asks, and what was found so far means nothing. Otherwise the
    /// look is complete, and ends with [`Self::finish`].
    pub(crate) fn complete(&mut self, mut seen: Seen) -> Option<Seen> {
        let wanted = seen.take_wanted();
        let work = self.work.as_mut()?;
        if wanted.is_empty() {
            return Some(seen);
        }
        work.rounds = work.rounds.saturating_add(1);
        if work.rounds > ROUNDS {
            say("nodes in xenstore change faster than they can be looked at");
            self.work = None;
            return None;
        }
        work.seen = seen;
        for question in wanted {
            let (Some(queue), Some(work)) = (&mut self.queue, &mut self.work) else { break };
            let call = match &question {
                Question::Names(path) => Call::Directory(path),
                Question::Value(path) => Call::Read(path),
            };
            match queue.ask(0, call) {
                Ok(number) => drop(work.asked.insert(number, question)),
                Err(e) => self.lose(&e),
            }
        }
        None
    }

    /// Ends the look under way with the writes to which it leads. The next look begins when they are made.
    pub(crate) fn finish(&mut self, writes: Vec<Write>) {
        if let Some(work) = &mut self.work {
            work.writes = writes.into();
            self.write();
        }
    }

    /// Begins the next write of the work under way, or ends the work.
    fn write(&mut self) {
        let (Some(work), Some(queue)) = (&mut self.work, &mut self.queue) else { return };
        let Some(next) = work.writes.pop_front() else {
            self.work = None;
            return;
        };
        match WriteBeside::begin(queue, &next.there, &next.path, &next.value) {
            Ok(begun) => work.writing = Some((begun, next)),
            Err(e) => self.lose(&e),
        }
    }

    /// Takes what xenstored has sent. Returns the tokens of watches that have fired, each once.
    pub(crate) fn hear(&mut self) -> Vec<String> {
        let mut fired = Vec::new();
        for _ in 0..BUDGET {
            let Some(queue) = &mut self.queue else { break };
            match queue.flush().and_then(|()| queue.hear()) {
                Ok(None) => break,
                Ok(Some(Heard::Fired(token))) => {
                    if !fired.contains(&token) {
                        fired.push(token);
                    }
                }
                Ok(Some(Heard::Answer(number, answer))) => self.answered(number, answer),
                Err(e) => self.lose(&e),
            }
        }
        fired
    }

    fn answered(&mut self, number: u32, answer: Result<Vec<u8>, XenError>) {
        self.ticks = 0;
        if std::mem::take(&mut self.given_up) > 0 && !self.silent {
            say("xenstored answers again");
        }
        if let Some(path) = self.watched.remove(&number) {
            if let Err(e) = answer {
                say(&format!("{path} cannot be watched: {e}"));
            }
            return;
        }
        let (Some(work), Some(queue)) = (&mut self.work, &mut self.queue) else { return };
        if let Some(question) = work.asked.remove(&number) {
            work.seen.learn(question, answer.ok().as_deref());
        } else if let Some((mut write, what)) = work.writing.take_if(|(write, _)| write.awaits() == number) {
            match write.answer(queue, answer) {
                Ok(Progress::Awaits) => work.writing = Some((write, what)),
                Ok(Progress::Done(done)) => {
                    let [good, bad] = what.lines;
                    let line = if done.is_ok_and(|written| written) { good } else { bad };
                    line.filter(|_| !work.stale).iter().for_each(|line| say(line));
                    if !work.stale {
                        self.write();
                    }
                }
                Err(e) => self.lose(&e),
            }
        }
        if self.work.as_ref().is_some_and(|w| w.stale && w.asked.is_empty() && w.writing.is_none()) {
            self.work = None;
        }
        if self.silent && self.work.is_none() {
            self.silent = false;
            say("xenstored answers again");
        }
    }

    fn try_to_connect(&mut self) {
        self.ticks = 1;
        let Some(connect) = &self.connect else { return };
        // An error is an attempt that is made again.
        if let Ok(queue) = connect()
            && let Err(e) = self.begin(queue)
        {
            say(&format!("xenstore: {e}"));
        }
        self.silent &= self.queue.is_none();
    }

    /// Whether [`Self::tick`] has something to count.
    pub(crate) fn is_timed(&self) -> bool {
        match &self.queue {
            Some(queue) => {
                self.work.is_some() && (!self.silent || (queue.is_one_at_a_time() && self.connect.is_some()))
            }
            None => self.connect.is_some() && !(self.waiting.is_empty() && self.watches.is_empty()),
        }
    }

    /// Counts a tick. Returns requests of control's that are given up because xenstored is silent.
    pub(crate) fn tick(&mut self) -> Vec<u32> {
        if !self.is_timed() {
            return Vec::new();
        }
        self.ticks = self.ticks.saturating_add(1);
        if self.queue.is_none() {
            if self.ticks >= CONNECT_TICKS {
                self.try_to_connect();
            }
        } else if self.silent && self.ticks >= LOST_TICKS << self.given_up.min(MOST_DOUBLED) {
            self.given_up = self.given_up.saturating_add(1);
            self.lose(&XenError { what: "no answer", source: std::io::ErrorKind::TimedOut.into() });
        } else if self.ticks >= LATE_TICKS && !self.silent {
            self.silent = true;
            if self.given_up == 0 {
                say("xenstored does not answer; it is asked again when it does");
            }
            self.put_off();
        }
        if self.queue.is_some() && !self.silent {
            return Vec::new();
        }
        let mut given_up = Vec::new();
        self.waiting.retain(|subject| match subject {
            Subject::Media { serial, .. } => {
                given_up.push(*serial);
                false
            }
            _ => true,
        });
        given_up
    }
}

#[cfg(test)]
mod tests;
