//! What the test bed's suite runs in dom0 and a shell cannot do. Prints lines that the suite reads.
//!
//!     bulkhead-bed breakout DOMID     attempts on Xen's interfaces of a hostile program in the place of each role
//!     bulkhead-bed consume WORD...    what a hostile program in the place of each role can take of this domain (consume/mod.rs)
//!     bulkhead-bed processes PID      looks at every process of the machine whose launcher is PID
//!     bulkhead-bed hold PID...        stops the control threads of these processes until standard input ends
//!     bulkhead-bed limits             what dm_restrict's limits do to memfds and namespaces (docs/decisions/0005)
//!     bulkhead-bed crash DOMID        ends a domain as if it had crashed
//!     bulkhead-bed native-tsc DOMID   this domain reads the processor's own time stamp counter
//!     bulkhead-bed terminal COMMAND...    runs it on a terminal of its own, with standard input and output as its other end
//!     bulkhead-bed line SOCKET        standard input and output are the other end of a Unix socket
//!     bulkhead-bed commands           in a stub domain: runs what dom0 writes to its data/bulkhead-debug/command
//!     bulkhead-bed same-picture PNG PPM   whether two pictures have the same pixels
//!     bulkhead-bed vnc ADDRESS WORD...    sees and touches a guest by VNC (vnc.rs)
//!     bulkhead-bed spoof, spoof-fd, watch, flood, tcp      frames that a guest may not send (frames.rs)
//!     bulkhead-bed ports PORT COUNT           in a guest: times reads of a port, prints their median and the longest
//!     bulkhead-bed outw PORT VALUE            in a guest: writes 16 bits to a port
//!     bulkhead-bed kexec KERNEL INITRD WORDS [crash]   in a guest: goes on with another kernel, or loads it for a crash and crashes
//!     bulkhead-bed input NAME|NAME...     in a guest: the device file of the first input device with one of these in its name
//!     bulkhead-bed events FILE        in a guest: what the events that were read from an input device come to
//!     bulkhead-bed json WORD...       values of the JSON on standard input, a line each: KEY or NUMBER (a member), * (every
//!     member),
//!                                     KEY=VALUE, KEY=START* (the members whose KEY is so), =VALUE, !=VALUE (only such), nonzero
//!     bulkhead-bed same FILE AT FILE AT BYTES     whether a stretch of one file is in the other (numbers may end in k, M, G)
//!     bulkhead-bed put FILE AT TEXT [WIDTH]   writes a text into a file, with spaces up to WIDTH; put-word FILE AT NUMBER: 32 bits
//!     bulkhead-bed records FILE AT STEP LAST NAME     whether `record N of NAME` is there for every N up to LAST
//!     bulkhead-bed after FILE WORD    what follows WORD on the last line that has it
//!     bulkhead-bed hex FILE AT COUNT  bytes of a file
//!     bulkhead-bed ran, waits, switches, pss, thread-waits PID...     what processes have cost; between FILE FILE: two of the last
//!     (costs.rs)
//!     bulkhead-bed moment MILLISECONDS    passes a part of them that nobody knows before
//!     bulkhead-bed tree PID [ROLE]    the processes of the machine whose launcher is PID; holders PID FILE: those that have it
//!     open;
//!                                     owned PID USER GROUP: whether all are this user's, without a capability
//!     bulkhead-bed qmp-noise SOCKET   lines of which half are mutations of valid ones; after each block a valid one answers
mod consume;
mod costs;
mod domains;
mod files;
mod frames;
mod guest;
mod json;
mod limits;
mod picture;
mod processes;
mod qmp;
mod stubdom;
mod terminal;
mod vnc;

fn main() {
    if std::process::id() == 1 {
        eprintln!("bulkhead-bed: {}", stubdom::init());
        return;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<i32> = arguments.iter().skip(1).filter_map(|a| a.parse().ok()).collect();
    let done = match (arguments.first().map(String::as_str), numbers.as_slice()) {
        (Some("breakout"), [domid]) => domains::breakout(u16::try_from(*domid).unwrap_or(0)),
        (Some("processes"), [launcher]) => processes::processes(*launcher),
        (Some("hold"), [_, ..]) => processes::hold(&numbers),
        (Some("limits"), []) => limits::limits(),
        (Some("crash"), [domid]) => domains::crash(u16::try_from(*domid).unwrap_or(0)),
        (Some("native-tsc"), [domid]) => domains::native_tsc(u16::try_from(*domid).unwrap_or(0)),
        (Some("commands"), []) => stubdom::commands(),
        (Some("same-picture"), []) => picture::same_picture(
            arguments.get(1).map_or("", String::as_str),
            arguments.get(2).map_or("", String::as_str),
        ),
        (Some("line"), _) if arguments.len() == 2 => terminal::line(&arguments[1]),
        (Some("terminal"), _) => terminal::terminal(arguments.get(1..).unwrap_or_default()),
        (Some("spoof"), _) if arguments.len() == 4 => frames::spoof(&arguments[1], &arguments[2], &arguments[3]),
        (Some("spoof-fd"), [pid, ..]) if arguments.len() == 4 => frames::spoof_fd(*pid, &arguments[2], &arguments[3]),
        (Some("watch"), []) if arguments.len() == 2 => frames::watch(&arguments[1]),
        (Some("tcp"), _) if arguments.len() >= 4 => {
            let bytes = arguments.get(4).and_then(|n| n.parse().ok()).filter(|_| arguments[3] == "send");
            frames::tcp(&arguments[1], &arguments[2], bytes, arguments.last().is_some_and(|w| w == "checked"))
        }
        (Some("flood"), [seconds]) if arguments.len() == 3 => {
            frames::flood(&arguments[1], u64::try_from(*seconds).unwrap_or(0))
        }
        (Some("ports"), [port, count]) => guest::ports(*port, *count),
        (Some("outw"), [port, value]) => guest::outw(*port, *value),
        (Some("consume"), _) => consume::consume(arguments.get(1..).unwrap_or_default()),
        (Some("vnc"), _) => vnc::run(arguments.get(1..).unwrap_or_default()),
        (Some("qmp-noise"), []) => qmp::qmp_noise(arguments.get(1).map_or("", String::as_str)),
        (Some("json"), _) => json::json(arguments.get(1..).unwrap_or_default()),
        (Some(word), _) => with_words(word, arguments.get(1..).unwrap_or_default()),
        (None, _) => Err("which command? (see the top of main.rs)".into()),
    };
    if let Err(e) = done {
        eprintln!("bulkhead-bed: {e}");
        std::process::exit(1);
    }
}

/// Commands whose arguments are words.
fn with_words(command: &str, words: &[String]) -> Done {
    match (command, words) {
        ("input", [names]) => guest::input(names),
        ("kexec", [kernel, initrd, words]) => guest::kexec(kernel, initrd, words, false),
        ("kexec", [kernel, initrd, words, crash]) if crash == "crash" => guest::kexec(kernel, initrd, words, true),
        ("events", [file]) => guest::events(file),
        ("same", [one, from, other, at, length]) => files::same(one, from, other, at, length),
        ("put", [file, at, text, width @ ..]) if width.len() < 2 => files::put(file, at, text, width.first()),
        ("put-word", [file, at, value]) => files::put_word(file, at, value),
        ("records", [file, at, step, last, name]) => files::records(file, at, step, last, name),
        ("moment", [most]) => files::moment(most),
        ("after", [file, word]) => files::after(file, word),
        ("tree", [launcher, role @ ..]) if role.len() < 2 => processes::tree(launcher.parse()?, role.first()),
        ("holders", [launcher, file]) => processes::holders(launcher.parse()?, file),
        ("hex", [file, at, count]) => files::hex(file, at, count),
        ("ran", pids) => costs::ran(pids),
        ("waits", pids) => costs::waits(pids),
        ("switches", pids) => costs::switches(pids),
        ("pss", pids) => costs::pss(pids),
        ("thread-waits", pids) => costs::thread_waits(pids),
        ("between", [before, after]) => costs::between(before, after),
        ("owned", [launcher, user, group]) => processes::owned(launcher.parse()?, user.parse()?, group.parse()?),
        _ => Err(format!("no command {command} with {} such words (see the top of main.rs)", words.len()).into()),
    }
}

type Done = Result<(), Box<dyn std::error::Error>>;
