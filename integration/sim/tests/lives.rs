//! Lives of a process that go wrong before the process runs.
use bulkhead_sim::{Cue, Options, Sim, Understudies};

struct Bed {
    sim: Sim,
    understudies: Understudies,
}

impl Bed {
    fn new() -> Self {
        let mut options =
            Options::new(&["-machine", "xenfv", "-m", "16", "-device", "VGA,vgamem_mb=16", "-serial", "null"]);
        let understudies = Understudies::new(&options.binaries).unwrap();
        options.binaries = understudies.path().to_owned();
        Self { sim: Sim::start(&options).unwrap(), understudies }
    }

    /// The scratch register of the serial port, which is nothing but state: all ones while the port has no process.
    fn scratch(&mut self) -> u32 {
        self.sim.port_read(0x3ff, 1).unwrap()
    }

    /// Kills the serial port's process, lets its successors go wrong, and waits for the first real one. Returns its state.
    fn after(&mut self, cues: &[Cue]) -> u32 {
        self.sim.port_write(0x3ff, 1, 0x5a).unwrap();
        self.understudies.cue("serial", cues).unwrap();
        self.sim.kill("serial").unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let scratch = self.scratch();
            if self.understudies.is_over("serial") && scratch != 0xff {
                return scratch;
            }
            assert!(std::time::Instant::now() < end, "{}", self.sim.log());
            // Machines that look without a pause keep the kernel from its own work, which a process's end waits for.
            self.sim.grown(std::time::Duration::from_millis(20));
        }
    }
}

/// The state was handed to the first successor alone, and died with it.
#[test]
fn a_process_that_dies_before_it_runs_leaves_the_last_state_to_the_next() {
    let mut bed = Bed::new();
    for cues in [&[Cue::DiesAtOnce, Cue::DiesAtOnce][..], &[Cue::DiesWithState], &[Cue::DiesAtOnce, Cue::DiesWithState]]
    {
        assert_eq!(bed.after(cues), 0x5a, "{cues:?}\n{}", bed.sim.log());
        // The limit of restarts in a minute counts each of them.
        bed = Bed::new();
    }
}

/// A process that was started while the machine ran had no time limit: its device was away for ever.
fn stops(cue: Cue, step: &str) {
    let mut bed = Bed::new();
    assert_eq!(bed.after(&[cue]), 0x5a, "{cue:?}\n{}", bed.sim.log());
    bed.sim.await_log(step).unwrap();
    let log = bed.sim.log();
    assert!(log.lines().any(|l| l.starts_with("bulkhead-dm: BH-0502: serial0 (pid ") && l.contains(step)), "{log}");
    assert!(bed.sim.end().unwrap().success());
}

#[test]
fn a_process_that_does_nothing_is_replaced() {
    stops(Cue::StopsAtOnce, "was not set up in 13 s");
}

#[test]
fn a_process_that_does_not_enter_its_sandbox_is_replaced() {
    stops(Cue::StopsUnsandboxed, "was not in its sandbox in 13 s");
}

/// It has the filter that it has inherited from the launcher, and /proc says `Seccomp: 2` of it.
#[test]
fn a_process_without_a_filter_of_its_own_is_replaced_before_it_may_go_on() {
    let mut bed = Bed::new();
    assert_eq!(bed.after(&[Cue::Unfiltered]), 0x5a, "{}", bed.sim.log());
    let log = bed.sim.log();
    let refused = |l: &&str| l.contains("serial0") && l.contains("Seccomp_filters of thread");
    assert!(log.lines().any(|l| refused(&l)), "{log}");
    assert!(!log.contains("the broker did not take its channel"), "{log}");
    assert!(bed.sim.end().unwrap().success());
}

#[test]
fn a_process_that_the_broker_does_not_take_is_replaced() {
    stops(Cue::StopsUnattached, "the broker did not take its channel in 13 s");
}

#[test]
fn a_control_that_does_nothing_is_replaced() {
    let mut bed = Bed::new();
    bed.understudies.cue("control", &[Cue::StopsAtOnce]).unwrap();
    bed.sim.kill("control").unwrap();
    bed.sim.await_log("BH-0502: control (pid ").unwrap();
    let status = bed.sim.qmp(r#"{"execute":"query-status"}"#).unwrap();
    assert_eq!(status["return"]["status"], "running", "{status}");
    assert!(bed.sim.end().unwrap().success());
}

/// The launcher kept a connection to every process for a control that it starts no more.
#[test]
fn a_control_that_stays_dead_costs_the_launcher_no_open_files() {
    let bed = Bed::new();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", bed.sim.pid())).unwrap().count();
    let before = open();
    bed.understudies.cue("control", &[Cue::DiesAtOnce; 5]).unwrap();
    bed.sim.kill("control").unwrap();
    bed.sim.await_log("control died too often; it stays dead").unwrap();
    // The process of a device that starts now has no connection to pass on either.
    bed.sim.replace("serial").unwrap();
    bed.sim.await_log("serial0 (pid ").unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while open() > before {
        assert!(std::time::Instant::now() < end, "{} instead of {before}:\n{}", open(), bed.sim.log());
        bed.sim.grown(std::time::Duration::from_millis(20));
    }
}

/// The guest gets a device in its reset state, not none.
#[test]
fn a_state_of_which_two_processes_die_is_given_up() {
    let mut bed = Bed::new();
    assert_eq!(bed.after(&[Cue::DiesWithState, Cue::DiesWithState]), 0, "{}", bed.sim.log());
    bed.sim.await_log("serial0: processes die of its last state; the next one starts from reset").unwrap();
    // Its successor has a state of its own.
    assert_eq!(bed.after(&[]), 0x5a, "{}", bed.sim.log());
    assert!(bed.sim.end().unwrap().success());
}
