//! Phase of a slot's process: which may follow which, and how long one may last.

/// Ticks of a tenth of a second that a process may spend in one phase of its start. So long that lateness alone never uses up the
/// restarts of a minute: storage that stalls, however long, must not leave a disk dead when it is back.
pub(crate) const START_TICKS: u32 = 130;

/// Phase of a slot's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It is not started yet: it waits for a hand-off or a hot-plug.
    Waiting,
    /// It runs outside of its sandbox; its areas are not sealed yet.
    Starting,
    /// It has all its areas, reads its predecessor's state and enters its sandbox.
    Entering,
    /// It is in its sandbox; the broker does not use its channel yet.
    Attaching,
    /// It serves its device.
    Running,
    /// It has died and is not restarted.
    Dead,
    /// The device is unplugged, ejected or removed: the process is ending and is not restarted.
    Unplugged,
}

/// What a process did not do in its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Late {
    /// It, or the broker, did not map and seal the memory that they share. Control has none: it was not in its sandbox.
    #[error("was not set up in {} s", START_TICKS / 10)]
    Areas,
    /// It did not report that it is in its sandbox.
    #[error("was not in its sandbox in {} s", START_TICKS / 10)]
    Sandbox,
    /// The broker did not take its channel into use.
    #[error("the broker did not take its channel in {} s", START_TICKS / 10)]
    Channel,
}

impl Phase {
    /// All phases.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 7] =
        [Self::Waiting, Self::Starting, Self::Entering, Self::Attaching, Self::Running, Self::Dead, Self::Unplugged];

    /// Whether `next` may follow. A step that is not in the table comes from a process that repeats a message, or would put a
    /// device in two places.
    pub(crate) fn may_become(self, next: Self) -> bool {
        use Phase::{Attaching, Dead, Entering, Running, Starting, Unplugged, Waiting};
        match (self, next) {
            // The hand-off has happened. Back: a slot is made in `Starting` and then told to wait.
            (Waiting, Starting) | (Starting, Waiting) => true,
            // Control has no channel, so it does not enter by way of sealed areas.
            (Starting, Entering | Running) => true,
            // The broker, control and added back ends do not attach to a broker.
            (Entering, Attaching | Running) | (Attaching, Running) => true,
            // A process may exit in each phase; then it is restarted, stays dead, or was unplugged.
            (Starting | Entering | Attaching | Running, Starting | Dead | Unplugged) => true,
            // A guest may unplug a dead device, and a disk may be removed before its start.
            (Dead | Waiting, Unplugged) => true,
            // A hot-pluggable device may be added again.
            (Unplugged, Unplugged | Waiting) => true,
            _ => false,
        }
    }

    /// What a process that stays in this phase for [`START_TICKS`] has failed to do; `None`: it may stay for ever.
    pub(crate) fn late(self) -> Option<Late> {
        match self {
            Self::Starting => Some(Late::Areas),
            Self::Entering => Some(Late::Sandbox),
            Self::Attaching => Some(Late::Channel),
            Self::Waiting | Self::Running | Self::Dead | Self::Unplugged => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other_as_the_table_says() {
        use Phase::{Attaching, Dead, Entering, Running, Starting, Unplugged, Waiting};
        let mut allowed = vec![(Waiting, Starting), (Starting, Waiting), (Starting, Entering), (Starting, Running)];
        allowed.extend([(Entering, Attaching), (Entering, Running), (Attaching, Running)]);
        for alive in [Starting, Entering, Attaching, Running] {
            allowed.extend([(alive, Starting), (alive, Dead), (alive, Unplugged)]);
        }
        allowed.extend([(Dead, Unplugged), (Waiting, Unplugged), (Unplugged, Unplugged), (Unplugged, Waiting)]);
        for from in Phase::ALL {
            for to in Phase::ALL {
                assert_eq!(from.may_become(to), allowed.contains(&(from, to)), "{from:?} to {to:?}");
            }
        }
    }
}
