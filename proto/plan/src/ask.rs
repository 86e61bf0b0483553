//! A process's requests to the launcher: 80 bytes with a fixed offset for each field.
use super::{DriveId, Slot};
#[cfg(doc)]
use bulkhead_bus::nic::NicSettings;

/// Why the broker regards a device as dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Death {
    /// It did not answer in time.
    Deadline = 1,
    /// It broke the protocol.
    Protocol = 2,
}

/// The reason for the machine's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// Control has been asked to quit; the processes end without a shutdown reason for Xen.
    Quit = 0,
    /// The guest has powered itself off.
    PowerOff = 1,
    /// The guest requests a reboot.
    Reboot = 2,
}

/// A process's request to the launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A device and control: the process's areas are mapped and sealed.
    Sealed,
    /// The broker: its own areas (its own slot), or those of the channel of the device in `slot`, are mapped and sealed.
    ChannelSealed {
        /// The device, or the broker.
        slot: Slot,
    },
    /// The process has entered its sandbox.
    Ready,
    /// The broker: the channel of the device in `slot` is dead.
    ChannelDead {
        /// The device whose channel is given up.
        slot: Slot,
        /// Why it is dead.
        death: Death,
    },
    /// The broker: the guest has moved video RAM to this guest frame.
    VramAt {
        /// Guest frame number.
        gfn: u64,
    },
    /// Control: kill and restart a device.
    Restart {
        /// The device to restart.
        slot: Slot,
    },
    /// Control: end the machine.
    Stop {
        /// The reason that Xen is given.
        ending: Ending,
    },
    /// Control: give the descriptor of this message to a process; the answer is a token.
    GiveFd {
        /// The process that receives the descriptor.
        slot: Slot,
    },
    /// Control: make a file in the dump directory and give it to a process; the answer is a token.
    Dump {
        /// The process that receives the file.
        slot: Slot,
        /// The file's name, padded with zeroes.
        name: [u8; 64],
    },
    /// The broker: the channel of the device in `slot` is in use.
    Attached {
        /// The device that the broker serves now.
        slot: Slot,
    },
    /// Control: the process table.
    Processes,
    /// Control: a drive gets the medium of this message's descriptor, or none; the answer is the token by which its process knows
    /// the medium.
    Medium {
        /// The slot of the controller.
        slot: Slot,
        /// The drive's place on the controller.
        drive: DriveId,
    },
    /// Control, in a stub domain: lists the CDs, with descriptors for those that appeared after a disk.
    Disks {
        /// The kernel's number of that disk.
        known: u64,
    },
    /// Control: applies these settings to a network card, its interface, and later starts of its process.
    Nic {
        /// The slot of the network card.
        slot: Slot,
        /// [`NicSettings::to_bytes`].
        settings: [u8; 64],
    },
    /// Control: counts the frames that the rules on a network card's interface have dropped.
    Dropped {
        /// The slot of the network card.
        slot: Slot,
    },
    /// The broker: the guest has unplugged a device; its process ends now and is not started again.
    Unplugged {
        /// The device that the guest has unplugged.
        slot: Slot,
    },
    /// The broker: the guest has unplugged a part of a device; a restarted process does not have it either.
    PartUnplugged {
        /// The device whose parts the guest has unplugged.
        slot: Slot,
        /// Bits of the unplug protocol, not 0.
        mask: u16,
    },
    /// Control: adds a device that the plan has reserved; answered when the broker has attached it.
    Plug {
        /// The device.
        slot: Slot,
    },
    /// `xenbus` and `grant`: a back end has made more calls than it may. Its process is killed.
    Overrun {
        /// The back end's number in the sender.
        caller: u8,
    },
    /// Control: `stop` or `cont` has come. Processes that are started from now on know it from their plan.
    Paused {
        /// The machine stands still.
        paused: bool,
    },
    /// Control: the locks of the images that the guest writes are held, or given to who goes on with the guest elsewhere. They are held at
    /// first.
    Locks {
        /// They are held.
        held: bool,
    },
    /// The broker: the guest has ejected a device; its process ends now. It may be added again.
    Ejected {
        /// The device.
        slot: Slot,
    },
}

/// A message from a process.
///
/// | bytes | what |
/// |---|---|
/// | 0 | code of the request |
/// | 1 | slot, or how the machine ends |
/// | 2, 3 | 0 |
/// | 4–7 | number that the answer carries |
/// | 8–15 | the request's number: a frame, a disk, a drive, a mask, a reason, a back end |
/// | 16–79 | a name or settings |
///
/// Bytes that a request does not use are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromProcess {
    /// Number that the answer repeats; 0 if the request has no answer.
    pub serial: u32,
    /// The request.
    pub ask: Ask,
}

impl From<Ask> for FromProcess {
    fn from(ask: Ask) -> Self {
        Self { serial: 0, ask }
    }
}

impl FromProcess {
    /// Bytes of the message.
    pub const LEN: usize = 80;

    /// Encodes it.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        const NAMELESS: [u8; 64] = [0; 64];
        let (code, slot, number, name): (u8, u8, u64, [u8; 64]) = match self.ask {
            Ask::Sealed => (1, 0, 0, NAMELESS),
            Ask::Ready => (2, 0, 0, NAMELESS),
            Ask::ChannelDead { slot, death } => (3, slot, death as u64, NAMELESS),
            Ask::VramAt { gfn } => (4, 0, gfn, NAMELESS),
            Ask::Restart { slot } => (5, slot, 0, NAMELESS),
            Ask::Stop { ending } => (6, ending as u8, 0, NAMELESS),
            Ask::GiveFd { slot } => (7, slot, 0, NAMELESS),
            Ask::Dump { slot, name } => (8, slot, 0, name),
            Ask::Attached { slot } => (9, slot, 0, NAMELESS),
            Ask::Processes => (10, 0, 0, NAMELESS),
            Ask::Medium { slot, drive: DriveId { controller, port } } => {
                (11, slot, u64::from(controller) << 8 | u64::from(port), NAMELESS)
            }
            Ask::Disks { known } => (12, 0, known, NAMELESS),
            Ask::Nic { slot, settings } => (13, slot, 0, settings),
            Ask::Dropped { slot } => (14, slot, 0, NAMELESS),
            Ask::Unplugged { slot } => (15, slot, 0, NAMELESS),
            Ask::Plug { slot } => (16, slot, 0, NAMELESS),
            Ask::Ejected { slot } => (17, slot, 0, NAMELESS),
            Ask::PartUnplugged { slot, mask } => (18, slot, u64::from(mask), NAMELESS),
            Ask::ChannelSealed { slot } => (19, slot, 0, NAMELESS),
            Ask::Overrun { caller } => (20, 0, u64::from(caller), NAMELESS),
            Ask::Paused { paused } => (21, 0, u64::from(paused), NAMELESS),
            Ask::Locks { held } => (22, 0, u64::from(held), NAMELESS),
        };
        let mut bytes = [0; Self::LEN];
        let head = [code, slot, 0, 0].into_iter().chain(self.serial.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(head.chain(number.to_le_bytes()).chain(name)) {
            *to = from;
        }
        bytes
    }

    /// Decodes it. The sender may be hostile: `None` if it is not exactly such a message.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&[code, slot, _, _, s0, s1, s2, s3], rest) = bytes.split_first_chunk::<8>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let number = u64::from_le_bytes(*number);
        let name: [u8; 64] = rest.try_into().ok()?;
        let ask = match code {
            1 => Ask::Sealed,
            2 => Ask::Ready,
            3 => Ask::ChannelDead {
                slot,
                death: match number {
                    1 => Death::Deadline,
                    2 => Death::Protocol,
                    _ => return None,
                },
            },
            4 => Ask::VramAt { gfn: number },
            5 => Ask::Restart { slot },
            6 => Ask::Stop {
                ending: match slot {
                    0 => Ending::Quit,
                    1 => Ending::PowerOff,
                    2 => Ending::Reboot,
                    _ => return None,
                },
            },
            7 => Ask::GiveFd { slot },
            8 => Ask::Dump { slot, name },
            9 => Ask::Attached { slot },
            10 => Ask::Processes,
            11 => {
                let [controller, port] = u16::try_from(number).ok()?.to_be_bytes();
                Ask::Medium { slot, drive: DriveId { controller, port } }
            }
            12 => Ask::Disks { known: number },
            13 => Ask::Nic { slot, settings: name },
            14 => Ask::Dropped { slot },
            15 => Ask::Unplugged { slot },
            16 => Ask::Plug { slot },
            17 => Ask::Ejected { slot },
            18 => Ask::PartUnplugged { slot, mask: u16::try_from(number).ok().filter(|mask| *mask != 0)? },
            19 => Ask::ChannelSealed { slot },
            20 => Ask::Overrun { caller: u8::try_from(number).ok()? },
            21 => Ask::Paused { paused: number == 1 },
            22 => Ask::Locks { held: number == 1 },
            _ => return None,
        };
        let message = Self { serial: u32::from_le_bytes([s0, s1, s2, s3]), ask };
        // Only the canonical encoding is accepted: unused bytes are 0.
        (message.to_bytes() == bytes).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn only_whole_messages_are_accepted(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(message) = FromProcess::from_bytes(&bytes) {
                prop_assert_eq!(bytes.len(), FromProcess::LEN);
                prop_assert_eq!(&message.to_bytes()[..], &bytes[..]);
            }
        }

        /// Sparse messages, as processes send them: most of these are accepted.
        #[test]
        fn an_accepted_message_has_one_encoding(
            code in 0u8..24, slot: u8, serial: u32, number in prop_oneof![Just(0u64), 0u64..4, any::<u64>()], named: bool, byte: u8,
            at in 0usize..80, flip in prop_oneof![Just(0u8), any::<u8>()],
        ) {
            let mut bytes = [0; FromProcess::LEN];
            bytes[0] = code;
            bytes[1] = slot;
            bytes[4..8].copy_from_slice(&serial.to_le_bytes());
            bytes[8..16].copy_from_slice(&number.to_le_bytes());
            if named {
                bytes[16..].fill(byte);
            }
            bytes[at] ^= flip;
            if let Some(message) = FromProcess::from_bytes(&bytes) {
                prop_assert_eq!(message.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn every_request_comes_back_and_nothing_may_be_where_it_has_nothing() {
        let name = [7; 64];
        let asks = [
            Ask::Sealed,
            Ask::ChannelSealed { slot: 3 },
            Ask::Paused { paused: true },
            Ask::Paused { paused: false },
            Ask::Locks { held: true },
            Ask::Locks { held: false },
            Ask::Ready,
            Ask::ChannelDead { slot: 3, death: Death::Protocol },
            Ask::VramAt { gfn: 1 << 40 },
            Ask::Restart { slot: 3 },
            Ask::Stop { ending: Ending::Reboot },
            Ask::GiveFd { slot: 3 },
            Ask::Dump { slot: 3, name },
            Ask::Attached { slot: 3 },
            Ask::Processes,
            Ask::Medium { slot: 3, drive: DriveId { controller: 1, port: 2 } },
            Ask::Disks { known: u64::MAX },
            Ask::Nic { slot: 3, settings: name },
            Ask::Dropped { slot: 3 },
            Ask::Unplugged { slot: 3 },
            Ask::PartUnplugged { slot: 3, mask: 1 },
            Ask::Plug { slot: 3 },
            Ask::Ejected { slot: 3 },
            Ask::Overrun { caller: 3 },
        ];
        for ask in asks {
            let message = FromProcess { serial: 9, ask };
            let bytes = message.to_bytes();
            assert_eq!(FromProcess::from_bytes(&bytes), Some(message));
            assert_eq!(FromProcess::from_bytes(&bytes[..79]), None);
            for at in [2, 3] {
                let mut wrong = bytes;
                wrong[at] = 1;
                assert_eq!(FromProcess::from_bytes(&wrong), None, "{ask:?}");
            }
        }
    }
}
