//! The CPUs of a machine's threads, and that no thread on a shared CPU starves.
use bulkhead_sim::{Options, Sim};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::process::{Child, Command};

/// The roles that take part in register accesses here.
const DATA: [&str; 6] = ["broker", "platform", "ide", "ps2", "vga", "serial"];

fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

fn machine(more: &[&str]) -> Sim {
    let mut arguments = vec!["-m", "16", "-device", "VGA,vgamem_mb=16", "-serial", "null"];
    arguments.extend(more);
    Sim::start(&Options::new(&arguments)).unwrap()
}

/// A process's threads with the CPUs that each may use, its first thread first.
fn threads(pid: i32) -> Vec<Vec<usize>> {
    let mut all: Vec<i32> = std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    all.sort_by_key(|tid| (*tid != pid, *tid));
    let cpus = |tid| {
        let set = sched_getaffinity(rustix::process::Pid::from_raw(tid)).unwrap();
        (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
    };
    all.into_iter().map(cpus).collect()
}

/// The CPU of the data threads; asserts that they share one and that all other threads may use any CPU.
fn shared(sim: &Sim, free: &[usize]) -> usize {
    let mut cpus = Vec::new();
    for role in DATA {
        let threads = threads(sim.process(role).unwrap());
        let (first, others) = threads.split_first().unwrap();
        assert_eq!(first.len(), 1, "{role}'s data thread is on {first:?}");
        cpus.push(first[0]);
        assert!(!others.is_empty() && others.iter().all(|o| o == free), "{role}'s other threads: {others:?}");
    }
    assert!(cpus.iter().all(|c| *c == cpus[0]), "{cpus:?}");
    assert!(threads(sim.process("control").unwrap()).iter().all(|t| t == free), "control is no part of an access");
    cpus[0]
}

/// A child process that is killed when this is dropped.
struct Busy(Child);

impl Busy {
    /// Starts a process that never sleeps, on this CPU, with the weight of a device.
    fn on(cpu: usize) -> Self {
        let child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let mut only = CpuSet::new();
        only.set(cpu);
        sched_setaffinity(Some(pid), &only).unwrap();
        // This may be refused, depending on the host.
        let _ = rustix::process::setpriority_process(Some(pid), -2);
        Self(child)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn accesses(sim: &mut Sim, count: usize) {
    sim.port_write(0x92, 1, 2).unwrap();
    for n in 0..count {
        assert_eq!(sim.port_read(0x92, 1).unwrap() & 2, 2, "access {n}");
    }
    for line in sim.log().lines() {
        assert!(!line.contains("did not answer") && !line.contains("killed"), "{line}");
    }
}

#[test]
fn data_threads_of_a_guest_share_one_cpu_after_restarts_too() {
    let free = allowed();
    let mut sim = machine(&[]);
    let cpu = shared(&sim, &free);
    accesses(&mut sim, 10);
    // The thread that simulates Xen was moved too, as interrupts are.
    assert_eq!(allowed(), [cpu]);
    for role in ["platform", "vga"] {
        sim.replace(role).unwrap();
        let asks = format!(r#"{{"execute":"x-bulkhead-inspect","arguments":{{"device":"{role}"}}}}"#);
        // It answers when it runs again.
        while sim.qmp(&asks).unwrap().get("return").is_none() {
            std::thread::yield_now();
        }
        assert_eq!(shared(&sim, &free), cpu, "{role} was started again");
    }
}

#[test]
fn placed_freely_no_thread_is_bound() {
    let free = allowed();
    let sim = machine(&["-placement", "free"]);
    for (role, pid) in sim.processes() {
        assert!(threads(pid).iter().all(|t| *t == free), "{role}: {:?}", threads(pid));
    }
    assert_eq!(allowed(), free);
}

#[test]
fn a_list_of_cpus_is_obeyed_and_one_that_cannot_be_is_told() {
    let free = allowed();
    let last = free.last().unwrap().to_string();
    assert_eq!(shared(&machine(&["-placement", &last]), &free).to_string(), last);
    std::thread::scope(|s| {
        // A new thread, since this one was moved with the machine.
        let other = s.spawn(|| {
            let mut all = CpuSet::new();
            free.iter().for_each(|cpu| all.set(*cpu));
            sched_setaffinity(None, &all).unwrap();
            let sim = machine(&["-placement", "1000-1023"]);
            assert!(free.contains(&shared(&sim, &free)));
            sim.await_log("none of these CPUs may be used here").unwrap();
        });
        other.join().unwrap();
    });
}

#[test]
fn a_process_that_spins_on_the_same_cpu_starves_no_access() {
    let cpu = allowed()[0];
    let mut sim = machine(&["-placement", &cpu.to_string()]);
    let _hostile = Busy::on(cpu);
    accesses(&mut sim, 2000);
}

#[test]
fn two_guests_on_one_cpu_starve_neither() {
    let cpu = allowed()[0].to_string();
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| accesses(&mut machine(&["-placement", &cpu]), 5000));
        }
    });
}

#[test]
#[ignore = "needs two CPUs"]
fn a_set_of_cpus_that_shrinks_while_the_guest_runs_is_obeyed() {
    let free = allowed();
    assert!(free.len() > 1, "with one CPU the set cannot shrink");
    let mut sim = machine(&[]);
    let before = shared(&sim, &free);
    let other = *free.iter().find(|cpu| **cpu != before).unwrap();
    let mut left = CpuSet::new();
    left.set(other);
    sched_setaffinity(rustix::process::Pid::from_raw(sim.pid() as i32), &left).unwrap();
    // The launcher reads the load while the guest makes accesses.
    let begin = std::time::Instant::now();
    while DATA.iter().any(|role| threads(sim.process(role).unwrap())[0] != [other]) {
        accesses(&mut sim, 200);
        assert!(begin.elapsed().as_secs() < 20, "the data threads stay on CPU {before}");
    }
}
