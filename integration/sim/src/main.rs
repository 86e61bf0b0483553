//! `bulkhead-qtest ARGUMENTS…`: the simulated machine with the qtest line protocol on standard input and output, or on the
//! sockets of QEMU's own qtest programs (`QTEST_QEMU_BINARY`, see [`libqtest`]). The arguments are those of bulkhead-dm. It
//! ends at the end of the input.
use bulkhead_sim::{Options, Sim, SimError, libqtest, qtest::Interpreter};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

fn main() -> ExitCode {
    bulkhead_policy::end_on_panic();
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("bulkhead-qtest: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The running machine, which a reset replaces by a new one.
#[derive(Clone)]
struct Lives {
    sim: Arc<Mutex<Sim>>,
    /// The configuration for a start after a reset.
    next: Options,
    /// No process of the earlier machines has died.
    lived: Arc<Mutex<bool>>,
}

impl Lives {
    fn sim(&self) -> MutexGuard<'_, Sim> {
        self.sim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, sim: &mut Sim) -> bool {
        let lived = end(sim);
        let mut all = self.lived.lock().unwrap_or_else(PoisonError::into_inner);
        *all &= lived;
        *all
    }
}

impl libqtest::Restart for Lives {
    /// Starts a new machine: on Xen, a reset guest is a new domain with a new device model.
    fn restart(&mut self) -> Result<PathBuf, SimError> {
        let mut sim = self.sim();
        self.end(&mut sim);
        *sim = Sim::start(&self.next)?;
        Ok(sim.qmp_socket().to_owned())
    }
}

/// Executes the lines of the input; returns whether no process has died.
fn run() -> Result<bool, String> {
    let dir = tempfile::tempdir().map_err(|e| format!("a directory for sockets: {e}"))?;
    let invocation = libqtest::Invocation::parse(std::env::args().skip(1), dir.path())?;
    if let (true, Some(qtest)) = (invocation.probe, &invocation.qtest) {
        return probe(qtest, invocation.qmp.as_deref()).map(|()| true).map_err(|e| format!("{qtest}: {e}"));
    }
    let life = |first| Options {
        arguments: invocation.arguments(first),
        memory: 128 << 20,
        faults: invocation.debugged,
        ..Options::new(&[])
    };
    let sim = Sim::start(&life(true)).map_err(|e| e.to_string())?;
    let lives = Lives { sim: Arc::new(Mutex::new(sim)), next: life(false), lived: Arc::new(Mutex::new(true)) };
    let mut interpreter = Interpreter::default();
    let mut answer = |line: &str, out: &mut dyn Write| match interpreter.line(&mut lives.sim(), line) {
        Some(reply) => writeln!(out, "{reply}").and_then(|()| out.flush()).is_ok(),
        None => true,
    };
    match &invocation.qtest {
        Some(path) => {
            let connect = || {
                let stream = UnixStream::connect(path)?;
                if let Some(qmp) = &invocation.qmp {
                    let sim = lives.sim();
                    let monitor = libqtest::Monitor::new(qmp, sim.qmp_socket(), lives.clone())?;
                    let monitor = match sim.faults() {
                        Ok(faults) => monitor.with_faults(faults.another()?, &invocation.scripted)?,
                        Err(_) => monitor,
                    };
                    std::thread::spawn(|| monitor.run());
                }
                libqtest::end_on_sigterm(stream.try_clone()?)?;
                Ok::<_, std::io::Error>((BufReader::new(stream.try_clone()?), stream))
            };
            let (lines, mut out) = connect().map_err(|e| format!("{path}: {e}"))?;
            lines.lines().map_while(Result::ok).all(|line| answer(&line, &mut out));
        }
        None => {
            let mut out = std::io::stdout().lock();
            std::io::stdin().lock().lines().map_while(Result::ok).all(|line| answer(&line, &mut out));
        }
    }
    let mut sim = lives.sim();
    Ok(lives.end(&mut sim))
}

/// Answers a query for the available machines, without a machine.
fn probe(qtest: &str, qmp: Option<&str>) -> std::io::Result<()> {
    let stream = UnixStream::connect(qtest)?;
    if let Some(qmp) = qmp.map(str::to_owned) {
        std::thread::spawn(move || libqtest::answer_probe(&qmp));
    }
    libqtest::end_on_sigterm(stream.try_clone()?)?;
    let mut out = stream.try_clone()?;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        writeln!(out, "{}", if line == "endianness" { "OK little" } else { "FAIL there is no machine" })?;
    }
    Ok(())
}

/// Ends a machine, and prints the accesses of each device and the devices that have died.
fn end(sim: &mut Sim) -> bool {
    // A test that has reached no device has tested nothing.
    let answer = sim.qmp(r#"{"execute":"x-bulkhead-activity"}"#).unwrap_or_default();
    for (name, counted) in answer.get("return").and_then(|r| r.as_object()).into_iter().flatten() {
        let count = |what: &str| counted.get(what).and_then(serde_json::Value::as_u64);
        // The broker has no accesses of its own.
        if let (Some(accesses), Some(posted)) = (count("accesses"), count("posted")) {
            eprintln!("reached {name} {}", accesses.saturating_add(posted));
        }
    }
    // A device that died was restarted, which the replies do not show.
    let died: Vec<String> = sim
        .log()
        .lines()
        .filter(|l| l.starts_with("bulkhead-dm: ") && l.contains("(pid "))
        .map(str::to_owned)
        .collect();
    for line in &died {
        eprintln!("{line}");
    }
    sim.end().is_ok_and(|status| status.success()) && died.is_empty()
}
