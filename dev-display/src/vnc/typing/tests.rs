//! Types every character of a layout through a guest's keymap and compares the result. The keymap is independent of this crate:
//! libxkbcommon has compiled it (`keymaps.tsv`), with the effects of Shift, AltGr, Caps Lock and Num Lock on each key, and the
//! composed characters of dead keys.
use super::*;
use crate::vnc::layouts::LAYOUTS;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SHIFT_L: u32 = 0xffe1;
const SHIFT_R: u32 = 0xffe2;
const LEVEL3: u32 = 0xfe03;
const CAPS: u32 = 0xffe5;

#[derive(Default)]
struct Keymap {
    /// By key: its characters, by lock, AltGr, Shift.
    keys: BTreeMap<u16, Vec<&'static str>>,
    /// Composed characters, by dead key and character.
    composed: BTreeMap<(&'static str, &'static str), &'static str>,
}

impl Keymap {
    fn of(layout: &str) -> Self {
        let mut map = Self::default();
        for line in include_str!("keymaps.tsv").lines().filter(|l| !l.starts_with('#')) {
            let fields: Vec<&str> = line.split('\t').collect();
            if fields[0] == layout {
                map.keys.insert(fields[1].parse().unwrap(), fields[2..].to_vec());
            } else if fields[0].starts_with("dead_") {
                map.composed.insert((fields[0], fields[1]), fields[2]);
            }
        }
        assert_eq!(map.keys.len(), 62, "{layout}");
        map
    }

    /// The characters without Caps Lock, and all their keys and levels. A keyboard of the United States has no key 86; a no-break
    /// space is typed as a space.
    fn characters(&self, layout: &str) -> BTreeMap<char, Vec<(u16, usize)>> {
        let mut all = BTreeMap::<char, Vec<(u16, usize)>>::new();
        let keys =
            self.keys.iter().filter(|(code, _)| !(71..=83).contains(*code) && (**code != 86 || layout != "en-us"));
        for (code, row) in keys {
            for (level, given) in row[..4].iter().enumerate() {
                let mut chars = given.chars();
                if let (Some(c @ ..='\u{9f}' | c @ '\u{a1}'..), None) = (chars.next(), chars.next()) {
                    all.entry(c).or_default().push((*code, level));
                }
            }
        }
        all
    }
}

/// A guest with a keymap.
struct Guest<'a> {
    map: &'a Keymap,
    down: BTreeSet<u16>,
    caps: bool,
    num: bool,
    /// Caps Lock acts as Shift on every key.
    shift_lock: bool,
    dead: Option<&'static str>,
    typed: Vec<&'static str>,
}

impl<'a> Guest<'a> {
    fn new(map: &'a Keymap, caps: bool, num: bool) -> Self {
        Self { map, caps, num, shift_lock: false, down: BTreeSet::new(), dead: None, typed: Vec::new() }
    }

    fn key(&mut self, code: u16, down: bool) {
        if !down {
            self.down.remove(&code);
            return;
        }
        let fresh = self.down.insert(code);
        match code {
            58 => self.caps ^= fresh,
            69 => self.num ^= fresh,
            42 | 54 | 100 | 29 | 97 | 56 | 125 | 126 => {}
            _ => {
                let shift = self.down.contains(&42) || self.down.contains(&54);
                let (shift, lock) = match code {
                    71..=83 => (shift, self.num),
                    _ if self.shift_lock => (shift ^ self.caps, false),
                    _ => (shift, self.caps),
                };
                let column = usize::from(lock) << 2 | usize::from(self.down.contains(&100)) << 1 | usize::from(shift);
                let beside = [(102, "KP_Home"), (103, "KP_Up"), (104, "KP_Prior"), (105, "KP_Left"), (106, "KP_Right")];
                let below =
                    [(107, "KP_End"), (108, "KP_Down"), (109, "KP_Next"), (110, "KP_Insert"), (111, "KP_Delete")];
                let given = match beside.iter().chain(&below).find(|(c, _)| *c == code) {
                    // The keys beside the keypad have the functions of those on it.
                    Some((_, does)) => *does,
                    None => self.map.keys.get(&code).map_or("?", |row| row[column]),
                };
                match self.dead.take() {
                    Some(dead) => self.typed.push(self.map.composed.get(&(dead, given)).copied().unwrap_or("?")),
                    None if given.starts_with("dead_") => self.dead = Some(given),
                    None => self.typed.push(given),
                }
            }
        }
    }
}

/// A viewer and a guest.
struct Bench<'a> {
    typing: Typing,
    locks: Locks,
    guest: Guest<'a>,
}

impl<'a> Bench<'a> {
    /// A guest whose LEDs show these locks.
    fn new(layout: &'static Layout, map: &'a Keymap, caps: bool, num: bool) -> Self {
        let mut locks = Locks::default();
        locks.lights(u8::from(caps) << 2 | u8::from(num) << 1, 0);
        Self { typing: Typing::new(layout), locks, guest: Guest::new(map, caps, num) }
    }

    fn say(&mut self, keysym: u32, down: bool) {
        let mut out = Vec::new();
        self.typing.keysym(keysym, down, &mut Keyboard { locks: &mut self.locks, others: 0, now: 0, out: &mut out });
        self.guest_hears(&out);
    }

    fn place(&mut self, number: u32, keysym: u32, down: bool) {
        let mut out = Vec::new();
        self.typing.scancode(
            number,
            keysym,
            down,
            &mut Keyboard { locks: &mut self.locks, others: 0, now: 0, out: &mut out },
        );
        self.guest_hears(&out);
    }

    fn guest_hears(&mut self, events: &[InputEvent]) {
        for event in events {
            let InputEvent::Key { code, down } = event else { panic!("{event:?}") };
            self.guest.key(*code, *down);
        }
    }

    fn typed(&mut self) -> String {
        std::mem::take(&mut self.guest.typed).concat()
    }
}

/// The keysym that a viewer sends for a character (X11/keysymdef.h: Latin-1 unchanged, others by Unicode).
fn keysym(c: char) -> u32 {
    match c as u32 {
        latin @ ..=0xff => latin,
        other => 0x0100_0000 | other,
    }
}

/// Modifiers that a viewer may hold.
const HELD: [&[u32]; 6] = [&[], &[SHIFT_L], &[SHIFT_R], &[SHIFT_L, SHIFT_R], &[LEVEL3], &[SHIFT_L, LEVEL3]];

#[test]
fn characters_that_a_guest_types_otherwise_than_the_viewer_shows() {
    let mut wrong = Vec::new();
    for layout in LAYOUTS {
        let map = Keymap::of(layout.name);
        let characters = map.characters(layout.name);
        let twice = characters.values().filter(|places| places.len() > 1).count();
        assert!(characters.len() > 90 && twice > 1, "{}: {} characters, {twice} twice", layout.name, characters.len());
        // Composed characters are typed too.
        let made: Vec<char> = map.composed.values().filter_map(|m| m.chars().next()).collect();
        let all: BTreeSet<char> =
            characters.keys().copied().chain(made.into_iter().filter(|c| layout.character(*c).is_some())).collect();
        for c in all {
            for (caps, num, held) in
                HELD.iter().flat_map(|h| [(false, false, h), (true, false, h), (false, true, h), (true, true, h)])
            {
                let mut b = Bench::new(layout, &map, caps, num);
                held.iter().for_each(|k| b.say(*k, true));
                let before = b.guest.down.clone();
                b.say(keysym(c), true);
                let repeated = b.typed();
                b.say(keysym(c), true);
                b.say(keysym(c), false);
                let typed = b.typed();
                // For a spacing accent after a dead key, X11 types an apostrophe or a quotation mark, other guests the accent.
                let want =
                    if typed == "'" && c == '´' || typed == "\"" && c == '¨' { typed.clone() } else { c.to_string() };
                if typed != want || repeated != want || b.guest.down != before {
                    wrong.push(format!(
                        "{} {c}: {repeated}, {typed} (caps {caps}, num {num}, held {held:x?})",
                        layout.name
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(40)]);
}

/// French and German keyboards in Windows and on the console.
#[test]
fn caps_lock_that_is_shift_lock_in_another_guest() {
    for layout in ["de", "fr"] {
        let (layout, map) = (Layout::named(layout).unwrap(), Keymap::of(layout));
        for (c, places) in map.characters(layout.name) {
            if !places.iter().all(|(_, level)| *level < 2) {
                continue;
            }
            for held in HELD {
                let mut b = Bench::new(layout, &map, true, false);
                b.guest.shift_lock = true;
                held.iter().for_each(|k| b.say(*k, true));
                b.say(keysym(c), true);
                assert_eq!(b.typed(), c.to_string(), "{} {held:x?}", layout.name);
            }
        }
    }
}

#[test]
fn keypad_that_ignores_num_lock() {
    for layout in LAYOUTS {
        let map = Keymap::of(layout.name);
        for (caps, num, known) in [true, false]
            .iter()
            .flat_map(|c| [(*c, true, true), (*c, false, true), (*c, true, false), (*c, false, false)])
        {
            for held in HELD {
                let mut b = Bench::new(layout, &map, caps, num);
                if !known {
                    (b.locks, b.guest.caps) = (Locks::default(), false);
                }
                held.iter().for_each(|k| b.say(*k, true));
                let before = b.guest.down.clone();
                let mut keypad: Vec<(u32, &str, &str)> =
                    (0..10).map(|n| (0xffb0 + n, &"0123456789"[n as usize..][..1], "")).collect();
                keypad.extend([(0xffae, ".", ""), (0xffac, ",", "")]);
                let moves = [
                    (0xff95, "KP_Home"),
                    (0xff96, "KP_Left"),
                    (0xff97, "KP_Up"),
                    (0xff98, "KP_Right"),
                    (0xff99, "KP_Down"),
                    (0xff9a, "KP_Prior"),
                    (0xff9b, "KP_Next"),
                    (0xff9c, "KP_End"),
                    (0xff9e, "KP_Insert"),
                    (0xff9f, "KP_Delete"),
                ];
                keypad.extend(moves.map(|(k, does)| (k, does, does)));
                if known {
                    keypad.push((0xff9d, "KP_Begin", ""));
                }
                for (k, want, _) in keypad {
                    b.say(k, true);
                    b.say(k, false);
                    let typed = b.typed().replace("KP_Decimal", ".").replace("KP_Separator", ",");
                    let typed = match typed.strip_prefix("KP_") {
                        Some(digit) if digit.len() == 1 => digit.to_owned(),
                        _ => typed,
                    };
                    assert_eq!(
                        typed, want,
                        "{} {k:x}: caps {caps}, num {num}, known {known}, held {held:x?}",
                        layout.name
                    );
                    assert_eq!(b.guest.down, before, "{k:x}");
                }
                assert_eq!(b.guest.num, num, "nothing is locked for it");
            }
        }
    }
}

/// The keypad's keys are used where they have the meant function, because programs distinguish them.
#[test]
fn keypad_keys_that_were_changed_without_need() {
    let map = Keymap::of("en-us");
    for (num, keysym, want) in [(true, 0xffb1, "KP_1"), (false, 0xff9c, "KP_End"), (true, 0xffae, "KP_Decimal")] {
        let mut b = Bench::new(&LAYOUTS[0], &map, false, num);
        let mut out = Vec::new();
        b.typing.keysym(keysym, true, &mut Keyboard { locks: &mut b.locks, others: 0, now: 0, out: &mut out });
        assert!(matches!(out[..], [InputEvent::Key { code: 79 | 83, down: true }]), "{out:?}");
        b.guest_hears(&out);
        assert_eq!(b.typed(), want);
    }
    // In Windows, Alt with digits of the keypad types a character.
    let mut b = Bench::new(&LAYOUTS[0], &map, false, false);
    b.say(0xffe9, true);
    b.say(0xffb1, true);
    assert!(b.guest.down.contains(&79));
}

/// A viewer that sends scancodes, with locks that may differ from the guest's.
#[test]
fn places_that_the_guests_locks_make_another_character_of() {
    for layout in ["en-us", "de", "fr"] {
        let (layout, map) = (Layout::named(layout).unwrap(), Keymap::of(layout));
        for (caps, num, shift) in (0..8).map(|n| (n & 1 != 0, n & 2 != 0, n & 4 != 0)) {
            for lower in 'a'..='z' {
                for c in [lower, lower.to_ascii_uppercase()] {
                    let Some(Typed::One(place)) = layout.character(c) else { panic!("{c}") };
                    let mut b = Bench::new(layout, &map, caps, num);
                    if shift {
                        b.place(0x2a, SHIFT_L, true);
                    }
                    let before = b.guest.down.clone();
                    b.place(u32::from(place.code), keysym(c), true);
                    b.place(u32::from(place.code), keysym(c), false);
                    assert_eq!((b.typed(), &b.guest.down), (c.to_string(), &before), "caps {caps}, shift {shift}");
                }
            }
            let mut b = Bench::new(layout, &map, caps, num);
            b.place(0x4f, 0xffb1, true);
            b.place(0x4f, 0xff9c, false);
            b.place(0x4f, 0xff9c, true);
            b.place(0x4f, 0xffb1, false);
            assert_eq!(b.typed().replace("KP_1", "1"), "1KP_End", "num {num}");
            assert!(b.guest.down.is_empty());
        }
    }
    // The scancode counts, even if the server's layout has another character on its key.
    let (us, map) = (&LAYOUTS[0], Keymap::of("fr"));
    let mut b = Bench::new(us, &map, false, false);
    b.place(0x2a, SHIFT_L, true);
    b.place(0x02, '1' as u32, true);
    assert_eq!(b.typed(), "1", "a French keyboard at both ends, and no -k");
}

/// A key whose keysym has changed at its release: Shift was released first, Num Lock or Caps Lock has changed, or the layouts
/// differ.
#[test]
fn keys_that_stay_down_when_their_keysym_has_changed() {
    let map = Keymap::of("en-us");
    let cases: [&[(u32, bool)]; 8] = [
        &[(SHIFT_L, true), ('A' as u32, true), (SHIFT_L, false), ('a' as u32, false)],
        // A British viewer: Shift and 2.
        &[(SHIFT_L, true), ('"' as u32, true), (SHIFT_L, false), ('2' as u32, false)],
        // A German one: AltGr and Q.
        &[(LEVEL3, true), ('@' as u32, true), (LEVEL3, false), ('q' as u32, false)],
        &[(0xffb1, true), (0xff7f, true), (0xff7f, false), (0xff9c, false)],
        &[(0xffe9, true), (0xff15, true), (0xffe9, false), (0xff61, false)],
        &[(SHIFT_L, true), (0xfe20, true), (SHIFT_L, false), (0xff09, false)],
        // Shift and Alt are Meta to X11.
        &[(SHIFT_L, true), (0xffe7, true), (SHIFT_L, false), (0xffe9, false)],
        &[(0xffe3, true), (0xff6b, true), (0xffe3, false), (0xff13, false)],
    ];
    for case in cases {
        for num in [false, true] {
            let mut b = Bench::new(&LAYOUTS[0], &map, false, num);
            case.iter().for_each(|(k, down)| b.say(*k, *down));
            assert!(b.guest.down.is_empty(), "{case:x?}: {:?} are down", b.guest.down);
        }
    }
    // Held keys are not released by it.
    let mut b = Bench::new(&LAYOUTS[0], &map, false, false);
    for (k, down) in [('w' as u32, true), ('d' as u32, true), ('w' as u32, false), ('x' as u32, false)] {
        b.say(k, down);
    }
    assert_eq!(b.guest.down, [32].into());
}

#[test]
fn commands_that_caps_lock_changes() {
    let map = Keymap::of("en-us");
    let mut b = Bench::new(&LAYOUTS[0], &map, true, false);
    b.say(0xffe3, true);
    let mut out = Vec::new();
    b.typing.keysym('c' as u32, true, &mut Keyboard { locks: &mut b.locks, others: 0, now: 0, out: &mut out });
    assert_eq!(out, [InputEvent::Key { code: 46, down: true }], "Ctrl and C, without Shift");
    // Right Alt of a layout without AltGr stays held during a character; AltGr of a viewer on Windows does not hold Ctrl too.
    let mut b = Bench::new(&LAYOUTS[0], &map, false, false);
    b.say(0xffea, true);
    let mut out = Vec::new();
    b.typing.keysym('f' as u32, true, &mut Keyboard { locks: &mut b.locks, others: 0, now: 0, out: &mut out });
    assert_eq!(out, [InputEvent::Key { code: 33, down: true }]);
    let (de, map) = (Layout::named("de").unwrap(), Keymap::of("de"));
    let mut b = Bench::new(de, &map, false, false);
    b.say(0xffe3, true);
    b.say(0xffea, true);
    let mut out = Vec::new();
    b.typing.keysym('@' as u32, true, &mut Keyboard { locks: &mut b.locks, others: 0, now: 0, out: &mut out });
    let key = |code, down| InputEvent::Key { code, down };
    assert_eq!(out, [key(29, false), key(16, true), key(29, true)]);
}

/// The guest has one keyboard for all viewers.
#[test]
fn modifiers_that_another_viewer_holds() {
    for (name, c) in [("en-us", 'a'), ("en-us", 'A'), ("en-us", '1'), ("de", '@'), ("fr", '1')] {
        let (layout, map) = (Layout::named(name).unwrap(), Keymap::of(name));
        for others in 0..8u8 {
            let mut b = Bench::new(layout, &map, false, true);
            b.guest.down.extend(
                [42, 54, 100].into_iter().enumerate().filter(|(bit, _)| others >> bit & 1 != 0).map(|(_, c)| c),
            );
            let before = b.guest.down.clone();
            for (keysym, down) in [
                (SHIFT_L, true),
                (SHIFT_L, false),
                (keysym(c), true),
                (keysym(c), false),
                (0xffb1, true),
                (0xffb1, false),
            ] {
                let mut out = Vec::new();
                b.typing.keysym(keysym, down, &mut Keyboard { locks: &mut b.locks, others, now: 0, out: &mut out });
                b.guest_hears(&out);
            }
            assert_eq!((b.typed(), &b.guest.down), (format!("{c}KP_1"), &before), "{name}, {others:#b}");
        }
    }
    let mut typing = Typing::new(&LAYOUTS[0]);
    let (mut locks, mut out) = (Locks::default(), Vec::new());
    for (keysym, held) in [(SHIFT_R, 0b10), (LEVEL3, 0b110), (SHIFT_L, 0b111)] {
        typing.keysym(keysym, true, &mut Keyboard { locks: &mut locks, others: 0, now: 0, out: &mut out });
        assert_eq!(typing.held(), held);
    }
}

#[test]
fn meanings_that_need_a_modifier_of_their_own() {
    let map = Keymap::of("en-us");
    for (keysym, want) in [(0xff15, [56, 99]), (0xff6b, [29, 119]), (0xfe20, [42, 15])] {
        let mut b = Bench::new(&LAYOUTS[0], &map, false, false);
        let mut out = Vec::new();
        b.typing.keysym(keysym, true, &mut Keyboard { locks: &mut b.locks, others: 0, now: 0, out: &mut out });
        let key = |code, down| InputEvent::Key { code, down };
        assert_eq!(out, [key(want[0], true), key(want[1], true), key(want[0], false)]);
    }
}

#[test]
fn caps_lock_that_repeats_turns_once() {
    let map = Keymap::of("en-us");
    let mut b = Bench::new(&LAYOUTS[0], &map, false, false);
    for down in [true, true, false] {
        b.say(CAPS, down);
    }
    b.say('a' as u32, true);
    b.say('B' as u32, true);
    assert_eq!((b.typed().as_str(), b.guest.caps), ("aB", true));
    // A held Caps Lock is not toggled by another press.
    let (fr, map) = (Layout::named("fr").unwrap(), Keymap::of("fr"));
    let mut b = Bench::new(fr, &map, false, false);
    b.say(CAPS, true);
    b.say('1' as u32, true);
    assert_eq!((b.typed().as_str(), b.guest.caps, b.locks.caps()), ("1", true, true));
}

fn typed(layout: &str, keys: &[(u32, bool)]) -> Vec<(u16, bool)> {
    let (mut typing, mut locks, mut out) = (Typing::new(Layout::named(layout).unwrap()), Locks::default(), Vec::new());
    keys.iter().for_each(|(k, down)| {
        typing.keysym(*k, *down, &mut Keyboard { locks: &mut locks, others: 0, now: 0, out: &mut out });
    });
    out.into_iter().map(|e| if let InputEvent::Key { code, down } = e { (code, down) } else { panic!() }).collect()
}

#[test]
fn a_character_gets_the_modifiers_that_it_needs() {
    let a = 'A' as u32;
    // With a held Shift no further modifier is pressed.
    assert_eq!(typed("en-us", &[(SHIFT_L, true), (a, true), (a, false)]), [(42, true), (30, true), (30, false)]);
    assert_eq!(typed("en-us", &[(a, true), (a, false)]), [(42, true), (30, true), (42, false), (30, false)]);
    assert_eq!(typed("de", &[(0x40, true)]), [(100, true), (16, true), (100, false)]);
    // A French 1 without Shift, a digit that a viewer's other layout has plain while it holds Shift.
    assert_eq!(typed("fr", &[(0x31, true)]), [(42, true), (2, true), (42, false)]);
    assert_eq!(typed("en-us", &[(SHIFT_L, true), (0x37, true)]), [(42, true), (42, false), (8, true), (42, true)]);
    // Caps Lock is passed to the guest.
    assert_eq!(typed("en-us", &[(CAPS, true), (CAPS, false), (a, true)]), [(58, true), (58, false), (30, true)]);
    // A key that repeats is pressed again.
    assert_eq!(typed("en-us", &[(0x61, true), (0x61, true), (0x61, false)]), [(30, true), (30, true), (30, false)]);
    // A keyboard of the United States has no key 86.
    assert_eq!(typed("en-us", &[('<' as u32, true)]), [(42, true), (51, true), (42, false)]);
    assert_eq!(typed("en-us", &[('>' as u32, true)]), [(42, true), (52, true), (42, false)]);
}

proptest! {
    /// With any keys in any order, each causes few events, the believed locks match the guest's, and no key stays down after the
    /// viewer disconnects.
    #[test]
    fn hostile_keys_in_any_order(
        layout in 0..LAYOUTS.len(),
        keys in prop::collection::vec((0usize..40, any::<u32>(), any::<bool>(), any::<bool>()), 0..80),
    ) {
        let map = Keymap::of(LAYOUTS[layout].name);
        let mut b = Bench::new(&LAYOUTS[layout], &map, false, false);
        let known = [
            SHIFT_L, SHIFT_R, LEVEL3, CAPS,
            0xff7f, 0xffe3, 0xffe4, 0xffe7, 0xffe9, 0xffea, 0xfe20, 0xff15, 0xff6b, 0xffb1, 0xff9c, 0xff9d,
            0xffae, 0xfe51, 0xe9, 0xc9, 0x5e, 0xb4, 0xdf, 0x1e9e, 0x40, 0x61, 0x41, 0x31, 0x3c, 0x20, 0xa0, 0xff34, 0xe6, 0xc6,
        ];
        for (which, any, place, down) in keys {
            let keysym = known.get(which).copied().unwrap_or(any);
            let mut out = Vec::new();
            let mut keyboard = Keyboard { locks: &mut b.locks, others: 0, now: 0, out: &mut out };
            match place {
                true => b.typing.scancode(any & 0xff, keysym, down, &mut keyboard),
                false => b.typing.keysym(keysym, down, &mut keyboard),
            }
            prop_assert!(out.len() <= 32, "{} events", out.len());
            b.guest_hears(&out);
            prop_assert_eq!((b.locks.caps(), b.locks.num()), (b.guest.caps, Some(b.guest.num)));
        }
        let mut out = Vec::new();
        b.typing.release(0, &mut out);
        b.guest_hears(&out);
        prop_assert!(b.guest.down.is_empty(), "{:?} are down", b.guest.down);
    }
}
