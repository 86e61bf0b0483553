//! Keys: a viewer's keysym (X11/keysymdef.h) or scancode → evdev codes (linux/input-event-codes.h).

/// evdev codes of keys that the layouts do not move.
pub(crate) mod code {
    pub(crate) const SHIFT: u16 = 42;
    pub(crate) const SHIFT_RIGHT: u16 = 54;
    pub(crate) const ALT_GR: u16 = 100;
    pub(crate) const CAPS_LOCK: u16 = 58;
}

/// A keyboard layout: the characters of the keys in [`PLACES`], plain, with Shift and with AltGr. A space: none.
#[derive(Debug)]
pub struct Layout {
    /// As `-k` has it.
    pub name: &'static str,
    levels: [&'static str; 3],
}

/// evdev codes of the keys that have characters: the row of digits, three rows of letters.
const PLACES: [u16; 48] = [
    41, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 30, 31, 32, 33, 34, 35,
    36, 37, 38, 39, 40, 43, 86, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53,
];

/// The layouts, the first is what is taken when nobody says.
pub const LAYOUTS: &[Layout] = &[
    Layout {
        name: "en-us",
        levels: [
            "`1234567890-=qwertyuiop[]asdfghjkl;'\\<zxcvbnm,./",
            "~!@#$%^&*()_+QWERTYUIOP{}ASDFGHJKL:\"|>ZXCVBNM<>?",
            "",
        ],
    },
    Layout {
        name: "en-gb",
        levels: [
            "`1234567890-=qwertyuiop[]asdfghjkl;'#\\zxcvbnm,./",
            "¬!\"£$%^&*()_+QWERTYUIOP{}ASDFGHJKL:@~|ZXCVBNM<>?",
            "    €",
        ],
    },
    Layout {
        name: "de",
        levels: [
            "^1234567890ß´qwertzuiopü+asdfghjklöä#<yxcvbnm,.-",
            "°!\"§$%&/()=?`QWERTZUIOPÜ*ASDFGHJKLÖÄ'>YXCVBNM;:_",
            "  ²³   {[]}\\ @ €        ~            |      µ   ",
        ],
    },
    Layout {
        name: "fr",
        levels: [
            "²&é\"'(-è_çà)=azertyuiop^$qsdfghjklmù*<wxcvbn,;:!",
            " 1234567890°+AZERTYUIOP¨£QSDFGHJKLM%µ>WXCVBN?./§",
            "  ~#{[|`\\^@]}  €        ¤                       ",
        ],
    },
    Layout {
        name: "es",
        levels: [
            "º1234567890'¡qwertyuiop`+asdfghjklñ´ç<zxcvbnm,.-",
            "ª!\"·$%&/()=?¿QWERTYUIOP^*ASDFGHJKLÑ¨Ç>ZXCVBNM;:_",
            "\\|@#~  ¬       €        []          {}          ",
        ],
    },
    Layout {
        name: "it",
        levels: [
            "\\1234567890'ìqwertyuiopè+asdfghjklòàù<zxcvbnm,.-",
            "|!\"£$%&/()=?^QWERTYUIOPé*ASDFGHJKLç°§>ZXCVBNM;:_",
            "               €        []         @#           ",
        ],
    },
    Layout {
        name: "sv",
        levels: [
            "§1234567890+´qwertyuiopå¨asdfghjklöä'<zxcvbnm,.-",
            "½!\"#¤%&/()=?`QWERTYUIOPÅ^ASDFGHJKLÖÄ*>ZXCVBNM;:_",
            "  @£$  {[]}\\   €        ~            |      µ   ",
        ],
    },
];

/// A key and the level at which it has a character: 0 plain, 1 Shift, 2 AltGr; `None`: the level does not matter.
pub(crate) type Key = (u16, Option<usize>);

impl Layout {
    /// The layout with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        LAYOUTS.iter().find(|l| l.name == name)
    }

    fn character(&self, wanted: char) -> Option<Key> {
        self.levels.iter().enumerate().find_map(|(level, characters)| {
            let at = characters.chars().position(|c| c == wanted)?;
            Some((*PLACES.get(at)?, Some(level)))
        })
    }

    /// The key of a keysym.
    pub(crate) fn keysym(&self, keysym: u32) -> Option<Key> {
        let fixed = |code| Some((code, None));
        let run = |first: u32, codes: &[u16]| codes.get(keysym.wrapping_sub(first) as usize).map(|c| (*c, None));
        match keysym {
            0x20 => fixed(57),
            0x21..=0x7e | 0xa1..=0xff => self.character(char::from_u32(keysym)?),
            0x20ac => self.character('€'),
            0x0100_0000..=0x0110_ffff => self.character(char::from_u32(keysym & 0x1f_ffff)?),
            // Dead accents.
            0xfe50..=0xfe53 => self.character(*['`', '´', '^', '~'].get(keysym.wrapping_sub(0xfe50) as usize)?),
            0xfe57 => self.character('¨'),
            0xfe58 => self.character('°'),
            0xfe03 | 0xff7e => fixed(code::ALT_GR),
            0xfe20 => fixed(15),
            0xff08 => fixed(14),
            0xff09 => fixed(15),
            0xff0d => fixed(28),
            0xff13 => fixed(119),
            0xff14 => fixed(70),
            0xff15 | 0xff61 => fixed(99),
            0xff1b => fixed(1),
            0xff50..=0xff57 => run(0xff50, &[102, 105, 103, 106, 108, 104, 109, 107]),
            0xff63 => fixed(110),
            0xff67 => fixed(127),
            0xff7f => fixed(69),
            0xff8d => fixed(96),
            0xff95..=0xff9f => run(0xff95, &[71, 75, 72, 77, 80, 73, 81, 79, 76, 82, 83]),
            0xffaa..=0xffb9 => run(0xffaa, &[55, 78, 121, 74, 83, 98, 82, 79, 80, 81, 75, 76, 77, 71, 72, 73]),
            0xffbe..=0xffc9 => run(0xffbe, &[59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 87, 88]),
            0xffe1..=0xffee => run(0xffe1, &[42, 54, 29, 97, 58, 58, 125, 126, 56, 100, 125, 126, 125, 126]),
            0xffff => fixed(111),
            _ => None,
        }
    }
}

/// The key of a scancode of set 1, with 0x80 for the prefix 0xe0 (rfbproto, "QEMU Extended Key Event Message").
pub(crate) fn scancode(code: u32) -> Option<u16> {
    Some(match code {
        0x01..=0x53 | 0x56..=0x58 => code as u16,
        0x70 => 93,
        0x73 => 89,
        0x79 => 92,
        0x7b => 94,
        0x7d => 124,
        0x7e => 121,
        0x9c => 96,
        0x9d => 97,
        0xb5 => 98,
        0xb7 => 99,
        0xb8 => 100,
        0xa0 => 113,
        0xae => 114,
        0xb0 => 115,
        0xc6 => 119,
        0xc7..=0xc9 => (code as u16).wrapping_sub(0xc7).wrapping_add(102),
        0xcb => 105,
        0xcd => 106,
        0xcf..=0xd3 => (code as u16).wrapping_sub(0xcf).wrapping_add(107),
        0xdb..=0xdd => (code as u16).wrapping_sub(0xdb).wrapping_add(125),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_has_each_letter_and_digit_once_at_its_level() {
        for layout in LAYOUTS {
            for level in &layout.levels {
                assert!(level.chars().count() <= PLACES.len(), "{}", layout.name);
            }
            for level in 0..2 {
                assert_eq!(layout.levels[level].chars().count(), PLACES.len(), "{} level {level}", layout.name);
            }
            for c in ('a'..='z').chain('A'..='Z').chain('0'..='9').chain("!\"#$%&'()*+,-./:;<=>?@[]_{|}\\^`~".chars()) {
                // Two layouts have no key for a backquote or a tilde: there they are dead or made with other keys.
                let found = layout.keysym(c as u32);
                assert!(found.is_some() || (layout.name == "it" && "`~{}".contains(c)), "{} has no {c}", layout.name);
            }
            let (lower, upper) = (layout.keysym('a' as u32).unwrap(), layout.keysym('A' as u32).unwrap());
            assert_eq!((lower.0, lower.1, upper.1), (upper.0, Some(0), Some(1)), "{}", layout.name);
        }
        assert_eq!(LAYOUTS.iter().map(|l| l.name).collect::<Vec<_>>(), bulkhead_bus::LAYOUTS);
        let de = Layout::named("de").unwrap();
        assert_eq!(
            (de.keysym(0x40), de.keysym('z' as u32), de.keysym(0xdf)),
            (Some((16, Some(2))), Some((21, Some(0))), Some((12, Some(0))))
        );
        assert_eq!((de.keysym(0x20ac), de.keysym(0x0100_20ac)), (Some((18, Some(2))), Some((18, Some(2)))));
        assert_eq!(Layout::named("fr").unwrap().keysym('1' as u32), Some((2, Some(1))));
        assert!(Layout::named("klingon").is_none());
    }

    #[test]
    fn keysyms_and_scancodes_of_keys_without_characters() {
        let us = &LAYOUTS[0];
        let want = [
            (0xff0d, 28),
            (0xff52, 103),
            (0xff57, 107),
            (0xffb7, 71),
            (0xffc9, 88),
            (0xffe4, 97),
            (0xffff, 111),
            (0xffaf, 98),
            (0xff9f, 83),
        ];
        for (keysym, code) in want {
            assert_eq!(us.keysym(keysym), Some((code, None)), "{keysym:#x}");
        }
        assert_eq!(us.keysym(0xffff_ffff), None);
        assert_eq!(
            [0x1e, 0xb8, 0xc8, 0xd0, 0xd3, 0xdb, 0xc6, 0x9c, 0x54, 0, 0xff].map(scancode),
            [Some(30), Some(100), Some(103), Some(108), Some(111), Some(125), Some(119), Some(96), None, None, None]
        );
    }
}
