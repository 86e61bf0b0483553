//! What a process takes through its descriptors, beside a guest that runs: a hostile program in its role's sandbox gets copies of the
//! descriptors that the real process has, so others hear exactly what that process could say.
use super::alone::ended;
use super::{Table, figures};
use crate::Done;
use crate::processes::machine;
use bulkhead_breakout::consumption::{Bound, Place, RESOURCES, Resource};
use bulkhead_breakout::{Hostile, begin, ids};
use bulkhead_plan::kind::{BROKER, CONTROL, of_role};
use bulkhead_policy::{Profile, profile};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};

type Faults<T> = Result<T, Box<dyn std::error::Error>>;

/// Time for what must come.
const PATIENCE: Duration = Duration::from_secs(90);
/// Time in which accesses are counted.
const WINDOW: Duration = Duration::from_secs(4);
/// Attempts that go on until they are let go.
const ENDLESS: [&str; 4] = ["cpu", "bells", "requests", "log"];

/// A running process of the machine.
struct Process {
    role: String,
    pid: i32,
    profile: &'static Profile,
}

/// The machine that is attacked, and a guest beside it.
struct Machine {
    launcher: i32,
    domid: u16,
    /// Number of the other guest.
    other: u16,
    /// The roles of its processes, each as often as it has a process.
    roles: Vec<String>,
    table: Table,
}

/// These resources, and `role=ROLE` these roles alone, all if none is named: those of the processes of `launcher`, which serves `domid`. The guest `other` is beside it.
pub(super) fn held(launcher: i32, domid: u16, other: u16, resources: &[&str]) -> Done {
    let socket = std::fs::read_to_string("/proc/sys/net/core/wmem_default")?.trim().parse()?;
    // Those whose lines control copies: neither launcher nor starter.
    let processes = machine(launcher)?.iter().filter(|(role, _)| profile(role).is_some()).count() as u64;
    let place = Place { stub: false, socket, file_size: u64::MAX, processes };
    let mut machine = Machine { launcher, domid, other, roles: Vec::new(), table: Table::new(place) };
    machine.roles = machine.processes()?.into_iter().map(|p| p.role).collect();
    let before = figures::now();
    println!("before: {before}");
    let (only, resources): (Vec<&str>, Vec<&str>) = resources.iter().partition(|word| word.starts_with("role="));
    for (resource, name) in RESOURCES {
        if !resources.is_empty() && !resources.contains(&name) {
            continue;
        }
        let mut roles = machine.roles.clone();
        roles.sort();
        roles.dedup();
        roles.retain(|role| only.is_empty() || only.contains(&format!("role={role}").as_str()));
        // The guest ends with its broker.
        roles.sort_by_key(|role| role == BROKER.role);
        for role in roles {
            let process = machine.await_process(&role, 0)?;
            let done = match resource {
                Resource::Nodes => machine.nodes(&process),
                Resource::Grants => machine.grants(&process),
                Resource::Frames => machine.frames(&process),
                Resource::Processor => machine.processor(&process),
                Resource::Broker => machine.bells(&process),
                Resource::Log => machine.log(&process),
                Resource::Launcher => machine.requests(&process),
                _ => Ok(()),
            };
            done.map_err(|e| format!("{role}: {name}: {e}"))?;
        }
        println!("during, after {name}: {}", figures::now());
    }
    let after = figures::now();
    println!("after: {after}");
    machine.table.end()
}

/// Begins an attempt in the place of the process `pid`, with such descriptors as it needs, and holds on to what it took until it is killed.
pub(super) fn take(what: &str, pid: i32) -> Done {
    let role = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let role = String::from_utf8_lossy(role.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
    let fds = match what.split('=').next().unwrap_or_default() {
        "bells" => descriptors(pid, |_, link| link == "anon_inode:[eventfd]")?,
        "log" => descriptors(pid, |number, link| number == 2 && link.starts_with("pipe:"))?,
        "requests" => descriptors(pid, |number, _| number == 3)?,
        // An interface that was opened, or a stub domain's packet socket.
        "frames" => {
            let mut found = descriptors(pid, |_, link| link == "/dev/net/tun" || link.starts_with("socket:"))?;
            let of_frames = |fd: &OwnedFd| match rustix::net::sockopt::socket_type(fd) {
                Ok(kind) => kind == rustix::net::SocketType::RAW,
                Err(_) => true,
            };
            found.retain(of_frames);
            found.truncate(1);
            found
        }
        "cpu" => Vec::new(),
        other => return Err(format!("there is no attempt {other}").into()),
    };
    if fds.is_empty() && what != "cpu" {
        return Err(format!("{role} has no descriptor for {what}").into());
    }
    let hostile = hostile(&role, what, &fds)?;
    drop(fds);
    if what == "cpu" {
        schedule_as(pid, hostile.pid())?;
    }
    let amount = if ENDLESS.contains(&what) { 0 } else { hostile.taken()?.map_or(0, |taken| taken.amount) };
    println!("took {amount}");
    loop {
        poll(&mut [], None)?;
    }
}

/// A hostile program in a role's place that has begun an attempt without end, or has taken what it was told to.
fn hostile(role: &str, what: &str, fds: &[OwnedFd]) -> Faults<Hostile> {
    let beside = std::env::current_exe()?.with_file_name("bulkhead-hostile");
    let executable = std::fs::File::open(beside)?;
    let hostile = begin(executable.as_fd(), role, ids(), None)?;
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    hostile.order("all", &format!("take {what}"), &fds)?;
    if ENDLESS.contains(&what) && hostile.taken()?.is_none() {
        return Err(format!("{what}: {}", ended(hostile, None)?).into());
    }
    Ok(hostile)
}

/// Copies of a process's descriptors with such a link in /proc.
fn descriptors(pid: i32, like: impl Fn(i32, &str) -> bool) -> Faults<Vec<OwnedFd>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let Ok(link) = std::fs::read_link(entry.path()) else { continue };
        let Some(number) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        if !like(number, &link.to_string_lossy()) {
            continue;
        }
        // SAFETY: no memory is involved; the descriptors are new.
        unsafe {
            let pidfd = libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32;
            let fd = libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0) as i32;
            if pidfd < 0 || fd < 0 {
                return Err(std::io::Error::last_os_error().into());
            }
            libc::close(pidfd);
            found.push(OwnedFd::from_raw_fd(fd));
        }
    }
    Ok(found)
}

/// Lets a process have the scheduling of another.
fn schedule_as(pid: i32, who: i32) -> Done {
    // struct sched_attr (linux/sched/types.h), of which only its size is looked at here.
    let mut attributes = [0u64; 7];
    // SAFETY: the kernel writes so many bytes, and reads the size that it wrote.
    let done = unsafe {
        libc::syscall(libc::SYS_sched_getattr, pid, attributes.as_mut_ptr(), size_of_val(&attributes), 0) == 0
            && libc::syscall(libc::SYS_sched_setattr, who, attributes.as_ptr(), 0) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

/// Accesses of a guest that its devices have answered.
pub(super) fn accesses(domid: u16) -> Faults<u64> {
    let out =
        std::process::Command::new("bulkhead").args(["--json", "inspect", &domid.to_string(), "broker"]).output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
    fn find(json: &serde_json::Value, key: &str) -> Option<u64> {
        match json {
            serde_json::Value::Object(members) => members.iter().find_map(|(name, value)| {
                let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
                if name == key { number } else { find(value, key) }
            }),
            serde_json::Value::Array(all) => all.iter().find_map(|value| find(value, key)),
            _ => None,
        }
    }
    find(&json, "full hops").ok_or_else(|| format!("no accesses in {text}").into())
}

/// Waits until it holds.
pub(super) fn wait(what: &str, mut holds: impl FnMut() -> Faults<bool>) -> Done {
    let begin = Instant::now();
    let mut pause = 1;
    while !holds()? {
        if begin.elapsed() > PATIENCE {
            return Err(format!("{what}: not within {} s", PATIENCE.as_secs()).into());
        }
        // Looking costs the others time.
        pause = (pause * 2).min(500);
        poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: pause * 1_000_000 }))?;
    }
    Ok(())
}

/// Waits for the window's end, or for the process's.
fn window(hostile: Option<&Hostile>) -> Done {
    let time = Timespec::try_from(WINDOW)?;
    let ended = match hostile {
        Some(hostile) => poll(&mut [PollFd::from_borrowed_fd(hostile.socket(), PollFlags::IN)], Some(&time))?,
        None => poll(&mut [], Some(&time))?,
    };
    if ended == 0 { Ok(()) } else { Err("the hostile process has ended".into()) }
}

/// How many accesses of a guest are answered in a second.
pub(super) fn rate(domid: u16, hostile: Option<&Hostile>) -> Faults<f64> {
    let (before, begin) = (accesses(domid)?, Instant::now());
    window(hostile)?;
    let (after, time) = (accesses(domid)?, begin.elapsed());
    Ok((after - before) as f64 / time.as_secs_f64())
}

/// Sends a signal to a process, which may have ended.
fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

impl Machine {
    fn processes(&self) -> Faults<Vec<Process>> {
        let all = machine(self.launcher)?.into_iter();
        Ok(all.filter_map(|(role, pid)| Some(Process { profile: profile(&role)?, role, pid })).collect())
    }

    /// The first process of a role, once all of them are there and `old` is not.
    fn await_process(&self, role: &str, old: i32) -> Faults<Process> {
        let mut found = None;
        let many = self.roles.iter().filter(|r| *r == role).count();
        wait(&format!("a process of {role}"), || {
            let mut all = self.processes()?;
            all.retain(|p| p.role == role);
            // Each is in its sandbox.
            let status = |p: &Process| std::fs::read_to_string(format!("/proc/{}/status", p.pid)).unwrap_or_default();
            let sealed = |s: String| s.contains("Seccomp:\t2") && s.contains("CapBnd:\t0000000000000000");
            let good = all.len() >= many && all.iter().all(|p| p.pid != old && sealed(status(p)));
            found = all.into_iter().next();
            Ok(good)
        })?;
        found.ok_or_else(|| "no process".into())
    }

    /// Sockets of a process on which packets go, but for the launcher's.
    fn packet_sockets(&self, process: &Process) -> Faults<Vec<OwnedFd>> {
        let mut found = descriptors(process.pid, |number, link| number != 3 && link.starts_with("socket:"))?;
        found.retain(|fd| rustix::net::sockopt::socket_type(fd) == Ok(rustix::net::SocketType::SEQPACKET));
        Ok(found)
    }

    /// Makes calls of a back end until they are refused. Returns their amount of the one socket that answers them; the real process
    /// stands still meanwhile.
    fn calls(&self, process: &Process, what: &str, most: u64) -> Faults<(u64, String)> {
        signal(process.pid, Signal::STOP);
        let mut best = (0, "no answer".to_owned());
        for socket in self.packet_sockets(process)? {
            let socket = [socket];
            let trial = hostile(&process.role, &format!("{what}=1"), &socket)?;
            let taken = trial.taken()?;
            trial.end()?;
            let first = taken.map_or(0, |t| t.amount);
            if first == 0 {
                continue;
            }
            let all = hostile(&process.role, &format!("{what}={most}"), &socket)?;
            let taken = all.taken()?;
            best = (first + taken.map_or(0, |t| t.amount), ended(all, taken)?);
        }
        signal(process.pid, Signal::CONT);
        Ok(best)
    }

    fn nodes(&mut self, process: &Process) -> Done {
        let kind = of_role(&process.role).ok_or("no kind")?;
        let bound = self.table.bound(process.profile, Resource::Nodes)?;
        let before = figures::now();
        match bound {
            Bound::Unbounded(_) => {
                // A hundred show it; they are taken away again.
                let connection = descriptors(process.pid, |number, link| number != 3 && link.starts_with("socket:"))?;
                let connection: Vec<OwnedFd> = connection
                    .into_iter()
                    .filter(|fd| {
                        let name = rustix::net::getpeername(fd).ok().flatten();
                        let name = name.and_then(|n| rustix::net::SocketAddrUnix::try_from(n).ok());
                        name.is_some_and(|n| n.path().is_some_and(|p| p.to_string_lossy().contains("xenstored")))
                    })
                    .collect();
                signal(process.pid, Signal::STOP);
                let hostile = hostile(&process.role, "nodes by a connection=100", &connection)?;
                let taken = hostile.taken()?;
                wait("xenstored has carried them out", || Ok(figures::now().nodes >= before.nodes + 100))?;
                let more = figures::now().nodes - before.nodes;
                ended(hostile, taken)?;
                std::process::Command::new("xenstore-rm").arg("/tool/consume").status()?;
                // It has answers that it has not asked for.
                signal(process.pid, Signal::CONT);
                signal(process.pid, Signal::KILL);
                self.await_process(&process.role, process.pid)?;
                self.table.say(
                    process.profile,
                    Resource::Nodes,
                    &format!("{more} of the 100 that it tried"),
                    more >= 100,
                )
            }
            Bound::Count(1..) => {
                let (calls, how) = self.calls(process, "nodes by calls", 1 << 20)?;
                let more = figures::now().nodes.saturating_sub(before.nodes);
                println!("{}: {calls} calls {how}, {more} new nodes", process.role);
                // Its calls have an end; then the launcher replaces it.
                self.await_process(&process.role, process.pid)?;
                let means = kind.back_end.map_or(0, |m| m.nodes().count() as u64);
                let good = more <= means && calls >= 100;
                self.table.say(
                    process.profile,
                    Resource::Nodes,
                    &format!("{more} new ones by {calls} calls, then it was killed"),
                    good,
                )
            }
            _ => Ok(()),
        }
    }

    fn grants(&mut self, process: &Process) -> Done {
        let Bound::Count(most @ 1..) = self.table.bound(process.profile, Resource::Grants)? else { return Ok(()) };
        let (pages, how) = self.calls(process, "grants by calls", 4 * most)?;
        println!("{}: {pages} pages {how}", process.role);
        // Another process, for what follows.
        signal(process.pid, Signal::KILL);
        self.await_process(&process.role, process.pid)?;
        self.table.cell(process.profile, Resource::Grants, pages, " pages named")
    }

    fn frames(&mut self, process: &Process) -> Done {
        if !matches!(self.table.bound(process.profile, Resource::Frames)?, Bound::Unbounded(_)) {
            return Ok(());
        }
        const FRAMES: u64 = 20_000;
        let tap = descriptors(process.pid, |_, link| link == "/dev/net/tun")?;
        let count = || -> u64 {
            let all = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
            let of = format!("vif{}.", self.domid);
            let lines = all.lines().filter(|l| l.trim_start().starts_with(&of) && l.contains("-emu"));
            lines.filter_map(|l| l.split(':').nth(1)?.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
        };
        let (before, begin) = (count(), Instant::now());
        let hostile = hostile(&process.role, &format!("frames={FRAMES}"), tap.get(..1).ok_or("no interface")?)?;
        let taken = hostile.taken()?;
        let (time, frames) = (begin.elapsed(), count() - before);
        ended(hostile, taken)?;
        let text =
            format!("{frames} of the {FRAMES} that it tried, {:.0} a second", frames as f64 / time.as_secs_f64());
        self.table.say(process.profile, Resource::Frames, &text, frames > 0)
    }

    fn processor(&mut self, process: &Process) -> Done {
        let alone = rate(self.other, None)?;
        // On one processor a dom0 that never sleeps costs much, whoever it is: Xen gives the processor to the two domains in slices.
        let mut any = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn()?;
        let ordinary = rate(self.other, None);
        any.kill().and_then(|()| any.wait())?;
        let ordinary = ordinary?;
        let hostile = hostile(&process.role, "cpu", &[])?;
        schedule_as(process.pid, hostile.pid())?;
        let beside = rate(self.other, Some(&hostile))?;
        hostile.end()?;
        let factor = ordinary / beside.max(0.01);
        let text = format!(
            "{alone:.0} a second, beside any process that spins {ordinary:.0}, beside it {beside:.0}: factor {factor:.1}"
        );
        let good = self.table.bound(process.profile, Resource::Processor)?.holds(factor.ceil() as u64);
        self.table.say(process.profile, Resource::Processor, &text, good)
    }

    fn bells(&mut self, process: &Process) -> Done {
        let bells = descriptors(process.pid, |_, link| link == "anon_inode:[eventfd]")?;
        // A machine whose back ends alone are served has no broker.
        let served = self.roles.iter().any(|role| role == BROKER.role);
        if bells.is_empty() || !served || std::ptr::eq(of_role(&process.role).ok_or("no kind")?, &BROKER) {
            return self.table.say(process.profile, Resource::Broker, "it has no bell of the broker's", true);
        }
        let quiet = rate(self.domid, None)?;
        let hostile = hostile(&process.role, "bells", &bells)?;
        let ringing = rate(self.domid, Some(&hostile))?;
        let before = accesses(self.domid)?;
        wait("accesses go on", || Ok(accesses(self.domid)? >= before + 200))?;
        hostile.end()?;
        // It may have been given up.
        let killed = self.processes()?.iter().all(|p| p.pid != process.pid);
        self.await_process(&process.role, if killed { process.pid } else { 0 })?;
        // One window of a busy host says little.
        let quiet = quiet.min(rate(self.domid, None)?);
        let factor = quiet / ringing.max(0.01);
        let holds = self.table.bound(process.profile, Resource::Broker)?.holds(factor.ceil() as u64);
        let text = format!("{quiet:.0} a second, while it rings {ringing:.0}: factor {factor:.1}");
        // Who is killed rings no more, and its device was away for a part of the window.
        let text = if killed { format!("{text}; it was killed") } else { text };
        self.table.say(process.profile, Resource::Broker, &text, holds || killed)
    }

    /// The file that the launcher's own lines go to.
    fn log_file(&self) -> Faults<(String, u64)> {
        let path = std::fs::read_link(format!("/proc/{}/fd/2", self.launcher))?.to_string_lossy().into_owned();
        let bytes = std::fs::metadata(&path)?.len();
        Ok((path, bytes))
    }

    /// The name of a process in lines of the log.
    fn name(&self, process: &Process) -> Faults<String> {
        // Control may be one that is just starting.
        let mut json = serde_json::Value::Null;
        wait("control has a table", || {
            let out =
                std::process::Command::new("bulkhead").args(["--json", "ps", &self.domid.to_string()]).output()?;
            json = serde_json::from_slice(&out.stdout).unwrap_or_default();
            Ok(!json.is_null())
        })?;
        fn find(json: &serde_json::Value, pid: i64) -> Option<String> {
            match json {
                serde_json::Value::Object(row) if row.get("pid").and_then(serde_json::Value::as_i64) == Some(pid) => {
                    Some(row.get("name")?.as_str()?.to_owned())
                }
                serde_json::Value::Object(members) => members.values().find_map(|v| find(v, pid)),
                serde_json::Value::Array(all) => all.iter().find_map(|v| find(v, pid)),
                _ => None,
            }
        }
        find(&json, i64::from(process.pid)).ok_or_else(|| format!("{} is not in the table", process.pid).into())
    }

    fn log(&mut self, process: &Process) -> Done {
        let pipe = descriptors(process.pid, |number, link| number == 2 && link.starts_with("pipe:"))?;
        if pipe.is_empty() {
            return self.table.say(process.profile, Resource::Log, "it has no log", true);
        }
        let name = self.name(process)?;
        let (path, before) = self.log_file()?;
        let hostile = hostile(&process.role, "log", &pipe)?;
        let line = format!("control: {name} has used up its share of the log");
        wait("its share is used up", || Ok(std::fs::read_to_string(&path).is_ok_and(|log| log.contains(&line))))?;
        // What it still writes goes nowhere.
        window(Some(&hostile))?;
        let more = self.log_file()?.1 - before;
        hostile.end()?;
        self.table.cell(process.profile, Resource::Log, more, "")
    }

    /// A process whose death ends no machine.
    fn victim(&self) -> Faults<Process> {
        let all = self.processes()?.into_iter();
        let mut devices = all.filter(|p| ![BROKER.role, CONTROL.role].contains(&p.role.as_str()));
        devices.next().ok_or_else(|| "nobody else is there".into())
    }

    fn requests(&mut self, process: &Process) -> Done {
        let kind = of_role(&process.role).ok_or("no kind")?;
        let socket = descriptors(process.pid, |number, _| number == 3)?;
        if std::ptr::eq(kind, &CONTROL) {
            // It may ask for the table, and does so without a pause, and reads no answer.
            let hostile = hostile(&process.role, "requests", &socket)?;
            signal(process.pid, Signal::STOP);
            let victim = self.victim()?;
            signal(victim.pid, Signal::KILL);
            self.await_process(&victim.role, victim.pid)?;
            hostile.end()?;
            signal(process.pid, Signal::CONT);
            signal(process.pid, Signal::KILL);
            self.await_process(&process.role, process.pid)?;
            return self.table.say(
                process.profile,
                Resource::Launcher,
                "a killed device is started again meanwhile",
                true,
            );
        }
        let (path, before) = self.log_file()?;
        let hostile = hostile(&process.role, "requests", &socket)?;
        let said = || -> Faults<usize> {
            let log = std::fs::read(&path)?;
            let new = String::from_utf8_lossy(log.get(before as usize..).unwrap_or_default()).into_owned();
            Ok(new.lines().filter(|l| l.contains("asked for Processes, which it may not")).count())
        };
        if std::ptr::eq(kind, &BROKER) {
            wait("the machine ends", || Ok(std::fs::read_dir(format!("/proc/{}/fd", self.launcher)).is_err()))?;
            hostile.end()?;
            let text = format!("{} request; the guest is reported crashed", said()?);
            return self.table.say(process.profile, Resource::Launcher, &text, said()? == 1);
        }
        self.await_process(&process.role, process.pid)?;
        hostile.end()?;
        let requests = said()?;
        let text = format!("{requests} request, then it was killed and started again");
        self.table.say(process.profile, Resource::Launcher, &text, requests == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsRawFd as _;

    #[test]
    fn descriptors_of_a_process_are_found_by_what_they_are() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        let own = std::process::id() as i32;
        let number = read.as_raw_fd();
        let found = descriptors(own, |n, link| n == number && link.starts_with("pipe:")).unwrap();
        assert_eq!(found.len(), 1);
        assert_ne!(found[0].as_raw_fd(), number);
    }
}
