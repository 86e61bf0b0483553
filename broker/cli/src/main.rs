//! `bulkhead`: the operator's command. `out.rs` alone prints.
#![deny(clippy::print_stdout, clippy::print_stderr)]
mod arguments;
mod audit;
mod compat;
mod doctor;
mod error;
mod guest;
mod input;
mod net;
mod out;
mod ps;
mod show;
mod top;
mod trace;

use arguments::{Arguments, Command, Net, Shell, Trace};

use clap::{CommandFactory as _, Parser as _};
use error::Failure;
use guest::Guest;
use serde_json::json;
use std::process::ExitCode;
use std::sync::LazyLock;

/// The version and the build, as `--version` prints them.
pub(crate) static VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{} (build {})", env!("CARGO_PKG_VERSION"), bulkhead_wire::BUILD));

/// The result of a subcommand, whose output is already printed.
pub(crate) type Done = Result<(), Failure>;

fn main() -> ExitCode {
    // A closed standard output (`| head`) is not an error.
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |why| {
        if why.to_string().contains("failed printing to stdout: Broken pipe") {
            std::process::exit(0);
        }
        otherwise(why);
    }));
    let Arguments { json, command } = Arguments::parse();
    match run(command, json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A check prints its results itself.
            if !matches!(failure, Failure::Wrong) {
                out::error(&failure);
            }
            failure.exit_code()
        }
    }
}

fn run(command: Command, json: bool) -> Done {
    match command {
        Command::Audit { guest, filters } => audit::run(guest.as_deref(), filters, json),
        Command::Ps { guest: None } => ps::all(json),
        Command::Ps { guest: Some(guest) } => ps::one(&Guest::find(&guest)?, json),
        Command::Top { guest, seconds, count } => top::run(&Guest::find(&guest)?, seconds.max(1), count, json),
        Command::Inspect { guest, device } => show::inspect(&Guest::find(&guest)?, &device, json),
        Command::Logs { guest, follow } => show::logs(&Guest::find(&guest)?, follow, json),
        Command::Events { guest } => show::events(&Guest::find(&guest)?),
        Command::Screenshot { guest, file } => show::screenshot(&Guest::find(&guest)?, &file),
        Command::Type { guest, text } => input::type_text(&Guest::find(&guest)?, &text),
        Command::Key { guest, keys } => input::press(&Guest::find(&guest)?, &keys),
        Command::CheckMigrate { guest } => show::migratable(&Guest::find(&guest)?, json),
        Command::Restart { guest, device } => {
            Guest::find(&guest)?.ask("x-bulkhead-restart", &json!({ "device": device })).map(|_| ())
        }
        Command::Net(Net::Show { guest }) => net::show(&Guest::find(&guest)?, json),
        Command::Net(Net::Set { guest, device, settings }) => net::set(&Guest::find(&guest)?, &device, &settings),
        Command::Trace(Trace::Net(trace)) => {
            net::trace(&Guest::find(&trace.guest)?, &trace.device, &trace.file, trace.seconds)
        }
        Command::Trace(Trace::Registers { to, only }) => {
            trace::registers(&Guest::find(&to.guest)?, &to.device, &to.file, to.seconds, only.as_deref())
        }
        Command::Metrics { guest } => {
            let text = Guest::find(&guest)?.ask("x-bulkhead-metrics", &json!({}))?;
            out::lines(text.as_str().unwrap_or_default());
            Ok(())
        }
        Command::Qmp { guest, command } => {
            let answer = Guest::find(&guest)?.raw(&command)?;
            out::json(&answer)?;
            guest::returned(&answer).map(|_| ())
        }
        Command::Compat { arguments } => compat::run(&arguments, json),
        Command::CheckConfig { file } => check_config(&file, json),
        Command::Doctor => doctor::run(json),
        Command::Completions { shell } => {
            let shell = match shell {
                Shell::Bash => clap_complete::Shell::Bash,
                Shell::Zsh => clap_complete::Shell::Zsh,
                Shell::Fish => clap_complete::Shell::Fish,
            };
            clap_complete::generate(shell, &mut Arguments::command(), "bulkhead", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { directory } => clap_mangen::generate_to(Arguments::command(), &directory)
            .map_err(|source| Failure::File { path: directory, source }),
    }
}

/// Checks a settings file and prints its settings as arguments, or its fault.
fn check_config(file: &std::path::Path, json: bool) -> Done {
    let read = bulkhead_launcher::settings::read(file);
    if json {
        out::json(&json!({
            "file": file.display().to_string(),
            "arguments": read.as_ref().ok(),
            "error": read.as_ref().err().map(ToString::to_string),
        }))?;
    } else {
        match &read {
            Ok(arguments) if arguments.is_empty() => out::line(format_args!("{}: no settings", file.display())),
            Ok(arguments) => out::line(format_args!("{}: {}", file.display(), arguments.join(" "))),
            Err(e) => out::line(e),
        }
    }
    read.map(|_| ()).map_err(|_| Failure::Wrong)
}
