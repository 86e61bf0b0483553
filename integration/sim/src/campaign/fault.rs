//! What may befall a machine: the list from which each fault is drawn.
use crate::dice::Dice;
use crate::outcome::Outcome;
use bulkhead_bus::faults::FaultOn;
use bulkhead_sim::Cue;

/// A process of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Platform,
    Ide,
    Vga,
    Ps2,
    Serial,
    Usb,
    E1000,
    Rtl8139,
    Vnc,
    Control,
    Broker,
    Launcher,
    Starter,
}

impl Part {
    /// Those that the guest sees.
    pub const DEVICES: [Self; 8] =
        [Self::Platform, Self::Ide, Self::Vga, Self::Ps2, Self::Serial, Self::Usb, Self::E1000, Self::Rtl8139];
    /// All that the launcher starts again.
    pub const RESTARTED: [Self; 10] = [
        Self::Platform,
        Self::Ide,
        Self::Vga,
        Self::Ps2,
        Self::Serial,
        Self::Usb,
        Self::E1000,
        Self::Rtl8139,
        Self::Vnc,
        Self::Control,
    ];
    /// All processes.
    pub const ALL: [Self; 13] = [
        Self::Platform,
        Self::Ide,
        Self::Vga,
        Self::Ps2,
        Self::Serial,
        Self::Usb,
        Self::E1000,
        Self::Rtl8139,
        Self::Vnc,
        Self::Control,
        Self::Broker,
        Self::Launcher,
        Self::Starter,
    ];
    /// Those without which the machine does not go on as it was: nothing more befalls it.
    pub const LAST: [Self; 3] = [Self::Broker, Self::Launcher, Self::Starter];

    /// The role, which is the process's argv\[0\].
    pub fn role(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Ide => "ide",
            Self::Vga => "vga",
            Self::Ps2 => "ps2",
            Self::Serial => "serial",
            Self::Usb => "usb",
            Self::E1000 => "e1000",
            Self::Rtl8139 => "rtl8139",
            Self::Vnc => "vnc",
            Self::Control => "control",
            Self::Broker => "broker",
            Self::Launcher => "bulkhead-dm",
            Self::Starter => "starter",
        }
    }

    /// The name of its slot, in the log and for QMP.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial0",
            Self::E1000 => "nic0",
            Self::Rtl8139 => "nic1",
            other => other.role(),
        }
    }
}

/// What a lying process writes into the area that the broker reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The sequence number of an answer.
    Sequence,
    /// How many posted writes it has handled.
    Posted,
    /// Which half of its state is the newer one.
    Half,
    /// The bytes of its state.
    State,
    /// The levels of its interrupts.
    Lines,
    /// Its configuration space.
    Config,
    /// Registers that the broker answers for it.
    Shadows,
    /// The version of the protocol.
    Header,
}

/// How a viewer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// It goes while a picture is sent to it.
    Leaves,
    /// It sends bytes that are no message.
    Nonsense,
    /// It says nothing.
    Silent,
}

/// One thing that befalls the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// SIGKILL.
    Kill(Part),
    /// SIGKILL, and again for the next processes, each in its start.
    KillAgain(Part, u32),
    /// SIGSTOP, and SIGCONT after so many milliseconds.
    Pause(Part, u64),
    /// SIGSTOP, and SIGCONT only if nobody has killed the process in 7 s.
    Freeze(Part),
    /// A request to the launcher that is not its to make.
    Forbidden(Part),
    /// Bytes to the launcher that are no request.
    NoRequest(Part),
    /// It closes its socket to the launcher.
    HangUp(Part),
    /// Nonsense in its shared memory; then it is restarted.
    Lie(Part, Lie),
    /// It is killed, and the next ones go wrong in their start.
    Start(Part, &'static [Cue]),
    /// Control restarts it.
    Restart(Part),
    /// A job of a disk fails with this error.
    Fails(u8, FaultOn, u32),
    /// A job of a disk takes so many milliseconds more.
    Slow(u8, FaultOn, u32),
    /// No job of a disk goes on for so many milliseconds.
    Held(u8, FaultOn, u64),
    /// The file system of the images is full for so many milliseconds.
    Full(u64),
    /// The raw image is cut at this byte, and has its size again after so many milliseconds.
    Truncated(u64, u64),
    /// The qcow2 image is cut at this byte, for good.
    TruncatedFormat(u64),
    /// The CD is taken away, and another one inserted if so.
    Medium(bool),
    /// A viewer goes wrong.
    Viewer(Break),
}

/// Error numbers of storage.
const ERRNOS: [u32; 3] = [5, 28, 121];
/// How starts go wrong that are replaced at once.
const DIES: [&[Cue]; 6] = [
    &[Cue::DiesAtOnce],
    &[Cue::DiesAtOnce, Cue::DiesAtOnce],
    &[Cue::DiesWithState],
    &[Cue::DiesAtOnce, Cue::DiesWithState],
    &[Cue::DiesWithState, Cue::DiesWithState],
    &[Cue::Unfiltered],
];
/// Those that stop.
const STOPS: [&[Cue]; 3] = [&[Cue::StopsAtOnce], &[Cue::StopsUnsandboxed], &[Cue::StopsUnattached]];

/// The rows of a process that the launcher starts again.
const ENDS: [Outcome; 7] = [
    Outcome::Ended,
    Outcome::DiedInStart,
    Outcome::StoppedInStart,
    Outcome::NotStarted,
    Outcome::ClosedSocket,
    Outcome::NotEnding,
    Outcome::NoAnswer,
];

impl Strike {
    /// One of the list, in the campaign's proportions.
    fn draw(dice: &mut Dice) -> Self {
        let jobs = [FaultOn::Read, FaultOn::Write, FaultOn::Flush];
        match dice.below(1000) {
            0..230 => Self::Kill(dice.pick(&Part::RESTARTED)),
            230..240 => Self::Kill(Part::Broker),
            240..246 => Self::Kill(Part::Launcher),
            246..250 => Self::Kill(Part::Starter),
            250..300 => Self::KillAgain(dice.pick(&Part::RESTARTED), 1 + dice.below(3) as u32),
            300..390 => Self::Pause(dice.pick(&Part::ALL), 1 + dice.below(300)),
            390..398 => Self::Freeze(dice.pick(&Part::ALL)),
            398..450 => Self::Forbidden(dice.pick(&Part::RESTARTED)),
            450..480 => Self::NoRequest(dice.pick(&Part::RESTARTED)),
            480..500 => Self::HangUp(dice.pick(&Part::RESTARTED)),
            500..560 => {
                let lies = [
                    Lie::Sequence,
                    Lie::Posted,
                    Lie::Half,
                    Lie::State,
                    Lie::Lines,
                    Lie::Config,
                    Lie::Shadows,
                    Lie::Header,
                ];
                Self::Lie(dice.pick(&Part::DEVICES), dice.pick(&lies))
            }
            560..610 => Self::Start(dice.pick(&Part::DEVICES), dice.pick(&DIES)),
            610..616 => Self::Start(dice.pick(&Part::DEVICES), dice.pick(&STOPS)),
            616..690 => Self::Restart(dice.pick(&Part::DEVICES)),
            690..760 => Self::Fails(dice.below(2) as u8, dice.pick(&jobs), dice.pick(&ERRNOS)),
            760..800 => Self::Slow(dice.below(2) as u8, dice.pick(&jobs), 1 + dice.below(300) as u32),
            800..830 => Self::Held(dice.below(2) as u8, dice.pick(&jobs), 1 + dice.below(400)),
            830..870 => Self::Full(1 + dice.below(200)),
            870..900 => Self::Truncated(dice.below(crate::disk::RAW_BYTES / 512) * 512, 1 + dice.below(100)),
            900..915 => Self::TruncatedFormat(dice.below(4 << 20)),
            915..960 => Self::Medium(dice.chance(70)),
            _ => Self::Viewer(dice.pick(&[Break::Leaves, Break::Nonsense, Break::Silent])),
        }
    }

    /// One that may befall a machine together with these.
    fn draw_beside(dice: &mut Dice, others: &[(u64, Self)]) -> Self {
        loop {
            let strike = Self::draw(dice);
            let alone = match strike {
                Self::Lie(..) | Self::TruncatedFormat(_) | Self::Freeze(_) | Self::Start(..) => true,
                Self::Kill(part) => Part::LAST.contains(&part),
                _ => false,
            };
            // Two changes of the same thing have no order.
            let same = |(_, other): &(u64, Self)| std::mem::discriminant(other) == std::mem::discriminant(&strike);
            if !alone && (strike.part().is_some() || !others.iter().any(same)) {
                return strike;
            }
        }
    }

    /// The process that it is aimed at.
    pub fn part(self) -> Option<Part> {
        match self {
            Self::Kill(p) | Self::KillAgain(p, _) | Self::Pause(p, _) | Self::Freeze(p) | Self::Forbidden(p) => Some(p),
            Self::NoRequest(p) | Self::HangUp(p) | Self::Lie(p, _) | Self::Start(p, _) | Self::Restart(p) => Some(p),
            Self::Fails(..) | Self::Slow(..) | Self::Held(..) | Self::Full(_) | Self::Truncated(..) => None,
            Self::TruncatedFormat(_) | Self::Medium(_) | Self::Viewer(_) => None,
        }
    }

    /// What it is called in the results.
    pub fn title(self) -> &'static str {
        match self {
            Self::Kill(Part::Control) => "control killed",
            Self::Kill(Part::Broker) => "the broker killed",
            Self::Kill(Part::Launcher) => "the launcher killed",
            Self::Kill(Part::Starter) => "the starter killed",
            Self::Kill(Part::Vnc) => "the viewer's process killed",
            Self::Kill(_) => "a device's process killed",
            Self::KillAgain(..) => "killed, and killed again in its start",
            Self::Pause(..) => "stopped for a moment",
            Self::Freeze(_) => "stopped for longer than the deadline",
            Self::Forbidden(_) => "lies: a forbidden request",
            Self::NoRequest(_) => "lies: bytes that are no request",
            Self::HangUp(_) => "closes its socket",
            Self::Lie(_, Lie::Sequence) => "lies: an impossible sequence number",
            Self::Lie(..) => "lies: nonsense in its shared memory",
            Self::Start(_, cues) if STOPS.contains(&cues) => "killed, and the next one stops in its start",
            Self::Start(..) => "killed, and the next ones die in their start",
            Self::Restart(_) => "restarted by control",
            Self::Fails(..) => "storage fails",
            Self::Slow(..) | Self::Held(..) => "storage is slow",
            Self::Full(_) => "full disk",
            Self::Truncated(..) | Self::TruncatedFormat(_) => "image truncated while it is used",
            Self::Medium(_) => "CD changed",
            Self::Viewer(_) => "a viewer goes wrong",
        }
    }

    /// The rows of the failure table that it may lead to.
    pub fn may(self) -> &'static [Outcome] {
        match self {
            Self::Kill(Part::Broker) => &[Outcome::Broker],
            Self::Kill(Part::Launcher) => &[Outcome::Launcher],
            Self::Kill(Part::Starter) => &[Outcome::Starter],
            Self::Pause(..) => &[Outcome::Late],
            // Only an access has a deadline.
            Self::Freeze(Part::Vnc | Part::Control | Part::Broker | Part::Launcher | Part::Starter) => &[Outcome::Late],
            Self::Freeze(_) => &[Outcome::NoAnswer],
            Self::Fails(..) | Self::Full(_) | Self::Truncated(..) | Self::TruncatedFormat(_) => {
                &[Outcome::StorageFailed]
            }
            Self::Slow(..) | Self::Held(..) => &[Outcome::StorageLate],
            Self::Medium(_) => &[Outcome::Medium],
            Self::Viewer(_) => &[Outcome::Viewer],
            _ if self.part() == Some(Part::Control) => &[Outcome::Control],
            // On a host that is busy a process may be late where it would have died.
            _ => &ENDS,
        }
    }

    /// The rest of the machine's life is not worth watching: the guest cannot know what the process has made of its devices.
    pub fn spoils(self) -> bool {
        matches!(self, Self::Lie(..) | Self::TruncatedFormat(_))
    }
}

/// A fault of the campaign: one strike, or several of which each may come before the others are over.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Each with the microseconds that it waits.
    pub strikes: Vec<(u64, Strike)>,
}

impl Fault {
    /// The fault `index` of the campaign `seed`.
    pub fn of(seed: u64, index: u64) -> Self {
        let mut dice = Dice::new(seed, index);
        let wait = |dice: &mut Dice| {
            let digits = dice.below(14);
            dice.below(1 << digits)
        };
        if dice.chance(2) {
            let all = Part::DEVICES.map(|part| (wait(&mut dice) & 0x1ff, Strike::Kill(part)));
            return Self { strikes: all.to_vec() };
        }
        let first = Strike::draw(&mut dice);
        let mut strikes = vec![(wait(&mut dice), first)];
        let alone = match first {
            Strike::Kill(part) => Part::LAST.contains(&part),
            Strike::Start(..) | Strike::Freeze(_) => true,
            _ => first.spoils(),
        };
        while !alone && strikes.len() < 3 && dice.chance(25) {
            strikes.push((wait(&mut dice), Strike::draw_beside(&mut dice, &strikes)));
        }
        Self { strikes }
    }

    /// What it is called in the results.
    pub fn title(&self) -> String {
        match self.strikes.as_slice() {
            [(_, only)] => only.title().to_owned(),
            [_, _] => "two at once".to_owned(),
            [_, _, _] => "three at once".to_owned(),
            _ => "all devices' processes killed".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_and_every_kind_in_a_campaign() {
        let titles = |seed| (0..10_000).map(|i| Fault::of(seed, i).title()).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(format!("{:?}", Fault::of(1, 7)), format!("{:?}", Fault::of(1, 7)));
        assert_ne!(format!("{:?}", Fault::of(1, 7)), format!("{:?}", Fault::of(2, 7)));
        let all = titles(1);
        assert_eq!(all.len(), 26, "{all:?}");
        assert_eq!(all, titles(2));
    }
}
