//! Input events between viewers and input devices.

/// An input event, in terms of evdev (linux/input-event-codes.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputEvent {
    /// A key: its evdev code, pressed or not.
    Key {
        /// The code, KEY_*.
        code: u16,
        /// Pressed, or released.
        down: bool,
    },
    /// A relative pointer movement, in counts of a mouse.
    Move {
        /// Counts to the right.
        dx: i32,
        /// Counts down.
        dy: i32,
        /// Steps of the wheel, positive towards the user.
        dz: i32,
    },
    /// An absolute pointer position.
    At {
        /// 0 left to 0x7fff right.
        x: u16,
        /// 0 top to 0x7fff bottom.
        y: u16,
    },
    /// A mouse button: 0 left, 1 right, 2 middle, 3 and 4 at the side.
    Button {
        /// The button's number.
        button: u8,
        /// Pressed, or released.
        down: bool,
    },
    /// No input: the viewers' process has started. It does not know yet which input the devices accept, nor the keyboard's LEDs.
    ViewersBegin,
}

impl InputEvent {
    /// Bytes of a record.
    pub const LEN: usize = 8;

    /// Encodes a record of the pipe. Movement is clamped to 16 bits.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let short = |v: i32| v.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16;
        let (kind, flag, [x, y, z]) = match self {
            Self::Key { code, down } => (1, down, [code.to_le_bytes(), [0; 2], [0; 2]]),
            Self::Move { dx, dy, dz } => (2, false, [dx, dy, dz].map(|v| short(v).to_le_bytes())),
            Self::Button { button, down } => (3, down, [[button, 0], [0; 2], [0; 2]]),
            Self::At { x, y } => (4, false, [x.to_le_bytes(), y.to_le_bytes(), [0; 2]]),
            Self::ViewersBegin => (5, false, [[0; 2]; 3]),
        };
        let ([x0, x1], [y0, y1], [z0, z1]) = (x, y, z);
        [kind, u8::from(flag), x0, x1, y0, y1, z0, z1]
    }

    /// Decodes a record. The sender may be hostile: `None` if the record is invalid.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Option<Self> {
        let [kind, flag, x0, x1, y0, y1, z0, z1] = bytes;
        let short = |low, high| i32::from(i16::from_le_bytes([low, high]));
        Some(match (kind, flag) {
            (1, 0 | 1) => Self::Key { code: u16::from_le_bytes([x0, x1]), down: flag == 1 },
            (2, 0) => Self::Move { dx: short(x0, x1), dy: short(y0, y1), dz: short(z0, z1) },
            (3, 0 | 1) => Self::Button { button: x0, down: flag == 1 },
            (4, 0) => {
                Self::At { x: u16::from_le_bytes([x0, x1]).min(0x7fff), y: u16::from_le_bytes([y0, y1]).min(0x7fff) }
            }
            (5, 0) => Self::ViewersBegin,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn input_records_come_back(kind in 0u8..4, code: u16, down: bool, x: i16, y: i16, z: i16) {
            let (dx, dy, dz) = (i32::from(x), i32::from(y), i32::from(z));
            let event = match kind {
                0 => InputEvent::Key { code, down },
                1 => InputEvent::Move { dx, dy, dz },
                2 => InputEvent::ViewersBegin,
                _ => InputEvent::Button { button: code as u8, down },
            };
            prop_assert_eq!(InputEvent::from_bytes(event.to_bytes()), Some(event));
        }

        #[test]
        fn any_record_is_an_event_or_none(bytes: [u8; 8]) {
            if let Some(event) = InputEvent::from_bytes(bytes) {
                prop_assert_eq!(InputEvent::from_bytes(event.to_bytes()), Some(event));
            }
        }
    }
}
