//! The outcomes that a failure may have: the rows of the failure table of docs/architecture.md.

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// A device's process was started again, or stays dead after five restarts in a minute.
    Ended,
    /// It died in its start.
    DiedInStart,
    /// It stopped in its start and was killed.
    StoppedInStart,
    /// It could not be started.
    NotStarted,
    /// It had closed its socket and was killed.
    ClosedSocket,
    /// The kernel did not end it.
    NotEnding,
    /// It was killed because it did not answer.
    NoAnswer,
    /// It was late, and nothing else has happened.
    Late,
    /// The guest was told of an error of the storage.
    StorageFailed,
    /// The drive was busy as long as its storage.
    StorageLate,
    /// The guest was told of another medium.
    Medium,
    /// A viewer's connection has ended.
    Viewer,
    /// Calls of back ends have failed, and nothing else.
    XenstoreSilent,
    /// `xenbus` was started again with another connection.
    XenstoreEnded,
    /// Control was started again.
    Control,
    /// The broker has ended, and with it the guest.
    Broker,
    /// The launcher has ended, and with it everything.
    Launcher,
    /// The starter has ended, and nothing is started again.
    Starter,
}

impl Outcome {
    /// All rows, in the table's order.
    pub const ALL: [Self; 18] = [
        Self::Ended,
        Self::DiedInStart,
        Self::StoppedInStart,
        Self::NotStarted,
        Self::ClosedSocket,
        Self::NotEnding,
        Self::NoAnswer,
        Self::Late,
        Self::StorageFailed,
        Self::StorageLate,
        Self::Medium,
        Self::Viewer,
        Self::XenstoreSilent,
        Self::XenstoreEnded,
        Self::Control,
        Self::Broker,
        Self::Launcher,
        Self::Starter,
    ];

    /// The failure, as the table's first column has it.
    pub fn failure(self) -> &'static str {
        match self {
            Self::Ended => "a device's process ends, or breaks a rule and is killed",
            Self::DiedInStart => "it dies before it runs",
            Self::StoppedInStart => {
                "it stops in its start: not set up, not in its sandbox, or not taken by the broker in 13 s each"
            }
            Self::NotStarted => "it cannot be started",
            Self::ClosedSocket => "it closes its socket and stays",
            Self::NotEnding => "it was killed and does not end, because the kernel waits for storage",
            Self::NoAnswer => "it does not answer an access in 5 s",
            Self::Late => "it is late by less, or no access waits for it",
            Self::StorageFailed => "its storage fails, is full, or its image is too short",
            Self::StorageLate => "its storage is slow",
            Self::Medium => "a CD is changed or taken away while the guest uses it",
            Self::Viewer => "a viewer ends, or breaks its protocol",
            Self::XenstoreSilent => "xenstored is silent",
            Self::XenstoreEnded => "xenstored ends",
            Self::Control => "control ends or stops in its start",
            Self::Broker => "the broker ends",
            Self::Launcher => "the launcher ends",
            Self::Starter => "the starter ends",
        }
    }

    /// The row with this failure.
    pub fn of(failure: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.failure() == failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcomes_of_faults_on_real_xen_are_rows_of_it_too() {
        let script = include_str!("../../../tests/bed/faults.sh");
        let named: Vec<_> = script.split("outcome \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(named.len() > 6, "{named:?}");
        for failure in named {
            assert!(failure == "$1" || Outcome::of(failure).is_some(), "{failure}");
        }
    }

    #[test]
    fn the_outcomes_are_the_rows_of_the_failure_table() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/architecture.md")).unwrap();
        let table = page.split("| failure | outcome |\n|---|---|\n").nth(1).unwrap();
        let rows: Vec<_> =
            table.lines().map_while(|l| l.strip_prefix("| ")).map(|l| l.split(" | ").next().unwrap()).collect();
        assert_eq!(rows, Outcome::ALL.map(Outcome::failure), "docs/architecture.md and Outcome");
    }
}
