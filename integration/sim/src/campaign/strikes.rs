//! Lets a fault happen, in a thread beside the guest's.
use crate::fault::{Break, Lie, Part, Strike};
use crate::victim::Hands;
use bulkhead_bus::faults::Fault;
use bulkhead_plan::{Ask, Death, FIRST_DEVICE, FromProcess};
use bulkhead_sim::Sim;
use bulkhead_wire::{CELL, STATE, reply};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest time that a strike waits for what it needs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time in which a stopped process that the guest waits for is killed: the deadline is 5 s.
const FREEZE: Duration = Duration::from_secs(7);

/// How far a strike is that lasts until the guest has met it.
#[derive(Debug, Default)]
pub struct Progress {
    /// It has begun.
    pub active: AtomicBool,
    /// The guest has met it.
    pub met: AtomicBool,
    /// Nothing more comes of it.
    pub over: AtomicBool,
}

/// Waits until something is there.
fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> Result<T, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return Ok(found);
        }
        if Instant::now() > end {
            return Err(format!("{what}: not in {} s", PATIENCE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A process that runs now.
struct Prey {
    pid: i32,
    fd: OwnedFd,
}

impl Hands {
    /// The process of a part, other than `last`.
    fn prey(&self, part: Part, last: Option<i32>) -> Result<Prey, String> {
        until(&format!("{part:?} runs"), || {
            let pid = self.process(part).filter(|pid| Some(*pid) != last)?;
            let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            // The number may have another process by now.
            (self.process(part) == Some(pid)).then_some(Prey { pid, fd })
        })
    }

    /// A copy of the socket on which the process talks to the launcher.
    fn socket(&self, part: Part) -> Result<(i32, OwnedFd), String> {
        until(&format!("{part:?} has a socket"), || {
            let prey = self.prey(part, None).ok()?;
            Some((prey.pid, pidfd_getfd(&prey.fd, 3, PidfdGetfdFlags::empty()).ok()?))
        })
    }

    /// Lets the strike in entry `place` of the table happen. Returns the processes that must die of it.
    pub fn strike(&self, strike: Strike, place: usize, progress: &Progress) -> Result<Vec<i32>, String> {
        match strike {
            Strike::Kill(part) => self.kill(part, 1),
            Strike::KillAgain(part, more) => self.kill(part, more.saturating_add(1)),
            Strike::Pause(part, ms) => {
                let prey = self.prey(part, None)?;
                send(&prey, Signal::STOP);
                std::thread::sleep(Duration::from_millis(ms));
                send(&prey, Signal::CONT);
                Ok(Vec::new())
            }
            Strike::Freeze(part) => {
                let prey = self.prey(part, None)?;
                send(&prey, Signal::STOP);
                let end = Instant::now() + FREEZE;
                while Instant::now() < end && self.process(part) == Some(prey.pid) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                send(&prey, Signal::CONT);
                Ok(Vec::new())
            }
            Strike::Forbidden(part) => {
                let (pid, socket) = self.socket(part)?;
                // If it were carried out, another device's process would die.
                let slot = if part == Part::Platform { FIRST_DEVICE.saturating_add(1) } else { FIRST_DEVICE };
                let ask = Ask::ChannelDead { slot, death: Death::Protocol };
                let _ = rustix::io::write(socket, &FromProcess::from(ask).to_bytes());
                Ok(vec![pid])
            }
            Strike::NoRequest(part) => {
                let (pid, socket) = self.socket(part)?;
                let _ = rustix::io::write(socket, &[0xa5; 79]);
                Ok(vec![pid])
            }
            Strike::HangUp(part) => {
                let (pid, socket) = self.socket(part)?;
                let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
                Ok(vec![pid])
            }
            Strike::Lie(part, lie) => {
                let prey = until("a shared area to lie in", || {
                    let prey = self.prey(part, None).ok()?;
                    scribble(prey.pid, lie).then_some(prey)
                })?;
                // The broker may have it killed meanwhile.
                std::thread::sleep(Duration::from_millis(5));
                send(&prey, Signal::KILL);
                Ok(vec![prey.pid])
            }
            Strike::Start(part, cues) => {
                self.files.understudies().cue(part.role(), cues).map_err(|e| e.to_string())?;
                // They come, unless it is the sixth death in a minute.
                self.kill(part, 1)
            }
            Strike::Restart(part) => {
                let name = part.name();
                let text = format!(r#"{{"execute":"x-bulkhead-restart","arguments":{{"device":"{name}"}}}}"#);
                until(&format!("{name} restarts"), || {
                    let pid = self.process(part)?;
                    self.qmp(&text).ok()?.get("return")?;
                    Some(vec![pid])
                })
            }
            Strike::Fails(drive, on, errno) => {
                self.storage(place, Fault { left: 1, ..Fault::always(drive, on, errno) }, progress)
            }
            Strike::Slow(drive, on, late) => {
                self.storage(place, Fault { left: 1, late, ..Fault::always(drive, on, 0) }, progress)
            }
            Strike::Held(drive, on, ms) => {
                let fault = Fault { left: 1, held: true, ..Fault::always(drive, on, 0) };
                self.faults.set(place, Some(fault)).map_err(|e| e.to_string())?;
                std::thread::sleep(Duration::from_millis(ms));
                let now = self.faults.get(place).map_err(|e| e.to_string())?.map(|f| Fault { held: false, ..f });
                self.faults.set(place, now).map_err(|e| e.to_string())?;
                self.met(place, progress)
            }
            Strike::Full(ms) => {
                fill(&self.files.filler())?;
                let met = self.wait(progress, ms);
                std::fs::remove_file(self.files.filler()).map_err(|e| e.to_string())?;
                met
            }
            Strike::Truncated(at, ms) => {
                let image = File::options().write(true).open(self.files.raw()).map_err(|e| e.to_string())?;
                image.set_len(at).map_err(|e| e.to_string())?;
                let met = self.wait(progress, ms);
                image.set_len(crate::disk::RAW_BYTES).map_err(|e| e.to_string())?;
                met
            }
            Strike::TruncatedFormat(at) => {
                let image = File::options().write(true).open(self.files.formatted()).map_err(|e| e.to_string())?;
                let len = image.metadata().map_err(|e| e.to_string())?.len();
                image.set_len(at.min(len)).map_err(|e| e.to_string())?;
                self.wait(progress, 1)
            }
            Strike::Medium(insert) => until("another medium", || self.medium(insert).then(Vec::new)),
            Strike::Viewer(how) => {
                // Its process may be away: that is another strike.
                let _ = self.viewer(how);
                Ok(Vec::new())
            }
        }
    }

    /// Kills the process of a part, and its next ones as soon as they are there.
    fn kill(&self, part: Part, times: u32) -> Result<Vec<i32>, String> {
        let mut killed = Vec::new();
        for _ in 0..times {
            let found = match killed.last() {
                None => self.prey(part, None)?,
                // After the fifth there may be none.
                Some(last) => match self.successor(part, *last) {
                    Some(prey) => prey,
                    None => break,
                },
            };
            send(&found, Signal::KILL);
            killed.push(found.pid);
        }
        Ok(killed)
    }

    fn successor(&self, part: Part, last: i32) -> Option<Prey> {
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            if self.process(part).is_some_and(|pid| pid != last) {
                return self.prey(part, Some(last)).ok();
            }
            std::thread::yield_now();
        }
        None
    }

    fn storage(&self, place: usize, fault: Fault, progress: &Progress) -> Result<Vec<i32>, String> {
        self.faults.set(place, Some(fault)).map_err(|e| e.to_string())?;
        self.met(place, progress)
    }

    /// Waits until a job has met the fault of the storage.
    fn met(&self, place: usize, progress: &Progress) -> Result<Vec<i32>, String> {
        progress.active.store(true, Ordering::SeqCst);
        until("a job that meets the fault", || {
            let met = self.faults.get(place).ok()?.is_some_and(|f| f.met > 0);
            // Or there are no jobs any more.
            (met || progress.met.load(Ordering::SeqCst)).then(Vec::new)
        })
    }

    /// Waits until the guest has met the fault, at least so many milliseconds.
    fn wait(&self, progress: &Progress, ms: u64) -> Result<Vec<i32>, String> {
        progress.active.store(true, Ordering::SeqCst);
        let end = Instant::now() + Duration::from_millis(ms);
        until("the guest meets the fault", || progress.met.load(Ordering::SeqCst).then(Vec::new)).inspect(|_| {
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
        })
    }

    /// Changes the CD as libxl does. False if control or the drive was away.
    fn medium(&self, insert: bool) -> bool {
        let done = |answer: Result<serde_json::Value, String>| answer.is_ok_and(|a| a.get("return").is_some());
        if !done(self.qmp(r#"{"execute":"eject","arguments":{"id":"ide-5632","force":true}}"#)) {
            return false;
        }
        if !insert {
            return true;
        }
        let Ok(disc) = File::open(self.files.path("second")) else { return false };
        let add = r#"{"execute":"add-fd","arguments":{"opaque":"raw:second"}}"#;
        let Ok(answer) = Sim::qmp_at(&self.qmp, add, Some(disc.as_fd())) else { return false };
        let Some(set) = answer["return"]["fdset-id"].as_u64() else { return false };
        let change = format!(
            r#"{{"execute":"blockdev-change-medium","arguments":{{"id":"ide-5632","filename":"/dev/fdset/{set}","format":"raw"}}}}"#
        );
        let changed = done(self.qmp(&change));
        let _ = self.qmp(&format!(r#"{{"execute":"remove-fd","arguments":{{"fdset-id":{set}}}}}"#));
        changed
    }

    /// A viewer that goes wrong.
    fn viewer(&self, how: Break) -> std::io::Result<()> {
        let mut viewer = self.connect()?;
        match how {
            Break::Silent => {}
            Break::Nonsense => {
                viewer.write_all(&[0xff; 64])?;
                let _ = viewer.read(&mut [0; 64]);
            }
            Break::Leaves => {
                viewer.write_all(b"RFB 003.008\n")?;
                viewer.read_exact(&mut [0; 2])?;
                viewer.write_all(&[1, 1])?;
                viewer.read_exact(&mut [0; 4 + 24])?;
                viewer.write_all(&[3, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])?;
                viewer.read_exact(&mut [0; 100])?;
            }
        }
        Ok(())
    }

    /// A viewer that has heard the server's version.
    pub fn connect(&self) -> std::io::Result<TcpStream> {
        let mut viewer = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, self.vnc))?;
        viewer.set_read_timeout(Some(Duration::from_secs(20)))?;
        viewer.read_exact(&mut [0; 12])?;
        Ok(viewer)
    }
}

fn send(prey: &Prey, signal: Signal) {
    let _ = pidfd_send_signal(&prey.fd, signal);
}

/// Takes all room of the file system.
fn fill(path: &std::path::Path) -> Result<(), String> {
    let mut filler = File::create(path).map_err(|e| e.to_string())?;
    for size in [1 << 16, 4096] {
        while filler.write_all(&vec![0xaa; size]).is_ok() {}
    }
    Ok(())
}

/// Writes nonsense into the area that a process shares with the broker, as the process could. False if it has none yet.
fn scribble(pid: i32, lie: Lie) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let area = maps.lines().find(|l| l.contains("rw-s") && l.contains("memfd:reply"));
    let Some(base) = area.and_then(|l| u64::from_str_radix(l.split('-').next()?, 16).ok()) else { return false };
    let Ok(memory) = File::options().write(true).open(format!("/proc/{pid}/mem")) else { return false };
    let noise: Vec<u8> = (0..2 * STATE as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let (at, len) = match lie {
        Lie::Sequence => (reply::CELLS, 4),
        Lie::Posted => (reply::POSTED_TAIL, 4),
        Lie::Half => (reply::STATE_HALF, 4),
        Lie::State => (reply::STATE_AT + 64, 2 * STATE - 64),
        Lie::Lines => (reply::LINES_AT, 128),
        Lie::Config => (reply::CONFIG_AT + 64, 128),
        Lie::Shadows => (reply::SHADOWS_AT, 512),
        Lie::Header => (reply::HEADER, 16),
    };
    // The second cell is the broker's own.
    (lie != Lie::Sequence || memory.write_all_at(&noise[77..81], base + (reply::CELLS + CELL) as u64).is_ok())
        && memory.write_all_at(&noise[101..][..len.min(noise.len() - 101)], base + at as u64).is_ok()
}
