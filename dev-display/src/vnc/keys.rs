//! Keys: the meaning of a viewer's keysym (X11/keysymdef.h), and a scancode's evdev code (linux/input-event-codes.h).

/// evdev codes of keys that are the same in all layouts.
pub(crate) mod code {
    pub(crate) const CTRL: u16 = 29;
    pub(crate) const SHIFT: u16 = 42;
    pub(crate) const SHIFT_RIGHT: u16 = 54;
    pub(crate) const ALT: u16 = 56;
    pub(crate) const CAPS_LOCK: u16 = 58;
    pub(crate) const NUM_LOCK: u16 = 69;
    pub(crate) const CTRL_RIGHT: u16 = 97;
    pub(crate) const ALT_GR: u16 = 100;
    pub(crate) const SUPER: u16 = 125;
    pub(crate) const SUPER_RIGHT: u16 = 126;
}

/// The effect of Caps Lock on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// None.
    Ignored,
    /// It swaps the plain and the Shift level.
    Inverts,
    /// It differs between guests, so Caps Lock must be off.
    Off,
    /// The character needs it.
    On,
}

/// The place of a character on the guest's keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) code: u16,
    /// Bit 0: Shift, bit 1: AltGr.
    pub(crate) level: u8,
    pub(crate) lock: Lock,
}

/// The keys that type a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    One(Place),
    /// A dead key, and the key that takes its accent.
    Two(Place, Place),
}

/// What a keysym means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A key, at any level.
    Key(u16),
    /// A key that needs one of these modifiers; the first is pressed if neither is held.
    With(u16, [u16; 2]),
    /// A digit or the decimal sign of the keypad.
    Digit(u16, char),
    /// A movement key of the keypad, and the key beside the keypad with the same function.
    Move(u16, u16),
    /// The keypad's 5 as the centre.
    Centre,
    /// The space bar, whose character does not depend on Shift.
    Space,
    /// A character; its key depends on the layout.
    Character(char),
    /// A dead accent, as its combining character.
    Dead(char),
}

/// Keysyms of characters beyond Latin-1 that the layouts have.
const LEGACY: [(u32, char); 34] = [
    (0x1a3, 'Ł'),
    (0x1b3, 'ł'),
    (0x1b7, 'ˇ'),
    (0x1f0, 'đ'),
    (0x2a1, 'Ħ'),
    (0x2b1, 'ħ'),
    (0x2b9, 'ı'),
    (0x3a2, 'ĸ'),
    (0x3ac, 'Ŧ'),
    (0x3bc, 'ŧ'),
    (0x3bd, 'Ŋ'),
    (0x3bf, 'ŋ'),
    (0x7d9, 'Ω'),
    (0x8fb, '←'),
    (0x8fc, '↑'),
    (0x8fd, '→'),
    (0x8fe, '↓'),
    (0xaa9, '—'),
    (0xaaa, '–'),
    (0xaae, '…'),
    (0xac3, '⅛'),
    (0xac4, '⅜'),
    (0xac5, '⅝'),
    (0xac6, '⅞'),
    (0xac9, '™'),
    (0xad0, '‘'),
    (0xad1, '’'),
    (0xad2, '“'),
    (0xad3, '”'),
    (0xae6, '•'),
    (0xafd, '‚'),
    (0xafe, '„'),
    (0x13bc, 'Œ'),
    (0x13bd, 'œ'),
];
/// Letters with a caron, from the same tables.
const CARONS: [(u32, char); 4] = [(0x1a9, 'Š'), (0x1ae, 'Ž'), (0x1b9, 'š'), (0x1be, 'ž')];

/// Dead accents, from keysym 0xfe50 on. A space: no layout has it.
const DEAD: [char; 25] = [
    '\u{300}', '\u{301}', '\u{302}', '\u{303}', '\u{304}', '\u{306}', '\u{307}', '\u{308}', '\u{30a}', '\u{30b}',
    '\u{30c}', '\u{327}', '\u{328}', ' ', ' ', ' ', '\u{323}', '\u{309}', '\u{31b}', ' ', ' ', ' ', ' ', ' ',
    '\u{331}',
];

/// Keys of Japanese and Korean keyboards, from keysym 0xff22 on. 0: none.
const ASIAN: [u16; 19] = [94, 92, 0, 91, 90, 93, 0, 0, 85, 0, 0, 0, 0, 0, 58, 122, 0, 0, 123];

/// Keysyms of multimedia keys (X11/XF86keysym.h).
const MEDIA: [(u32, u16); 22] = [
    (0x11, 114),
    (0x12, 113),
    (0x13, 115),
    (0x14, 164),
    (0x15, 166),
    (0x16, 165),
    (0x17, 163),
    (0x18, 172),
    (0x19, 155),
    (0x1b, 217),
    (0x1d, 140),
    (0x26, 158),
    (0x27, 159),
    (0x28, 128),
    (0x29, 173),
    (0x2a, 116),
    (0x2b, 143),
    (0x2f, 142),
    (0x30, 156),
    (0x32, 226),
    (0x33, 157),
    (0x31, 164),
];

/// The meaning of a keysym. `shift`: the viewer holds Shift.
pub(crate) fn meaning(keysym: u32, shift: bool) -> Option<Meaning> {
    use Meaning::{Centre, Character, Dead, Digit, Key, Move, Space, With};
    let nth = |first: u32, codes: &[u16]| codes.get(keysym.wrapping_sub(first) as usize).copied().filter(|c| *c != 0);
    let run = |first: u32, codes: &[u16]| nth(first, codes).map(Key);
    Some(match keysym {
        // The no-break space is typed with the space bar too.
        0x20 | 0xa0 => Space,
        0x21..=0x7e | 0xa1..=0xff => Character(char::from_u32(keysym)?),
        0x20ac => Character('€'),
        0x0100_0000..=0x0110_ffff => Character(char::from_u32(keysym & 0x1f_ffff)?),
        0xfe50..=0xfe68 => Dead(DEAD.get(keysym.wrapping_sub(0xfe50) as usize).copied().filter(|c| *c != ' ')?),
        0xfe03 | 0xff7e => Key(code::ALT_GR),
        // Shift and Tab.
        0xfe20 => With(15, [code::SHIFT, code::SHIFT_RIGHT]),
        0xff08 => Key(14),
        0xff09 => Key(15),
        0xff0d => Key(28),
        0xff13 => Key(119),
        0xff14 => Key(70),
        // Alt and Print; Ctrl and Pause.
        0xff15 => With(99, [code::ALT, code::ALT_GR]),
        0xff6b => With(119, [code::CTRL, code::CTRL_RIGHT]),
        0xff1b => Key(1),
        0xff22..=0xff34 => return run(0xff22, &ASIAN),
        0xff50..=0xff57 => return run(0xff50, &[102, 105, 103, 106, 108, 104, 109, 107]),
        0xff61 => Key(99),
        0xff63 => Key(110),
        0xff65..=0xff6a => return run(0xff65, &[131, 129, 127, 136, 128, 138]),
        0xff7f => Key(code::NUM_LOCK),
        // The keypad's space, tabulator, Enter, F1 to F4.
        0xff80 => Key(57),
        0xff89 => Key(15),
        0xff8d => Key(96),
        0xff91..=0xff94 => return run(0xff91, &[59, 60, 61, 62]),
        0xff9d => Centre,
        0xff95..=0xff9f => Move(
            nth(0xff95, &[71, 75, 72, 77, 80, 73, 81, 79, 0, 82, 83])?,
            nth(0xff95, &[102, 105, 103, 106, 108, 104, 109, 107, 0, 110, 111])?,
        ),
        0xffac => Digit(83, ','),
        0xffae => Digit(83, '.'),
        0xffaa..=0xffaf => return run(0xffaa, &[55, 78, 0, 74, 0, 98]),
        0xffb0..=0xffb9 => {
            Digit(nth(0xffb0, &[82, 79, 80, 81, 75, 76, 77, 71, 72, 73])?, char::from_u32(keysym.wrapping_sub(0xff80))?)
        }
        0xffbd => Key(117),
        0xffbe..=0xffc9 => return run(0xffbe, &[59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 87, 88]),
        0xffca..=0xffd5 => Key(183u16.saturating_add(keysym.wrapping_sub(0xffca) as u16)),
        // X11's viewers send Meta for Alt with Shift.
        0xffe7 if shift => Key(code::ALT),
        0xffe8 if shift => Key(code::ALT_GR),
        0xffe1..=0xffee => return run(0xffe1, &[42, 54, 29, 97, 58, 58, 125, 126, 56, 100, 125, 126, 125, 126]),
        0xffff => Key(111),
        0x1008_ff00..=0x1008_ffff => Key(MEDIA.iter().find(|(k, _)| *k == keysym & 0xff)?.1),
        _ => Character(LEGACY.iter().chain(&CARONS).find(|(k, _)| *k == keysym)?.1),
    })
}

/// The key of a scancode of set 1, with 0x80 for the prefix 0xe0 (rfbproto, "QEMU Extended Key Event Message"). Keys without a code
/// of set 1 have the numbers that viewers give them (keycodemapdb, column "XT KBD").
pub(crate) fn scancode(code: u32) -> Option<u16> {
    Some(match code {
        0x01..=0x53 | 0x56..=0x58 => code as u16,
        0x54 => 99,
        0x55 => 186,
        0x59 => 117,
        0x5a => 190,
        0x5c => 95,
        0x5d..=0x5f => (code as u16).wrapping_sub(0x5d).wrapping_add(183),
        0x6d => 193,
        0x6f => 194,
        0x70 => 93,
        // Korean keyboards: Hanja and Hangul, which older viewers number 0x8d.
        0x71 | 0x8d => 123,
        0x72 => 122,
        0x73 => 89,
        0x74 => 191,
        0x76 => 85,
        0x77 => 91,
        0x78 => 90,
        0x79 => 92,
        0x7b => 94,
        0x7d => 124,
        0x7e => 121,
        0x83 => 187,
        0x84 => 189,
        0x90 => 165,
        0x99 => 163,
        0x9c => 96,
        0x9d => 97,
        0xa0 => 113,
        0xa1 => 140,
        0xa2 => 164,
        0xa4 => 166,
        0xae => 114,
        0xb0 => 115,
        0xb2 => 172,
        0xb5 => 98,
        0xb7 => 99,
        0xb8 => 100,
        0xc6 => 119,
        0xc7..=0xc9 => (code as u16).wrapping_sub(0xc7).wrapping_add(102),
        0xcb => 105,
        0xcd => 106,
        0xcf..=0xd3 => (code as u16).wrapping_sub(0xcf).wrapping_add(107),
        0xdb..=0xdd => (code as u16).wrapping_sub(0xdb).wrapping_add(125),
        0xde => 116,
        0xdf => 142,
        0xe3 => 143,
        0xe5 => 217,
        0xe6 => 156,
        0xe7 => 173,
        0xe8 => 128,
        0xe9 => 159,
        0xea => 158,
        0xeb => 157,
        0xec => 155,
        0xed => 226,
        0xf7 => 188,
        0xf9 => 192,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keysyms_and_scancodes_of_keys_without_characters() {
        let want = [
            (0xff0d, 28),
            (0xff52, 103),
            (0xff57, 107),
            (0xffc9, 88),
            (0xffca, 183),
            (0xffe4, 97),
            (0xffff, 111),
            (0xffaf, 98),
            (0xff22, 94),
            (0xff23, 92),
            (0xff25, 91),
            (0xff26, 90),
            (0xff27, 93),
            (0xff2a, 85),
            (0xff31, 122),
            (0xff34, 123),
            (0xffbd, 117),
            (0x1008_ff11, 114),
            (0x1008_ff12, 113),
            (0x1008_ff13, 115),
        ];
        for (keysym, code) in want {
            assert_eq!(meaning(keysym, false), Some(Meaning::Key(code)), "{keysym:#x}");
        }
        assert_eq!(meaning(0xffb7, false), Some(Meaning::Digit(71, '7')));
        assert_eq!(meaning(0xff9f, false), Some(Meaning::Move(83, 111)));
        assert_eq!((meaning(0xffe7, true), meaning(0xffe7, false)), (Some(Meaning::Key(56)), Some(Meaning::Key(125))));
        assert_eq!((meaning(0, false), meaning(0xffff_ffff, false)), (None, None));
        assert_eq!(
            [0x1e, 0xb8, 0xc8, 0xd0, 0xd3, 0xdb, 0xc6, 0x9c, 0x54, 0, 0xff].map(scancode),
            [
                Some(30),
                Some(100),
                Some(103),
                Some(108),
                Some(111),
                Some(125),
                Some(119),
                Some(96),
                Some(99),
                None,
                None
            ]
        );
    }

    /// A viewer can press all keys of the guest's keyboards (evdev 1 to 127, except keys of other machines).
    #[test]
    fn keys_that_no_scancode_reaches() {
        let reached: std::collections::BTreeSet<u16> = (0..=0xff).filter_map(scancode).collect();
        let foreign = [84, 101, 112, 118, 120];
        let missing: Vec<u16> = (1..=127).filter(|c| !reached.contains(c) && !foreign.contains(c)).collect();
        assert_eq!(missing, [] as [u16; 0]);
    }
}
