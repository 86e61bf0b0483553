//! `bulkhead`: the operator's command.
mod net;
mod ps;
mod qmp;

use std::process::ExitCode;

const USAGE: &str = "usage: bulkhead ps                     the processes of all guests, from /proc
       bulkhead qmp DOMID|SOCKET JSON     one QMP command; prints the answer
       bulkhead restart DOMID DEVICE      kills a device's process; it starts again with its state
       bulkhead inspect DOMID DEVICE      a device's registers and counters (or those of `broker`)
       bulkhead screenshot DOMID FILE     the guest's display, as a PNG
       bulkhead net show DOMID            its network cards: link, filter, what was dropped
       bulkhead net set DOMID NIC KEY=VALUE...
                                          link=up|down, level=off|guard|addresses, ip=ADDRESS (several),
                                          rate=FRAMES-A-SECOND, burst=FRAMES
       bulkhead trace net DOMID NIC FILE [SECONDS]
                                          a card's frames as pcap, until interrupted
       bulkhead events DOMID              what happens to its devices, until it is gone
       bulkhead logs DOMID                the last lines of its processes
       bulkhead ps DOMID                  its processes, as its launcher sees them, also in a stub domain";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let command = |name: &str, key: &str, value: &str| serde_json::json!({ "execute": name, "arguments": { key: value } }).to_string();
    let result = match words.as_slice() {
        ["ps"] => ps::print(),
        ["qmp", guest, text] => qmp::ask(guest, text),
        ["restart", guest, device] => qmp::ask(guest, &command("x-bulkhead-restart", "device", device)),
        ["inspect", guest, device] => qmp::ask(guest, &command("x-bulkhead-inspect", "device", device)),
        ["screenshot", guest, file] => qmp::screenshot(guest, file),
        ["logs", guest] => qmp::logs(guest),
        ["events", guest] => qmp::events(guest),
        ["ps", guest] => ps::remote(guest),
        ["net", "show", guest] => net::show(guest),
        ["net", "set", guest, device, words @ ..] if !words.is_empty() => net::set(guest, device, words),
        ["trace", "net", guest, device, file] => net::trace(guest, device, file, None),
        ["trace", "net", guest, device, file, seconds] if seconds.parse::<u64>().is_ok() => net::trace(guest, device, file, seconds.parse().ok()),
        ["--version"] => {
            println!("bulkhead {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        ["--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bulkhead: {e}");
            ExitCode::FAILURE
        }
    }
}
