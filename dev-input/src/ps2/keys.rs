//! Scan codes (IBM PS/2 Hardware Interface Technical Reference, Keyboard, "Scan Codes"; for the keys of Brazil, Japan and Korea and
//! for multimedia keys Microsoft's Keyboard Scan Code Specification). Keys are named by their evdev codes
//! (linux/input-event-codes.h).
use super::spec::TRANSLATION;
use bitfield_struct::bitfield;

const LEFT_CONTROL: u16 = 29;
const LEFT_SHIFT: u16 = 42;
const RIGHT_SHIFT: u16 = 54;
const LEFT_ALT: u16 = 56;
const RIGHT_CONTROL: u16 = 97;
const KEYPAD_SLASH: u16 = 98;
const PRINT: u16 = 99;
const RIGHT_ALT: u16 = 100;
const PAUSE: u16 = 119;

/// evdev codes up to 127 that no PS/2 keyboard has: KEY_RESERVED, the unassigned 84, KEY_LINEFEED, KEY_SCALE.
#[cfg(test)]
pub(crate) const NOWHERE: &[u16] = &[0, 84, 101, 120];

/// A key's code in set 1. Its code in set 2 is the one that the controller translates to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// One byte in sets 1 and 2.
    Plain(u8),
    /// A byte after the prefix 0xe0.
    Extended(u8),
    /// A byte, the same in all sets, for the press; the release has no code, and the key does not repeat.
    Once(u8),
    /// Pause: the press sends the codes of press and release.
    Pause,
}

/// evdev code → set 1, which evdev follows up to 88.
pub(crate) fn code(key: u16) -> Option<Code> {
    use Code::{Extended, Once, Pause, Plain};
    Some(match key {
        1..=83 | 86..=88 => Plain(key as u8),
        // Zenkaku/Hankaku (Lang 5), Ro (International 1), Katakana (Lang 3), Hiragana (Lang 4).
        85 => Plain(0x76),
        89 => Plain(0x73),
        90 => Plain(0x78),
        91 => Plain(0x77),
        // Henkan, Katakana/Hiragana, Muhenkan, keypad Japanese comma (International 4, 2, 5, 6).
        92 => Plain(0x79),
        93 => Plain(0x70),
        94 => Plain(0x7b),
        95 => Plain(0x5c),
        96 => Extended(0x1c),
        RIGHT_CONTROL => Extended(0x1d),
        KEYPAD_SLASH => Extended(0x35),
        PRINT => Extended(0x37),
        RIGHT_ALT => Extended(0x38),
        102 => Extended(0x47),
        103 => Extended(0x48),
        104 => Extended(0x49),
        105 => Extended(0x4b),
        106 => Extended(0x4d),
        107 => Extended(0x4f),
        108 => Extended(0x50),
        109 => Extended(0x51),
        110 => Extended(0x52),
        111 => Extended(0x53),
        // Macro; Mute, Volume Down, Volume Up; Power.
        112 => Extended(0x6f),
        113 => Extended(0x20),
        114 => Extended(0x2e),
        115 => Extended(0x30),
        116 => Extended(0x5e),
        // Keypad = and ±.
        117 => Plain(0x59),
        118 => Extended(0x4e),
        PAUSE => Pause,
        // Brazil's keypad point.
        121 => Plain(0x7e),
        // Hangul (Lang 1), Hanja (Lang 2).
        122 => Once(0xf2),
        123 => Once(0xf1),
        // Yen (International 3).
        124 => Plain(0x7d),
        125 => Extended(0x5b),
        126 => Extended(0x5c),
        127 => Extended(0x5d),
        // Stop, Calculator, Sleep, Wake.
        128 => Extended(0x68),
        140 => Extended(0x21),
        142 => Extended(0x5f),
        143 => Extended(0x63),
        // Mail, Favourites, Computer, Back, Forward.
        155 => Extended(0x6c),
        156 => Extended(0x66),
        157 => Extended(0x6b),
        158 => Extended(0x6a),
        159 => Extended(0x69),
        // Next, Play, Previous, Stop; Home, Refresh, Search, Media.
        163 => Extended(0x19),
        164 => Extended(0x22),
        165 => Extended(0x10),
        166 => Extended(0x24),
        172 => Extended(0x32),
        173 => Extended(0x67),
        217 => Extended(0x65),
        226 => Extended(0x6d),
        _ => return None,
    })
}

/// The set 2 code that the controller translates to this set 1 code.
pub(crate) fn set2(set1: u8) -> u8 {
    match set1 {
        // The set 2 codes of F7 and SysRq are beyond the table.
        0x41 => 0x83,
        0x54 => 0x84,
        _ => TRANSLATION.iter().position(|c| *c == set1).unwrap_or(0) as u8,
    }
}

/// evdev code → scan code set 3, for keys whose code differs from set 2's.
const SET3: &[(u16, u8)] = &[
    (1, 0x08),
    (59, 0x07),
    (60, 0x0f),
    (61, 0x17),
    (62, 0x1f),
    (63, 0x27),
    (64, 0x2f),
    (65, 0x37),
    (66, 0x3f),
    (67, 0x47),
    (68, 0x4f),
    (87, 0x56),
    (88, 0x5e),
    (29, 0x11),
    (56, 0x19),
    (58, 0x14),
    (43, 0x5c),
    (86, 0x13),
    (69, 0x76),
    (70, 0x5f),
    (99, 0x57),
    (119, 0x62),
    (100, 0x39),
    (97, 0x58),
    (110, 0x67),
    (111, 0x64),
    (102, 0x6e),
    (107, 0x65),
    (104, 0x6f),
    (109, 0x6d),
    (105, 0x61),
    (103, 0x63),
    (108, 0x60),
    (106, 0x6a),
    (98, 0x77),
    (55, 0x7e),
    (74, 0x84),
    (78, 0x7c),
    (96, 0x79),
    (125, 0x8b),
    (126, 0x8c),
    (127, 0x8d),
    (92, 0x86),
    (93, 0x87),
    (94, 0x85),
    (124, 0x5d),
    (121, 0x7b),
    (112, 0x8e),
    (113, 0x9c),
    (114, 0x9d),
    (115, 0x95),
    (128, 0x0a),
    (140, 0x99),
    (163, 0x93),
    (165, 0x94),
    (166, 0x98),
    (172, 0x97),
];

/// Keys with codes in sets 1 and 2 and none in set 3, where their set 2 codes belong to other keys.
const NOT_IN_SET_3: &[u16] = &[85, 90, 91, 95, 117];

/// Codes of set 3 that report their release and do not repeat after power-on: the shifts, left Control and Alt, Caps Lock.
pub(crate) const RELEASED: &[u8] = &[0x11, 0x12, 0x14, 0x19, 0x59];

/// Codes of set 3 that neither report their release nor repeat after power-on. All others repeat.
pub(crate) const MADE_ONLY: &[u8] = &[
    0x07, 0x08, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x39, 0x3f, 0x47, 0x4f, 0x56, 0x57, 0x58, 0x5e, 0x5f, 0x62, 0x65,
    0x67, 0x69, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f, 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x79, 0x7a, 0x7d, 0x7e,
    0x84, 0x8b, 0x8c, 0x8d,
];

/// evdev code → scan code set 3: one byte for each key, without prefixes.
pub(crate) fn set3(key: u16) -> Option<u8> {
    if NOT_IN_SET_3.contains(&key) {
        return None;
    }
    let other = SET3.iter().find(|(evdev, _)| *evdev == key).map(|(_, set3)| *set3);
    other.or_else(|| match code(key)? {
        Code::Plain(set1) => Some(set2(set1)),
        Code::Once(byte) => Some(byte),
        Code::Extended(_) | Code::Pause => None,
    })
}

/// The modifiers that are down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Modifiers {
    left_shift: bool,
    right_shift: bool,
    control: bool,
    alt: bool,
}

impl Modifiers {
    /// The modifiers among the keys that are down.
    pub(crate) fn of(down: impl Iterator<Item = u16>) -> Self {
        let mut m = Self::default();
        for key in down {
            match key {
                LEFT_SHIFT => m.left_shift = true,
                RIGHT_SHIFT => m.right_shift = true,
                LEFT_CONTROL | RIGHT_CONTROL => m.control = true,
                LEFT_ALT | RIGHT_ALT => m.alt = true,
                _ => {}
            }
        }
        m
    }

    fn shift(self) -> bool {
        self.left_shift || self.right_shift
    }
}

/// The form that modifiers gave to a key of sets 1 and 2 at its press. Its release has the same form, even if the modifiers have
/// changed.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct Form {
    /// A press of left Shift precedes it, and a release follows (with 0xe0: programs that ignore 0xe0 take the key for the
    /// keypad's).
    pub(crate) shift_made: bool,
    /// A release of left Shift precedes it, and a press follows.
    pub(crate) left_broken: bool,
    /// The same with right Shift.
    pub(crate) right_broken: bool,
    /// Print is sent as SysRq.
    pub(crate) sysrq: bool,
    #[bits(4)]
    __: u8,
}

/// A key's form by the modifiers and Num Lock's LED ("Scan Codes", the tables of keys whose codes depend on others).
pub(crate) fn form(key: u16, m: Modifiers, num_lock: bool) -> Form {
    let broken = Form::new().with_left_broken(m.left_shift).with_right_broken(m.right_shift);
    match key {
        PRINT if m.alt => Form::new().with_sysrq(true),
        PRINT => Form::new().with_shift_made(!m.control && !m.shift()),
        KEYPAD_SLASH => broken,
        // Insert, Delete, Home, End, Page Up, Page Down and the arrows beside the keypad. With Num Lock and Shift they are plain.
        102..=111 if m.shift() && !num_lock => broken,
        102..=111 => Form::new().with_shift_made(num_lock && !m.shift()),
        _ => Form::new(),
    }
}

/// Set 1's codes of SysRq, of the Shift keys with 0xe0, and of Break.
const SYSRQ: u8 = 0x54;
const SHIFTS: (u8, u8) = (0x2a, 0x36);
const BREAK: u8 = 0x46;

/// A key's bytes under construction.
struct Bytes {
    set: u8,
    all: Vec<u8>,
}

impl Bytes {
    fn one(&mut self, extended: bool, set1: u8, down: bool) {
        if extended {
            self.all.push(0xe0);
        }
        if self.set == 1 {
            self.all.push(if down { set1 } else { set1 | 0x80 });
        } else {
            if !down {
                self.all.push(0xf0);
            }
            self.all.push(set2(set1));
        }
    }
}

/// The bytes in set 1 or 2 of a key's press in this form, or of its repetition if `again`.
pub(crate) fn make(key: u16, set: u8, form: Form, m: Modifiers, again: bool) -> Vec<u8> {
    let mut bytes = Bytes { set, all: Vec::with_capacity(8) };
    match code(key) {
        Some(Code::Plain(code)) => bytes.one(false, code, true),
        Some(Code::Extended(_)) if form.sysrq() => bytes.one(false, SYSRQ, true),
        Some(Code::Extended(code)) => {
            // Only the key itself repeats.
            if form.left_broken() && !again {
                bytes.one(true, SHIFTS.0, false);
            }
            if form.right_broken() && !again {
                bytes.one(true, SHIFTS.1, false);
            }
            if form.shift_made() && !again {
                bytes.one(true, SHIFTS.0, true);
            }
            bytes.one(true, code, true);
        }
        Some(Code::Once(byte)) if !again => bytes.all.push(byte),
        Some(Code::Pause) if m.control && !again => {
            bytes.one(true, BREAK, true);
            bytes.one(true, BREAK, false);
        }
        Some(Code::Pause) if !again && set == 1 => bytes.all.extend([0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]),
        Some(Code::Pause) if !again => bytes.all.extend([0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]),
        _ => {}
    }
    bytes.all
}

/// The bytes in set 1 or 2 of a key's release.
pub(crate) fn release(key: u16, set: u8, form: Form, m: Modifiers) -> Vec<u8> {
    let mut bytes = Bytes { set, all: Vec::with_capacity(8) };
    match code(key) {
        Some(Code::Plain(code)) => bytes.one(false, code, false),
        Some(Code::Extended(_)) if form.sysrq() => bytes.one(false, SYSRQ, false),
        Some(Code::Extended(code)) => {
            bytes.one(true, code, false);
            if form.shift_made() {
                bytes.one(true, SHIFTS.0, false);
            }
            // A Shift that was released in between is not pressed again: for a program that ignores 0xe0 it would stay down.
            if form.right_broken() && m.right_shift {
                bytes.one(true, SHIFTS.1, true);
            }
            if form.left_broken() && m.left_shift {
                bytes.one(true, SHIFTS.0, true);
            }
        }
        Some(Code::Once(_) | Code::Pause) | None => {}
    }
    bytes.all
}
