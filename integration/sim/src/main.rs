//! `bulkhead-qtest ARGUMENTS…`: the simulated machine with the qtest line protocol on standard input and output, or on the
//! sockets of QEMU's own qtest programs (`QTEST_QEMU_BINARY`, see [`libqtest`]). The arguments are those of bulkhead-dm. It
//! ends at the end of the input.
use bulkhead_sim::{Options, Sim, libqtest, qtest::Session};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("bulkhead-qtest: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Carries out the lines; whether every process lived.
fn run() -> Result<bool, String> {
    let dir = tempfile::tempdir().map_err(|e| format!("a directory for sockets: {e}"))?;
    let invocation = libqtest::Invocation::parse(std::env::args().skip(1), dir.path())?;
    let mut options = Options::new(&[]);
    options.arguments.clone_from(&invocation.machine);
    options.memory = 128 << 20;
    let mut sim = Sim::start(&options).map_err(|e| e.to_string())?;
    let mut session = Session::default();
    let mut answer = |sim: &mut Sim, line: &str, out: &mut dyn Write| match session.line(sim, line) {
        Some(reply) => writeln!(out, "{reply}").and_then(|()| out.flush()).is_ok(),
        None => true,
    };
    match &invocation.qtest {
        Some(path) => {
            let connect = || {
                let stream = UnixStream::connect(path)?;
                if let Some(qmp) = &invocation.qmp {
                    libqtest::carry(qmp, sim.qmp_socket())?;
                }
                libqtest::end_when_told(stream.try_clone()?)?;
                Ok::<_, std::io::Error>((BufReader::new(stream.try_clone()?), stream))
            };
            let (lines, mut out) = connect().map_err(|e| format!("{path}: {e}"))?;
            lines.lines().map_while(Result::ok).all(|line| answer(&mut sim, &line, &mut out));
        }
        None => {
            let mut out = std::io::stdout().lock();
            std::io::stdin().lock().lines().map_while(Result::ok).all(|line| answer(&mut sim, &line, &mut out));
        }
    }
    // What reached nobody has not been tried.
    let rows = sim.qmp(r#"{"execute":"x-bulkhead-processes"}"#).unwrap_or_default();
    for name in rows
        .pointer("/return/processes")
        .and_then(|p| p.as_array())
        .into_iter()
        .flatten()
        .filter_map(|p| p.get("name")?.as_str())
    {
        let command = serde_json::json!({ "execute": "x-bulkhead-inspect", "arguments": { "device": name } });
        let answer = sim.qmp(&command.to_string()).unwrap_or_default();
        let count = |what: &str| answer.pointer("/return/statistics").and_then(|s| s.get(what)?.as_u64());
        if let (Some(accesses), Some(posted)) = (count("accesses"), count("posted writes")) {
            eprintln!("reached {name} {}", accesses.saturating_add(posted));
        }
    }
    // A device that died was started again: the replies alone do not tell.
    let died: Vec<String> = sim
        .log()
        .lines()
        .filter(|l| l.starts_with("bulkhead-dm: ") && l.contains("(pid "))
        .map(str::to_owned)
        .collect();
    for line in &died {
        eprintln!("{line}");
    }
    Ok(sim.end().is_ok_and(|status| status.success()) && died.is_empty())
}
