//! A device's presence in the guest, which the guest and the toolstack change. It is independent of the device's process
//! (`DeviceChannel::live`): a device stays present while its process restarts.

/// A device's presence in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Present from power-on.
    BuiltIn,
    /// The guest has unplugged parts of it, such as some of a controller's disks; the rest is present.
    PartlyUnplugged,
    /// The guest is unplugging all of it. Its addresses stay decoded until the devices have confirmed the unplug.
    Unplugging,
    /// The guest has unplugged all of it. It stays absent.
    Unplugged,
    /// An absent hot-plug device: it has not been added yet, or the guest has ejected it.
    Absent,
    /// A present hot-plug device.
    Plugged,
}

/// A change of a device's presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The guest unplugs parts of it.
    UnplugParts,
    /// The guest unplugs all of it.
    UnplugAll,
    /// All devices of the unplug have confirmed it.
    Confirmed,
    /// Its process has been attached.
    Arrive,
    /// The guest ejects it.
    Eject,
}

impl Presence {
    /// The presence at power-on.
    pub(crate) fn at_power_on(hot_plug: bool) -> Self {
        if hot_plug { Self::Absent } else { Self::BuiltIn }
    }

    /// Whether the guest can find its functions and access its registers.
    #[inline]
    pub(crate) fn decoded(self) -> bool {
        !matches!(self, Self::Unplugged | Self::Absent)
    }

    /// Whether the guest has unplugged it or parts of it.
    pub(crate) fn unplugged(self) -> bool {
        matches!(self, Self::PartlyUnplugged | Self::Unplugging | Self::Unplugged)
    }

    /// The table of transitions. `None`: this change has no effect in this state.
    fn after(self, change: Change) -> Option<Self> {
        Some(match (self, change) {
            (Self::BuiltIn, Change::UnplugParts) => Self::PartlyUnplugged,
            (Self::BuiltIn, Change::UnplugAll) => Self::Unplugging,
            (Self::Unplugging, Change::Confirmed) => Self::Unplugged,
            (Self::Absent, Change::Arrive) => Self::Plugged,
            (Self::Plugged, Change::Eject) => Self::Absent,
            _ => return None,
        })
    }

    /// Makes a transition. False: there is none.
    pub(crate) fn change(&mut self, change: Change) -> bool {
        let new = self.after(change);
        *self = new.unwrap_or(*self);
        new.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Presence};

    #[test]
    fn every_state_knows_what_each_change_makes_of_it() {
        use Change::{Arrive, Confirmed, Eject, UnplugAll, UnplugParts};
        use Presence::{Absent, BuiltIn, PartlyUnplugged, Plugged, Unplugged, Unplugging};
        let changes = [UnplugParts, UnplugAll, Confirmed, Arrive, Eject];
        #[rustfmt::skip]
        let table = [
            (BuiltIn,         [Some(PartlyUnplugged), Some(Unplugging), None,            None,          None]),
            (PartlyUnplugged, [None,                  None,             None,            None,          None]),
            (Unplugging,      [None,                  None,             Some(Unplugged), None,          None]),
            (Unplugged,       [None,                  None,             None,            None,          None]),
            (Absent,          [None,                  None,             None,            Some(Plugged), None]),
            (Plugged,         [None,                  None,             None,            None,          Some(Absent)]),
        ];
        for (before, row) in table {
            for (change, after) in changes.into_iter().zip(row) {
                let mut presence = before;
                assert_eq!(presence.change(change), after.is_some(), "{before:?}, {change:?}");
                assert_eq!(presence, after.unwrap_or(before), "{before:?}, {change:?}");
            }
        }
    }

    #[test]
    fn the_guest_finds_devices_that_are_neither_absent_nor_wholly_unplugged() {
        assert_eq!([Presence::at_power_on(false), Presence::at_power_on(true)], [Presence::BuiltIn, Presence::Absent]);
        for (presence, decoded, unplugged) in [
            (Presence::BuiltIn, true, false),
            (Presence::PartlyUnplugged, true, true),
            (Presence::Unplugging, true, true),
            (Presence::Unplugged, false, true),
            (Presence::Absent, false, false),
            (Presence::Plugged, true, false),
        ] {
            assert_eq!((presence.decoded(), presence.unplugged()), (decoded, unplugged), "{presence:?}");
        }
    }
}
