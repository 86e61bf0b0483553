//! `bulkhead-qtest ARGUMENTS…`: the simulated machine with the qtest line protocol on standard input and output. The
//! arguments are those of bulkhead-dm. It ends at the end of the input.
use bulkhead_sim::{Options, Sim, qtest::Session};
use std::io::{BufRead, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut options = Options::new(&[]);
    options.arguments = arguments;
    options.memory = 128 << 20;
    let mut sim = match Sim::start(&options) {
        Ok(sim) => sim,
        Err(e) => {
            eprintln!("bulkhead-qtest: {e}");
            return ExitCode::FAILURE;
        }
    };
    let mut session = Session::default();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if let Some(reply) = session.line(&mut sim, &line)
            && writeln!(out, "{reply}").and_then(|()| out.flush()).is_err()
        {
            break;
        }
    }
    // What reached nobody has not been tried.
    let rows = sim.qmp(r#"{"execute":"x-bulkhead-processes"}"#).unwrap_or_default();
    for name in rows.pointer("/return/processes").and_then(|p| p.as_array()).into_iter().flatten().filter_map(|p| p.get("name")?.as_str()) {
        let command = serde_json::json!({ "execute": "x-bulkhead-inspect", "arguments": { "device": name } });
        let answer = sim.qmp(&command.to_string()).unwrap_or_default();
        if let Some(n) = answer.pointer("/return/statistics/requests").and_then(serde_json::Value::as_u64) {
            eprintln!("reached {name} {n}");
        }
    }
    // A device that died was started again: the replies alone do not tell.
    let died: Vec<String> = sim.log().lines().filter(|l| l.starts_with("bulkhead-dm: ") && l.contains("(pid ")).map(str::to_owned).collect();
    for line in &died {
        eprintln!("{line}");
    }
    match sim.end() {
        Ok(status) if status.success() && died.is_empty() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
