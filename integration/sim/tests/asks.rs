//! Requests of a process that lies. A real process in its sandbox has the socket; the test sends through a copy of it, so the launcher
//! hears exactly what that process could say.
use bulkhead_plan::{Ask, BROKER, CONTROL, Death, DriveId, Ending, FIRST_DEVICE, FromProcess};
use bulkhead_sim::{Options, Sim};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Who has sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Device,
    Broker,
    Control,
}

/// Who may send this request while the machine runs. What each process says once, at its start, nobody may say again.
fn may(ask: Ask) -> &'static [Sender] {
    match ask {
        Ask::Ready => &[],
        // Control has no area: its `Sealed` says nothing.
        Ask::Sealed => &[Sender::Control],
        Ask::ChannelSealed { slot } if slot < FIRST_DEVICE => &[],
        Ask::ChannelSealed { .. }
        | Ask::ChannelDead { .. }
        | Ask::VramAt { .. }
        | Ask::Attached { .. }
        | Ask::Unplugged { .. }
        | Ask::PartUnplugged { .. }
        | Ask::Ejected { .. } => &[Sender::Broker],
        // Of `xenbus` and `grant` alone, which the simulated machine does not have.
        Ask::Overrun { .. } => &[],
        // In a stub domain alone.
        Ask::Disks { .. } => &[],
        Ask::Restart { .. }
        | Ask::Stop { .. }
        | Ask::GiveFd { .. }
        | Ask::Dump { .. }
        | Ask::Processes
        | Ask::Paused { .. }
        | Ask::Locks { .. }
        | Ask::Medium { .. }
        | Ask::Nic { .. }
        | Ask::Dropped { .. }
        | Ask::Plug { .. } => &[Sender::Control],
    }
}

/// Every request, about `slot`.
fn every(slot: u8) -> Vec<Ask> {
    let mut all = vec![
        Ask::Sealed,
        Ask::ChannelSealed { slot },
        Ask::ChannelSealed { slot: BROKER },
        Ask::ChannelSealed { slot: CONTROL },
        Ask::Ready,
        Ask::ChannelDead { slot, death: Death::Deadline },
        Ask::ChannelDead { slot, death: Death::Protocol },
        Ask::VramAt { gfn: 0 },
        Ask::Restart { slot },
        Ask::GiveFd { slot },
        Ask::Dump { slot, name: [b'x'; 64] },
        Ask::Attached { slot },
        Ask::Processes,
        Ask::Paused { paused: true },
        Ask::Locks { held: true },
        Ask::Medium { slot, drive: DriveId { controller: 0, port: 0 } },
        Ask::Disks { known: 0 },
        Ask::Nic { slot, settings: [0; 64] },
        Ask::Dropped { slot },
        Ask::Unplugged { slot },
        Ask::PartUnplugged { slot, mask: 1 },
        Ask::Plug { slot },
        Ask::Ejected { slot },
        Ask::Overrun { caller: 0 },
    ];
    all.extend([Ending::Quit, Ending::PowerOff, Ending::Reboot].map(|ending| Ask::Stop { ending }));
    all
}

/// The requests that this sender may not make.
fn forbidden(sender: Sender) -> Vec<Ask> {
    every(FIRST_DEVICE).into_iter().filter(|ask| !may(*ask).contains(&sender)).collect()
}

/// Waits for a condition; its own text is the failure's.
fn await_that(what: &str, sim: &Sim, mut holds: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < end, "{what}:\n{}", sim.log());
        std::thread::yield_now();
    }
}

/// A copy of the socket on which this process talks to the launcher.
fn socket_of(pid: i32) -> OwnedFd {
    let process = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(&process, 3, PidfdGetfdFlags::empty()).unwrap()
}

fn send(socket: &OwnedFd, ask: Ask) {
    rustix::io::write(socket, &FromProcess::from(ask).to_bytes()).unwrap();
}

/// Sends the request as the process of this role and name, and waits until the launcher has killed it for that.
fn dies_of(sim: &Sim, role: &str, name: &str, ask: Ask) {
    let pid = sim.process(role).unwrap();
    send(&socket_of(pid), ask);
    let killed = format!("{name} (pid {pid}): asked for what it may not");
    await_that(&format!("{ask:?} is answered"), sim, || sim.log().contains(&killed));
    let what = format!("{ask:?}");
    let word = what.split(' ').next().unwrap();
    assert!(sim.log().contains(&format!("{name}: asked for {word}, which it may not")), "{}", sim.log());
}

/// Whether control and the process of this device answer.
fn answers(sim: &Sim, device: &str) -> bool {
    let command = format!(r#"{{"execute":"x-bulkhead-inspect","arguments":{{"device":"{device}"}}}}"#);
    sim.qmp(&command).is_ok_and(|reply| reply.get("return").is_some())
}

/// Role and name of the machine's devices.
const DEVICES: [(&str, &str); 6] =
    [("platform", "platform"), ("ide", "ide"), ("vga", "vga"), ("ps2", "ps2"), ("serial", "serial0"), ("usb", "usb")];

fn machine() -> Sim {
    let arguments = ["-machine", "xenfv", "-m", "16", "-device", "VGA,vgamem_mb=16", "-serial", "null", "-usb"];
    Sim::start(&Options::new(&arguments)).unwrap()
}

/// Every request of the table, from each kind of device in turn: that process dies, starts again, and nobody else notices.
#[test]
fn a_forbidden_request_of_a_device_kills_it_and_nothing_else() {
    let mut sim = machine();
    let asks = forbidden(Sender::Device);
    assert_eq!(asks.len(), every(FIRST_DEVICE).len(), "a device that runs may ask for nothing");
    for ((role, name), ask) in DEVICES.into_iter().cycle().zip(asks) {
        let before = sim.processes();
        let pid = sim.process(role).unwrap();
        dies_of(&sim, role, name, ask);
        await_that("it does not come back", &sim, || sim.process(role).is_some_and(|new| new != pid));
        await_that("it does not answer", &sim, || answers(&sim, name));
        let after = sim.processes();
        for (other, pid) in before.iter().filter(|(other, _)| other != role) {
            assert!(after.contains(&(other.clone(), *pid)), "{ask:?} of {name} has ended {other}");
        }
        assert_eq!(sim.config_read(1, 0, 0, 4).unwrap(), 0x7000_8086);
    }
    assert!(sim.end().unwrap().success());
}

/// Bytes that are no request at all, as many as a socket takes.
#[test]
fn what_is_no_request_kills_the_device_that_has_sent_it() {
    let mut sim = machine();
    let good = FromProcess::from(Ask::Processes).to_bytes();
    let mut wrong = good;
    wrong[0] = 99;
    for ((role, name), bytes) in
        DEVICES.into_iter().zip([&good[..79], &[&good[..], &[0]].concat(), &[0; 200], &wrong, b"x"])
    {
        let pid = sim.process(role).unwrap();
        rustix::io::write(socket_of(pid), bytes).unwrap();
        sim.await_log(&format!("{name} (pid {pid}): sent what is no request")).unwrap();
        await_that("it does not come back", &sim, || answers(&sim, name));
    }
    assert!(sim.end().unwrap().success());
}

#[test]
fn a_forbidden_request_of_control_kills_it_and_the_guest_goes_on() {
    // It is started again five times in a minute.
    for asks in forbidden(Sender::Control).chunks(5) {
        let mut sim = machine();
        for ask in asks {
            let before = sim.processes();
            let pid = sim.process("control").unwrap();
            dies_of(&sim, "control", "control", *ask);
            await_that("it does not come back", &sim, || sim.process("control").is_some_and(|new| new != pid));
            await_that("it does not answer", &sim, || answers(&sim, "ps2"));
            let after = sim.processes();
            assert!(before.iter().filter(|p| p.0 != "control").all(|p| after.contains(p)), "{ask:?}: {after:?}");
            assert_eq!(sim.port_read(0x64, 1).unwrap() & 4, 4);
        }
        assert!(sim.end().unwrap().success());
    }
}

/// Without the broker there is no machine: the guest ends, and with it all processes.
#[test]
fn a_forbidden_request_of_the_broker_ends_the_machine() {
    for ask in forbidden(Sender::Broker) {
        let mut sim = machine();
        let all = sim.processes();
        dies_of(&sim, "broker", "broker", ask);
        sim.await_log("the broker is dead").unwrap();
        assert!(!sim.end().unwrap().success());
        for (name, pid) in all {
            assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{ask:?}: {name} is left");
        }
    }
}

/// The broker may name any slot in a request that it may make. Neither control, nor itself, nor a slot that is empty comes to harm.
#[test]
fn what_the_broker_may_ask_for_it_may_ask_for_of_devices_alone() {
    let mut sim = machine();
    let (before, socket) = (sim.processes(), socket_of(sim.process("broker").unwrap()));
    for slot in [CONTROL, BROKER, 63, 255] {
        for ask in every(slot).into_iter().filter(|ask| may(*ask).contains(&Sender::Broker)) {
            send(&socket, ask);
        }
    }
    // The launcher has read all of them when it has carried out this one.
    send(&socket, Ask::ChannelDead { slot: FIRST_DEVICE, death: Death::Protocol });
    sim.await_log("broke the protocol").unwrap();
    let after = sim.processes();
    let lost: Vec<_> = before.iter().filter(|p| !after.contains(p)).collect();
    assert_eq!(lost.len(), 1, "{lost:?}:\n{}", sim.log());
    assert_eq!(sim.port_read(0x64, 1).unwrap() & 4, 4);
    assert!(sim.end().unwrap().success());
}

/// Control may ask for the table of processes. One that does so without a pause does not keep the launcher from its other work.
#[test]
fn a_control_that_asks_without_end_keeps_no_device_from_its_restart() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
    let mut sim = machine();
    let control = sim.process("control").unwrap();
    // It stands still, so that all answers are the test's to read: who does not read them is killed.
    rustix::process::kill_process(Pid::from_raw(control).unwrap(), rustix::process::Signal::STOP).unwrap();
    let (socket, over, answers) = (socket_of(control), AtomicBool::new(false), AtomicU64::new(0));
    let ask = FromProcess { serial: 7, ask: Ask::Processes }.to_bytes();
    std::thread::scope(|scope| {
        use rustix::net::{RecvFlags, SendFlags, recv, send};
        scope.spawn(|| {
            while !over.load(Relaxed) {
                // As many as the socket takes.
                while !over.load(Relaxed) && send(&socket, &ask, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok() {}
                std::thread::yield_now();
            }
        });
        scope.spawn(|| {
            let mut answer = vec![0; 1 << 16];
            while !over.load(Relaxed) {
                match recv(&socket, answer.as_mut_slice(), RecvFlags::DONTWAIT) {
                    Ok((1.., _)) => _ = answers.fetch_add(1, Relaxed),
                    _ => std::thread::yield_now(),
                }
            }
        });
        let goes_on = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            await_that("it has no answers", &sim, || answers.load(Relaxed) > 100);
            for _ in 0..3 {
                let (pid, before) = (sim.process("ps2").unwrap(), answers.load(Relaxed));
                rustix::process::kill_process(Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
                await_that("it does not come back", &sim, || sim.process("ps2").is_some_and(|new| new != pid));
                await_that("its requests have an end", &sim, || answers.load(Relaxed) > before);
            }
        }));
        over.store(true, Relaxed);
        if let Err(failed) = goes_on {
            std::panic::resume_unwind(failed);
        }
    });
    assert_eq!(sim.process("control"), Some(control), "{}", sim.log());
    rustix::process::kill_process(Pid::from_raw(control).unwrap(), rustix::process::Signal::CONT).unwrap();
    assert!(sim.end().unwrap().success());
}
