//! `bulkhead-hop`: measures the time of a register access on this host's processors, with the simulated machine instead of Xen. An
//! access is a read of port 92, a full hop from the broker to a device and back. For comparison it measures one round trip to a
//! single process that the scheduler places: the lower bound for a device model in one process. `integration/bench/hop` builds and
//! runs it.
//!
//!     bulkhead-hop [--accesses N] [--placement WORD]... [--vcpus N]... [--load idle|loaded]...
use bulkhead_sim::{Options, Sim};
use bulkhead_xen_abi::ioreq;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, OwnedFd};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, String>;

/// Time before the measurement, in which the launcher reads the load.
const WARM: Duration = Duration::from_millis(1500);
/// A port of the platform's device.
const PORT: u64 = 0x92;

fn main() -> ExitCode {
    bulkhead_policy::end_on_panic();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("--echo") => echo(),
        Some("--busy") => busy(),
        _ => Wanted::parse(&arguments).and_then(|wanted| table(&wanted)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bulkhead-hop: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The measurements that the arguments select.
struct Wanted {
    accesses: usize,
    placements: Vec<String>,
    vcpus: Vec<usize>,
    loads: Vec<bool>,
}

impl Wanted {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut wanted = Self { accesses: 20_000, placements: Vec::new(), vcpus: Vec::new(), loads: Vec::new() };
        for pair in arguments.chunks(2) {
            let [option, value] = pair else { return Err(format!("{pair:?}: a value must follow")) };
            let number = value.parse::<usize>().ok().filter(|n| *n > 0);
            match (option.as_str(), value.as_str()) {
                ("--accesses", _) => wanted.accesses = number.ok_or("--accesses: a number")?,
                ("--placement", _) => wanted.placements.push(value.clone()),
                ("--vcpus", _) => wanted.vcpus.push(number.ok_or("--vcpus: a number")?),
                ("--load", "idle") => wanted.loads.push(false),
                ("--load", "loaded") => wanted.loads.push(true),
                _ => return Err(format!("{option} {value}: see the top of integration/sim/src/hop.rs")),
            }
        }
        if wanted.placements.is_empty() {
            wanted.placements = vec!["together".to_owned(), "free".to_owned()];
        }
        if wanted.vcpus.is_empty() {
            wanted.vcpus = vec![1, 2, 4, 8];
        }
        if wanted.loads.is_empty() {
            wanted.loads = vec![false, true];
        }
        Ok(wanted)
    }
}

/// Microseconds of each access, and the context switches.
struct Measured {
    times: Vec<f64>,
    seconds: f64,
    /// Voluntary and involuntary context switches of broker and device, per access.
    switches: Option<(f64, f64)>,
}

fn table(wanted: &Wanted) -> Outcome<()> {
    println!(
        "{} processors, Linux {}; {} accesses a line, microseconds",
        processors()?.len(),
        std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        wanted.accesses
    );
    println!(
        "| load | who answers | vCPUs | median | p99 | accesses a second | sleeps an access | pre-emptions an access |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for loaded in &wanted.loads {
        let load = if *loaded { "a busy process per processor" } else { "idle" };
        // The load ends when this is dropped.
        let _others =
            if *loaded { processors()?.into_iter().map(Busy::start).collect::<Outcome<Vec<_>>>()? } else { Vec::new() };
        row(load, "one process, placed by the scheduler", 1, single(wanted.accesses)?);
        for placement in &wanted.placements {
            for vcpus in &wanted.vcpus {
                row(
                    load,
                    &format!("broker and device, `{placement}`"),
                    *vcpus,
                    machine(wanted.accesses, placement, *vcpus)?,
                );
            }
        }
    }
    Ok(())
}

fn row(load: &str, who: &str, vcpus: usize, mut measured: Measured) {
    measured.times.sort_by(f64::total_cmp);
    let at = |part: usize| {
        let index = measured.times.len().saturating_mul(part).div_euclid(100);
        measured.times.get(index).copied().unwrap_or(f64::NAN)
    };
    let rate = measured.times.len() as f64 / measured.seconds;
    let (slept, taken) = match measured.switches {
        Some((slept, taken)) => (format!("{slept:.2}"), format!("{taken:.2}")),
        None => (String::new(), String::new()),
    };
    println!("| {load} | {who} | {vcpus} | {:.1} | {:.1} | {rate:.0} | {slept} | {taken} |", at(50), at(99));
}

/// Measures the simulated machine with all vCPUs accessing the port continuously.
fn machine(accesses: usize, placement: &str, vcpus: usize) -> Outcome<Measured> {
    let fail = |e: bulkhead_sim::SimError| e.to_string();
    let smp = vcpus.to_string();
    let mut sim = Sim::start(&Options::new(&["-m", "16", "-smp", &smp, "-placement", placement])).map_err(fail)?;
    let ask = |sim: &mut Sim, vcpu| sim.put(vcpu, Sim::simple(ioreq::IOREQ_TYPE_PIO, PORT, 1, 0, true));
    sim.catch_up();
    let mut asked = vec![Instant::now(); vcpus];
    for vcpu in 0..vcpus {
        ask(&mut sim, vcpu);
    }
    let begin = Instant::now();
    let mut from: Option<(Instant, (u64, u64))> = None;
    let mut times = Vec::with_capacity(accesses);
    while times.len() < accesses {
        let vcpu = sim.await_any().map_err(fail)?;
        let now = Instant::now();
        if from.is_some() {
            let waited = asked.get(vcpu).map_or(Duration::ZERO, |t| now.duration_since(*t));
            times.push(waited.as_secs_f64() * 1e6);
        } else if now.duration_since(begin) > WARM {
            from = Some((now, switches(&sim)));
        }
        if let Some(at) = asked.get_mut(vcpu) {
            *at = Instant::now();
        }
        ask(&mut sim, vcpu);
    }
    let (since, before) = from.ok_or("nothing was measured")?;
    let (seconds, after) = (since.elapsed().as_secs_f64(), switches(&sim));
    let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / accesses as f64;
    Ok(Measured { times, seconds, switches: Some((each(after.0, before.0), each(after.1, before.1))) })
}

/// Voluntary and involuntary context switches of broker and platform.
fn switches(sim: &Sim) -> (u64, u64) {
    let (mut slept, mut taken) = (0u64, 0u64);
    for pid in ["broker", "platform"].iter().filter_map(|role| sim.process(role)) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field =
            |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap_or(0);
        slept = slept.saturating_add(field("voluntary_ctxt_switches:"));
        taken = taken.saturating_add(field("nonvoluntary_ctxt_switches:"));
    }
    (slept, taken)
}

/// Measures one process that answers through a doorbell in each direction, as a device model without a broker.
fn single(accesses: usize) -> Outcome<Measured> {
    let bell = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| e.to_string());
    let (request, reply) = (bell()?, bell()?);
    let copy = |fd: &OwnedFd| rustix::io::dup(fd).map(Stdio::from).map_err(|e| e.to_string());
    let mut command = itself("--echo")?;
    let _other = Busy(command.stdin(copy(&request)?).stdout(copy(&reply)?).spawn().map_err(|e| e.to_string())?);
    let epoll = waits_for(&reply)?;
    let begin = Instant::now();
    let mut from = None;
    let mut times = Vec::with_capacity(accesses);
    while times.len() < accesses {
        let asked = Instant::now();
        ring(&request);
        wait(&epoll)?;
        if from.is_some() {
            times.push(asked.elapsed().as_secs_f64() * 1e6);
        } else if begin.elapsed() > WARM {
            from = Some(Instant::now());
        }
    }
    let seconds = from.map_or(0.0, |t: Instant| t.elapsed().as_secs_f64());
    Ok(Measured { times, seconds, switches: None })
}

/// The other half of [`single`]: answers every ring of its standard input by one of its standard output.
fn echo() -> Outcome<()> {
    let epoll = waits_for(rustix::stdio::stdin())?;
    loop {
        wait(&epoll)?;
        ring(rustix::stdio::stdout());
    }
}

fn waits_for(fd: impl AsFd) -> Outcome<OwnedFd> {
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|e| e.to_string())?;
    epoll::add(&epoll, fd, EventData::new_u64(0), EventFlags::IN | EventFlags::ET).map_err(|e| e.to_string())?;
    Ok(epoll)
}

fn wait(epoll: &OwnedFd) -> Outcome<()> {
    let mut events = Vec::with_capacity(1);
    epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None).map(|_| ()).map_err(|e| e.to_string())
}

fn ring(fd: impl AsFd) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

/// A command that runs this program in another role.
fn itself(part: &str) -> Outcome<Command> {
    let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
    command.arg(part);
    Ok(command)
}

/// A child process that is killed when this is dropped.
struct Busy(Child);

impl Busy {
    /// Starts a process that never sleeps, on this processor.
    fn start(processor: usize) -> Outcome<Self> {
        let child = itself("--busy")?.stdin(Stdio::null()).spawn().map_err(|e| e.to_string())?;
        let mut only = CpuSet::new();
        only.set(processor);
        let pid = i32::try_from(child.id()).ok().and_then(rustix::thread::Pid::from_raw);
        let this = Self(child);
        sched_setaffinity(pid, &only).map_err(|e| format!("processor {processor}: {e}"))?;
        Ok(this)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn busy() -> Outcome<()> {
    loop {
        std::hint::spin_loop();
    }
}

/// The processors of this process's affinity mask.
fn processors() -> Outcome<Vec<usize>> {
    let all = sched_getaffinity(None).map_err(|e| e.to_string())?;
    Ok((0..CpuSet::MAX_CPU).filter(|n| all.is_set(*n)).collect())
}
