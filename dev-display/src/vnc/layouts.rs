//! The keyboard layouts of `-k`: the characters of each key of a guest's keyboard (xkeyboard-config's default variant of each
//! country, with which Windows and the console agree at the first two levels).
use super::keys::{Lock, Place, Typed};

/// A keyboard layout: the characters of the keys in [`PLACES`], plain, with Shift, with AltGr, with both. A space stands for no
/// character, or for one that another key has in Windows and on the console too. A combining accent is a dead key.
#[derive(Debug)]
pub struct Layout {
    /// Its name in `-k`.
    pub name: &'static str,
    levels: [&'static str; 4],
    /// The character of the keypad's decimal key with Num Lock.
    pub(super) decimal: char,
    /// In Windows and on the console, Caps Lock acts as Shift on digits and signs too.
    shift_lock: bool,
}

/// evdev codes of the keys that have characters: the row of digits, three rows of letters.
const PLACES: [u16; 48] = [
    41, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 30, 31, 32, 33, 34, 35,
    36, 37, 38, 39, 40, 43, 86, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53,
];

/// All layouts; the first is the default.
pub const LAYOUTS: &[Layout] = &[
    // A keyboard of the United States has no key 86 beside Shift: in Linux it types `<` and `>`, in Windows a backslash.
    Layout {
        name: "en-us",
        levels: [
            "`1234567890-=qwertyuiop[]asdfghjkl;'\\ zxcvbnm,./",
            "~!@#$%^&*()_+QWERTYUIOP{}ASDFGHJKL:\"| ZXCVBNM<>?",
            "",
            "",
        ],
        decimal: '.',
        shift_lock: false,
    },
    Layout {
        name: "en-gb",
        levels: [
            "`1234567890-=qwertyuiop[]asdfghjkl;'#\\zxcvbnm,./",
            "¬!\"£$%^&*()_+QWERTYUIOP{}ASDFGHJKL:@~|ZXCVBNM<>?",
            " ¹²³€½¾{[]}\\\u{327}@ſe¶ŧ←↓→øþ\u{308}\u{303}æßðđŋħ\u{309}ĸł\u{301}\u{302}\u{300}|«»¢„“”µ•·\u{323}",
            "|¡⅛£¼⅜⅝⅞™±°¿\u{328}Ω§E®Ŧ¥↑ıØÞ\u{30a}\u{304}ÆẞÐªŊĦ\u{31b}&Ł\u{30b}\u{30c}\u{306}¦<>©‚‘’º×÷\u{307}",
        ],
        decimal: '.',
        shift_lock: false,
    },
    Layout {
        name: "de",
        levels: [
            "\u{302}1234567890ß\u{301}qwertzuiopü+asdfghjklöä#<yxcvbnm,.-",
            "°!\"§$%&/()=?\u{300}QWERTZUIOPÜ*ASDFGHJKLÖÄ'>YXCVBNM;:_",
            "′¹²³¼½¬{[]}\\\u{327}@ſ€¶ŧ←↓→øþ\u{308}~æſðđŋħ\u{323}ĸł\u{30b}\u{302}’|»«¢„“”µ·…–",
            "″¡⅛£¤⅜⅝⅞™±°¿\u{328}Ω§€®Ŧ¥↑ıØÞ\u{30a}¯ÆẞÐªŊĦ\u{307}&Ł\u{323}\u{30c}\u{306}\u{331}›‹©‚‘’º×÷—",
        ],
        decimal: ',',
        shift_lock: true,
    },
    Layout {
        name: "fr",
        levels: [
            "²&é\"'(-è_çà)=azertyuiop\u{302}$qsdfghjklmù*<wxcvbn,;:!",
            " 1234567890°+AZERTYUIOP\u{308}£QSDFGHJKLM%µ>WXCVBN?./§",
            "¬¹~#{[|`\\^@]}æ«€¶ŧ←↓→øþ\u{308}¤@ßðđŋħ\u{309}ĸłµ\u{302}\u{300}|ł»¢„“”\u{301}•·\u{323}",
            "¬¡⅛£$⅜⅝⅞™±°¿\u{328}Æ<¢®Ŧ¥↑ıØÞ\u{30a}\u{304}ΩẞÐªŊĦ\u{31b}&Łº\u{30c}\u{306}¦Ł>©‚‘’\u{30b}×÷\u{307}",
        ],
        decimal: '.',
        shift_lock: true,
    },
    Layout {
        name: "es",
        levels: [
            "º1234567890'¡qwertyuiop\u{300}+asdfghjklñ\u{301}ç<zxcvbnm,.-",
            "ª!\"·$%&/()=?¿QWERTYUIOP\u{302}*ASDFGHJKLÑ\u{308}Ç>ZXCVBNM;:_",
            "\\|@#~½¬     \u{327} ſ€¶ŧ←↓→øþ[]æßðđŋħ\u{309}ĸł\u{303}{}|«»¢„“”µ•·\u{323}",
            "\\¡⅛£$⅜⅝⅞™±°¿\u{328}Ω§¢®Ŧ¥↑ıØÞ\u{30a}\u{304}ÆẞÐªŊĦ\u{31b}&Ł\u{30b}\u{30c}\u{306}¦<>©‚‘’º×÷\u{307}",
        ],
        decimal: '.',
        shift_lock: false,
    },
    Layout {
        name: "it",
        levels: [
            "\\1234567890'ìqwertyuiopè+asdfghjklòàù<zxcvbnm,.-",
            "|!\"£$%&/()=?^QWERTYUIOPé*ASDFGHJKLç°§>ZXCVBNM;:_",
            "¬¹²³¼½¬    `~ ſ€¶ŧ←↓→øþ[]æßðđŋħ\u{309}ĸł@#\u{300}««»¢“”ñµ\u{301}·\u{304}",
            "¦¡\u{30b}\u{303}⅛⅜⅝⅞™±\u{328}¿\u{302}Ω§¢®Ŧ¥↑ıØÞ{}ÆẞÐªŊĦ\u{31b}&Ł\u{327}\u{30a}\u{306}»<>©‘’Ñº×\u{308}÷",
        ],
        decimal: '.',
        shift_lock: false,
    },
    Layout {
        name: "sv",
        levels: [
            "§1234567890+\u{301}qwertyuiopå\u{308}asdfghjklöä'<zxcvbnm,.-",
            "½!\"#¤%&/()=?\u{300}QWERTYUIOPÅ\u{302}ASDFGHJKLÖÄ*>ZXCVBNM;:_",
            "¶¡@£$ ¥{[]}\\±@ſ€®þ←↓→œþ\u{308}\u{303}ªßðđŋħ\u{309}ĸłøæ´|«»©„“”µ\u{327}·\u{323}",
            "¾¹²³¼¢⅝÷«»°¿¬Ω§¢®Þ¥↑ıŒÞ\u{30a}\u{30c}ºẞÐªŊĦ\u{31b}&ŁØÆ×¦<>©‚‘’º\u{328}\u{307}\u{307}",
        ],
        decimal: ',',
        shift_lock: false,
    },
];

/// An accent: alone, as a dead key, and letters without and with it. If several keys type an accent, the one with the most letters
/// is first.
struct Accent {
    alone: char,
    dead: char,
    letters: &'static str,
    accented: &'static str,
}

/// The letters that dead keys compose in every guest: the accents of Latin-1.
const ACCENTS: [Accent; 8] = [
    Accent { alone: '`', dead: '\u{300}', letters: "aeiouAEIOU", accented: "àèìòùÀÈÌÒÙ" },
    Accent { alone: '´', dead: '\u{301}', letters: "aeiouyAEIOUY", accented: "áéíóúýÁÉÍÓÚÝ" },
    Accent { alone: '^', dead: '\u{302}', letters: "aeiouAEIOU", accented: "âêîôûÂÊÎÔÛ" },
    Accent { alone: '~', dead: '\u{303}', letters: "anoANO", accented: "ãñõÃÑÕ" },
    Accent { alone: '¨', dead: '\u{308}', letters: "aeiouyAEIOUY", accented: "äëïöüÿÄËÏÖÜŸ" },
    Accent { alone: '°', dead: '\u{30a}', letters: "aA", accented: "åÅ" },
    Accent { alone: '¸', dead: '\u{327}', letters: "cC", accented: "çÇ" },
    Accent { alone: 'ˇ', dead: '\u{30c}', letters: "szSZ", accented: "šžŠŽ" },
];

impl Layout {
    /// The layout with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        LAYOUTS.iter().find(|l| l.name == name)
    }

    /// Whether the layout has an AltGr level; otherwise the key is another Alt.
    pub(super) fn has_alt_gr(&self) -> bool {
        self.levels.iter().skip(2).any(|level| !level.is_empty())
    }

    fn cell(&self, level: usize, at: usize) -> Option<char> {
        self.levels.get(level)?.chars().nth(at).filter(|c| *c != ' ')
    }

    /// The place of a character or of a dead accent.
    fn place(&self, wanted: char) -> Option<Place> {
        self.levels.iter().enumerate().filter(|_| wanted != ' ').find_map(|(level, characters)| {
            let at = characters.chars().position(|c| c == wanted)?;
            let (plain, shifted) = (self.cell(level & 2, at), self.cell(level | 1, at));
            let pair = plain.zip(shifted).is_some_and(|(plain, c)| c != plain && c.to_lowercase().eq([plain]));
            let (lower, upper) = (!wanted.to_uppercase().eq([wanted]), !wanted.to_lowercase().eq([wanted]));
            // The effect of Caps Lock (xkeyboard-config, types/basic and types/extra): it swaps pairs, and capitalises other
            // letters in some guests only.
            let lock = match level {
                0 | 1 if pair => Lock::Inverts,
                0 | 1 if lower || self.shift_lock => Lock::Off,
                2.. if lower || upper => Lock::Off,
                _ => Lock::Ignored,
            };
            Some(Place { code: *PLACES.get(at)?, level: level as u8, lock })
        })
    }

    /// The keys that type a character: one key, a dead key and another key, or a key with Caps Lock.
    pub(super) fn character(&self, wanted: char) -> Option<Typed> {
        if wanted == ' ' {
            return Some(Typed::One(SPACE));
        }
        if let Some(place) = self.place(wanted) {
            return Some(Typed::One(place));
        }
        let dead = ACCENTS.iter().find_map(|accent| {
            let letter = match accent.alone == wanted {
                true => SPACE,
                false => {
                    let at = accent.accented.chars().position(|c| c == wanted)?;
                    self.place(accent.letters.chars().nth(at)?)?
                }
            };
            Some(Typed::Two(self.place(accent.dead)?, letter))
        });
        dead.or_else(|| {
            let mut lower = wanted.to_lowercase();
            let place = self.place(lower.next().filter(|_| lower.next().is_none())?)?;
            (place.lock == Lock::Off && place.level < 2).then_some(Typed::One(Place { lock: Lock::On, ..place }))
        })
    }

    /// The keys that type a dead accent: its dead key, or if the layout has none, the spacing accent.
    pub(super) fn dead(&self, wanted: char) -> Option<Typed> {
        let alone = || self.place(ACCENTS.iter().find(|a| a.dead == wanted)?.alone);
        self.place(wanted).or_else(alone).map(Typed::One)
    }
}

const SPACE: Place = Place { code: 57, level: 0, lock: Lock::Ignored };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_has_each_letter_and_digit_once_at_its_level() {
        for layout in LAYOUTS {
            for (n, level) in layout.levels.iter().enumerate() {
                let keys = level.chars().count();
                assert!(keys == PLACES.len() || n > 1 && keys == 0, "{} level {n}: {keys}", layout.name);
            }
            for c in ('a'..='z').chain('A'..='Z').chain('0'..='9').chain("!\"#$%&'()*+,-./:;<=>?@[]_{|}\\^`~".chars()) {
                assert!(layout.character(c).is_some(), "{} has no {c}", layout.name);
            }
            let Some(Typed::One(lower)) = layout.character('a') else { panic!() };
            let Some(Typed::One(upper)) = layout.character('A') else { panic!() };
            assert_eq!((lower.code, lower.level, upper.level), (upper.code, 0, 1), "{}", layout.name);
        }
        assert_eq!(LAYOUTS.iter().map(|l| l.name).collect::<Vec<_>>(), bulkhead_bus::LAYOUTS);
        assert!(Layout::named("klingon").is_none());
    }

    /// X11 has these characters on other keys too.
    #[test]
    fn characters_where_only_one_kind_of_guest_has_them() {
        let places = [
            ("es", "[]{}\\|@#~", [26, 27, 40, 43, 41, 2, 3, 4, 5], 2),
            ("it", "[]@#`~^|\\", [26, 27, 39, 40, 12, 13, 13, 41, 41], 2),
            ("fr", "~#{[|`\\^@", [3, 4, 5, 6, 7, 8, 9, 10, 11], 2),
            ("de", "{[]}\\@€~|", [8, 9, 10, 11, 12, 16, 18, 27, 86], 2),
            ("sv", "@£${[]}\\€", [3, 4, 5, 8, 9, 10, 11, 12, 18], 2),
        ];
        for (name, characters, codes, level) in places {
            for (c, code) in characters.chars().zip(codes) {
                let Some(Typed::One(place)) = Layout::named(name).unwrap().character(c) else { panic!("{name} {c}") };
                let level = match (name, c) {
                    ("it", '^' | '|') => 1,
                    ("it", '\\') => 0,
                    _ => level,
                };
                assert_eq!((place.code, place.level), (code, level), "{name} {c}");
            }
        }
    }

    #[test]
    fn accents_have_as_many_letters_with_as_without() {
        for accent in ACCENTS {
            assert_eq!(accent.letters.chars().count(), accent.accented.chars().count(), "{}", accent.alone);
        }
    }
}
