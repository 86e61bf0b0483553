//! QMP's names of keys (qapi/ui.json, QKeyCode) → evdev codes (linux/input-event-codes.h).

/// QMP's names with the evdev codes.
const KEYS: &[(&str, u16)] = &[
    ("esc", 1),
    ("1", 2),
    ("2", 3),
    ("3", 4),
    ("4", 5),
    ("5", 6),
    ("6", 7),
    ("7", 8),
    ("8", 9),
    ("9", 10),
    ("0", 11),
    ("minus", 12),
    ("equal", 13),
    ("backspace", 14),
    ("tab", 15),
    ("q", 16),
    ("w", 17),
    ("e", 18),
    ("r", 19),
    ("t", 20),
    ("y", 21),
    ("u", 22),
    ("i", 23),
    ("o", 24),
    ("p", 25),
    ("bracket_left", 26),
    ("bracket_right", 27),
    ("ret", 28),
    ("ctrl", 29),
    ("a", 30),
    ("s", 31),
    ("d", 32),
    ("f", 33),
    ("g", 34),
    ("h", 35),
    ("j", 36),
    ("k", 37),
    ("l", 38),
    ("semicolon", 39),
    ("apostrophe", 40),
    ("grave_accent", 41),
    ("shift", 42),
    ("backslash", 43),
    ("z", 44),
    ("x", 45),
    ("c", 46),
    ("v", 47),
    ("b", 48),
    ("n", 49),
    ("m", 50),
    ("comma", 51),
    ("dot", 52),
    ("slash", 53),
    ("shift_r", 54),
    ("asterisk", 55),
    ("kp_multiply", 55),
    ("alt", 56),
    ("spc", 57),
    ("caps_lock", 58),
    ("f1", 59),
    ("f2", 60),
    ("f3", 61),
    ("f4", 62),
    ("f5", 63),
    ("f6", 64),
    ("f7", 65),
    ("f8", 66),
    ("f9", 67),
    ("f10", 68),
    ("num_lock", 69),
    ("scroll_lock", 70),
    ("kp_7", 71),
    ("kp_8", 72),
    ("kp_9", 73),
    ("kp_subtract", 74),
    ("kp_4", 75),
    ("kp_5", 76),
    ("kp_6", 77),
    ("kp_add", 78),
    ("kp_1", 79),
    ("kp_2", 80),
    ("kp_3", 81),
    ("kp_0", 82),
    ("kp_decimal", 83),
    ("less", 86),
    ("f11", 87),
    ("f12", 88),
    ("ro", 89),
    ("hiragana", 91),
    ("henkan", 92),
    ("katakanahiragana", 93),
    ("muhenkan", 94),
    ("kp_enter", 96),
    ("ctrl_r", 97),
    ("kp_divide", 98),
    ("print", 99),
    ("sysrq", 99),
    ("alt_r", 100),
    ("lf", 101),
    ("home", 102),
    ("up", 103),
    ("pgup", 104),
    ("left", 105),
    ("right", 106),
    ("end", 107),
    ("down", 108),
    ("pgdn", 109),
    ("insert", 110),
    ("delete", 111),
    ("audiomute", 113),
    ("volumedown", 114),
    ("volumeup", 115),
    ("power", 116),
    ("kp_equals", 117),
    ("pause", 119),
    ("kp_comma", 121),
    ("lang1", 122),
    ("lang2", 123),
    ("yen", 124),
    ("meta_l", 125),
    ("meta_r", 126),
    ("menu", 127),
    ("compose", 127),
    ("sleep", 142),
    ("wake", 143),
    ("stop", 128),
    ("again", 129),
    ("props", 130),
    ("undo", 131),
    ("front", 132),
    ("copy", 133),
    ("open", 134),
    ("paste", 135),
    ("find", 136),
    ("cut", 137),
    ("help", 138),
    ("calculator", 140),
    ("mail", 155),
    ("ac_bookmarks", 156),
    ("computer", 157),
    ("ac_back", 158),
    ("ac_forward", 159),
    ("audionext", 163),
    ("audioplay", 164),
    ("audioprev", 165),
    ("audiostop", 166),
    ("mediaselect", 226),
    ("ac_home", 172),
    ("ac_refresh", 173),
    ("f13", 183),
    ("f14", 184),
    ("f15", 185),
    ("f16", 186),
    ("f17", 187),
    ("f18", 188),
    ("f19", 189),
    ("f20", 190),
    ("f21", 191),
    ("f22", 192),
    ("f23", 193),
    ("f24", 194),
];

/// The evdev code of QMP's name of a key.
pub(crate) fn evdev(name: &str) -> Option<u16> {
    KEYS.iter().find(|(n, _)| *n == name).map(|(_, code)| *code)
}

/// The evdev code of QEMU's "number" of a key: its code in scan code set 1, plus 0x80 for the prefix 0xe0.
fn scancode(number: u64) -> Option<u16> {
    let number = u16::try_from(number).ok()?;
    let run = |first: u16, codes: &[u16]| codes.get(usize::from(number.wrapping_sub(first))).copied();
    match number {
        // Up to F12, set 1 without prefix equals evdev's codes; 0x54 is Print with Alt.
        0x01..=0x53 | 0x56..=0x58 => Some(number),
        0x54 => Some(99),
        0x59 => Some(117),
        0x5c => Some(95),
        0x70..=0x73 => run(0x70, &[93, 123, 122, 89]),
        0x76..=0x79 => run(0x76, &[85, 91, 90, 92]),
        0x7b => Some(94),
        0x7d | 0x7e => run(0x7d, &[124, 121]),
        0x90 => Some(165),
        0x99 => Some(163),
        0x9c | 0x9d => run(0x9c, &[96, 97]),
        0xa0..=0xa2 => run(0xa0, &[113, 140, 164]),
        0xa4 => Some(166),
        0xae => Some(114),
        0xb0 => Some(115),
        0xb2 => Some(172),
        0xb5 => Some(98),
        0xb7 | 0xb8 => run(0xb7, &[99, 100]),
        0xc6..=0xc9 => run(0xc6, &[119, 102, 103, 104]),
        0xcb => Some(105),
        0xcd..=0xd3 => run(0xcd, &[106, 118, 107, 108, 109, 110, 111]),
        0xdb..=0xdf => run(0xdb, &[125, 126, 127, 116, 142]),
        0xe3 => Some(143),
        0xe5..=0xed => run(0xe5, &[217, 156, 173, 128, 159, 158, 157, 155, 226]),
        0xef => Some(112),
        _ => None,
    }
}

/// The evdev code of a QMP value: `{"type": "qcode", "data": "a"}` or `{"type": "number", "data": 30}`.
pub(crate) fn of_value(value: &serde_json::Value) -> Option<u16> {
    match value.get("type")?.as_str()? {
        "qcode" => evdev(value.get("data")?.as_str()?),
        "number" => value.get("data")?.as_u64().and_then(scancode),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once_and_volume_power_japanese_and_korean_keys_are_among_them() {
        let names: std::collections::BTreeSet<_> = KEYS.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), KEYS.len());
        let want = [
            ("ro", 89),
            ("yen", 124),
            ("muhenkan", 94),
            ("lang1", 122),
            ("lang2", 123),
            ("audiomute", 113),
            ("power", 116),
        ];
        for (name, code) in want {
            assert_eq!(evdev(name), Some(code), "{name}");
        }
    }

    /// Every name of qapi/ui.json (QKeyCode, QEMU 8.2) but `unmapped`, by groups.
    #[test]
    fn keys_that_qmp_does_not_know() {
        let names = "shift shift_r alt alt_r ctrl ctrl_r menu esc 1 2 3 4 5 6 7 8 9 0 minus equal backspace tab q w e r t y u i o p \
            bracket_left bracket_right ret a s d f g h j k l semicolon apostrophe grave_accent backslash z x c v b n m comma dot slash \
            asterisk spc caps_lock f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 num_lock scroll_lock kp_divide kp_multiply kp_subtract kp_add kp_enter \
            kp_decimal sysrq kp_0 kp_1 kp_2 kp_3 kp_4 kp_5 kp_6 kp_7 kp_8 kp_9 less f11 f12 print home pgup pgdn end left up down right \
            insert delete stop again props undo front copy open paste find cut lf help meta_l meta_r compose pause ro hiragana henkan yen \
            muhenkan katakanahiragana kp_comma kp_equals power sleep wake audionext audioprev audiostop audioplay audiomute volumeup \
            volumedown mediaselect mail calculator computer ac_home ac_back ac_forward ac_refresh ac_bookmarks lang1 lang2 f13 f14 f15 \
            f16 f17 f18 f19 f20 f21 f22 f23 f24";
        let missing: Vec<&str> = names.split_whitespace().filter(|name| evdev(name).is_none()).collect();
        assert_eq!(missing, [] as [&str; 0]);
        assert_eq!([evdev("f24"), evdev("lang1"), evdev("hiragana")], [Some(194), Some(122), Some(91)]);
    }

    #[test]
    fn numbers_are_keys_of_set_1_also_brazilian_japanese_and_korean_ones() {
        let mut seen = std::collections::BTreeMap::new();
        for number in 0..0x200 {
            let Some(code) = scancode(number) else { continue };
            // Print has a second number.
            if let Some(other) = seen.insert(code, number) {
                assert_eq!((code, other, number), (99, 0x54, 0xb7));
            }
        }
        // Every key that a PS/2 keyboard has, up to 127.
        for code in (1..128).filter(|code| ![84, 101, 120].contains(code)) {
            assert!(seen.contains_key(&code), "key {code} has no number");
        }
        assert_eq!(
            [0x71, 0x72, 0x73, 0x7b, 0x7e, 0x7a].map(scancode),
            [Some(123), Some(122), Some(89), Some(94), Some(121), None]
        );
        assert_eq!(of_value(&serde_json::json!({"type": "number", "data": 0x73})), Some(89));
    }
}
