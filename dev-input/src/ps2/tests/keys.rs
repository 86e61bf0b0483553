//! Scan codes of each key, alone and with modifiers.
use super::super::keys::{self, Code, NOWHERE};
use super::*;
use std::collections::BTreeMap;

/// A guest's setting of the keyboard.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Translated,
    Set(u8),
}

const MODES: [Mode; 4] = [Mode::Translated, Mode::Set(1), Mode::Set(2), Mode::Set(3)];

fn keyboard(mode: Mode) -> (Ps2, Context) {
    let (mut p, mut cx) = controller();
    if let Mode::Set(set) = mode {
        write(&mut p, &mut cx, 1, 0x60);
        write(&mut p, &mut cx, 0, 0x01);
        // All keys of set 3 report their release.
        for byte in [0xf0, set, 0xfa] {
            write(&mut p, &mut cx, 0, byte);
        }
        all(&mut p, &mut cx);
    }
    (p, cx)
}

fn key(p: &mut Ps2, cx: &mut Context, code: u16, down: bool) -> Vec<u8> {
    p.input(InputEvent::Key { code, down }, cx);
    all(p, cx)
}

/// The codes of these keys: all but the last are pressed, then the last is pressed and released.
fn said(mode: Mode, held: &[u16], last: u16) -> [Vec<u8>; 2] {
    let (mut p, mut cx) = keyboard(mode);
    for code in held {
        key(&mut p, &mut cx, *code, true);
    }
    [key(&mut p, &mut cx, last, true), key(&mut p, &mut cx, last, false)]
}

#[test]
fn every_key_up_to_127_has_codes_of_its_own_or_is_on_no_keyboard() {
    for mode in MODES {
        let mut seen: BTreeMap<Vec<u8>, u16> = BTreeMap::new();
        for code in 1..256 {
            let [down, up] = said(mode, &[], code);
            let other_set_3 = mode == Mode::Set(3) && keys::set3(code).is_none();
            if NOWHERE.contains(&code) || keys::code(code).is_none() || other_set_3 {
                assert!(down.is_empty() && up.is_empty(), "{mode:?}: key {code} says {down:02x?}");
                assert!(code > 127 || NOWHERE.contains(&code) || other_set_3, "key {code} has no code");
                continue;
            }
            assert!(!down.is_empty(), "{mode:?}: key {code} says nothing");
            if let Some(other) = seen.insert(down.clone(), code) {
                panic!("{mode:?}: keys {other} and {code} both say {down:02x?}");
            }
            let silent = matches!(keys::code(code), Some(Code::Once(_) | Code::Pause)) && mode != Mode::Set(3)
                || matches!(code, 122 | 123);
            assert_eq!(up.is_empty(), silent, "{mode:?}: key {code} is let go with {up:02x?}");
            assert!(silent || !seen.contains_key(&up), "{mode:?}: key {code} is let go with another's {up:02x?}");
        }
    }
}

#[test]
fn volume_power_brazilian_japanese_and_korean_keys_have_the_codes_that_guests_know() {
    // Key; set 1 by translation; set 2; set 3.
    let want: &[(u16, &[u8], &[u8], &[u8])] = &[
        (113, &[0xe0, 0x20], &[0xe0, 0x23], &[0x9c]),
        (114, &[0xe0, 0x2e], &[0xe0, 0x21], &[0x9d]),
        (115, &[0xe0, 0x30], &[0xe0, 0x32], &[0x95]),
        (116, &[0xe0, 0x5e], &[0xe0, 0x37], &[]),
        (142, &[0xe0, 0x5f], &[0xe0, 0x3f], &[]),
        (143, &[0xe0, 0x63], &[0xe0, 0x5e], &[]),
        (122, &[0xf2], &[0xf2], &[0xf2]),
        (123, &[0xf1], &[0xf1], &[0xf1]),
        (89, &[0x73], &[0x51], &[0x51]),
        (121, &[0x7e], &[0x6d], &[0x7b]),
        (124, &[0x7d], &[0x6a], &[0x5d]),
        (92, &[0x79], &[0x64], &[0x86]),
        (93, &[0x70], &[0x13], &[0x87]),
        (94, &[0x7b], &[0x67], &[0x85]),
        (85, &[0x76], &[0x5f], &[]),
        (90, &[0x78], &[0x63], &[]),
        (91, &[0x77], &[0x62], &[]),
        (95, &[0x5c], &[0x27], &[]),
        (117, &[0x59], &[0x0f], &[]),
    ];
    for (code, set1, set2, set3) in want {
        for (mode, bytes) in MODES.into_iter().zip([set1, set1, set2, set3]) {
            assert_eq!(said(mode, &[], *code)[0], *bytes, "{mode:?}: key {code}");
        }
    }
}

#[test]
fn codes_that_depend_on_other_keys_are_those_of_the_table() {
    // Held keys; the key; its codes for press and release, translated.
    let want: &[(&[u16], u16, &[u8], &[u8])] = &[
        // Print, with Control or Shift; with Alt it is SysRq.
        (&[], 99, &[0xe0, 0x2a, 0xe0, 0x37], &[0xe0, 0xb7, 0xe0, 0xaa]),
        (&[42], 99, &[0xe0, 0x37], &[0xe0, 0xb7]),
        (&[54], 99, &[0xe0, 0x37], &[0xe0, 0xb7]),
        (&[97], 99, &[0xe0, 0x37], &[0xe0, 0xb7]),
        (&[56], 99, &[0x54], &[0xd4]),
        (&[100], 99, &[0x54], &[0xd4]),
        (&[29, 56], 99, &[0x54], &[0xd4]),
        // Pause; with Control it is Break.
        (&[], 119, &[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5], &[]),
        (&[42], 119, &[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5], &[]),
        (&[29], 119, &[0xe0, 0x46, 0xe0, 0xc6], &[]),
        (&[97], 119, &[0xe0, 0x46, 0xe0, 0xc6], &[]),
        // The keypad's slash with Shift.
        (&[], 98, &[0xe0, 0x35], &[0xe0, 0xb5]),
        (&[42], 98, &[0xe0, 0xaa, 0xe0, 0x35], &[0xe0, 0xb5, 0xe0, 0x2a]),
        (&[54], 98, &[0xe0, 0xb6, 0xe0, 0x35], &[0xe0, 0xb5, 0xe0, 0x36]),
        (&[42, 54], 98, &[0xe0, 0xaa, 0xe0, 0xb6, 0xe0, 0x35], &[0xe0, 0xb5, 0xe0, 0x36, 0xe0, 0x2a]),
        // Keys beside the keypad with Shift.
        (&[42], 103, &[0xe0, 0xaa, 0xe0, 0x48], &[0xe0, 0xc8, 0xe0, 0x2a]),
        (&[29], 103, &[0xe0, 0x48], &[0xe0, 0xc8]),
    ];
    for (held, code, down, up) in want {
        assert_eq!(said(Mode::Translated, held, *code), [down.to_vec(), up.to_vec()], "{held:?} and {code}");
        assert_eq!(said(Mode::Set(1), held, *code), [down.to_vec(), up.to_vec()], "{held:?} and {code} in set 1");
    }
    // The same keys in set 2.
    let want: &[(&[u16], u16, &[u8], &[u8])] = &[
        (&[], 99, &[0xe0, 0x12, 0xe0, 0x7c], &[0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12]),
        (&[56], 99, &[0x84], &[0xf0, 0x84]),
        (&[], 119, &[0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77], &[]),
        (&[29], 119, &[0xe0, 0x7e, 0xe0, 0xf0, 0x7e], &[]),
        (&[54], 98, &[0xe0, 0xf0, 0x59, 0xe0, 0x4a], &[0xe0, 0xf0, 0x4a, 0xe0, 0x59]),
    ];
    for (held, code, down, up) in want {
        assert_eq!(said(Mode::Set(2), held, *code), [down.to_vec(), up.to_vec()], "{held:?} and {code} in set 2");
    }
    // Set 3 has no such prefixes.
    for held in [&[][..], &[29], &[42], &[56]] {
        assert_eq!([99, 119, 98].map(|code| said(Mode::Set(3), held, code)[0].clone()), [[0x57], [0x62], [0x77]]);
    }
}

#[test]
fn num_lock_and_shift_change_the_keys_beside_the_keypad() {
    let (mut p, mut cx) = controller();
    for byte in [0xed, 2] {
        write(&mut p, &mut cx, 0, byte);
    }
    all(&mut p, &mut cx);
    assert_eq!(key(&mut p, &mut cx, 102, true), [0xe0, 0x2a, 0xe0, 0x47]);
    cx.clock = bulkhead_bus::Clock::Driven(1_000_000_000);
    assert_eq!(key(&mut p, &mut cx, 102, true), [0xe0, 0x47], "only the key itself repeats");
    assert_eq!(key(&mut p, &mut cx, 102, false), [0xe0, 0xc7, 0xe0, 0xaa]);
    key(&mut p, &mut cx, 54, true);
    assert_eq!(key(&mut p, &mut cx, 102, true), [0xe0, 0x47], "Shift turns Num Lock round");
    assert_eq!(key(&mut p, &mut cx, 102, false), [0xe0, 0xc7]);
    assert_eq!(key(&mut p, &mut cx, 71, true), [0x47], "the keypad itself says the same always");
}

#[test]
fn a_key_is_released_as_it_was_pressed_whatever_the_modifiers() {
    // The modifier that is held at the key's press and released before the key; the key; the codes of its release.
    for (modifier, code, up) in
        [(56, 99, &[0xd4][..]), (100, 99, &[0xd4]), (42, 99, &[0xe0, 0xb7]), (29, 99, &[0xe0, 0xb7])]
    {
        let (mut p, mut cx) = controller();
        key(&mut p, &mut cx, modifier, true);
        key(&mut p, &mut cx, code, true);
        key(&mut p, &mut cx, modifier, false);
        // A restarted process uses the same form.
        let (mut next, mut other) = controller();
        next.load(&p.save(), &mut other).unwrap();
        assert_eq!(key(&mut p, &mut cx, code, false), up, "{modifier} and {code}");
        assert_eq!(key(&mut next, &mut other, code, false), up, "{modifier} and {code} in a later life");
    }
    // A modifier that is pressed later has no effect on the release.
    let (mut p, mut cx) = controller();
    key(&mut p, &mut cx, 99, true);
    key(&mut p, &mut cx, 56, true);
    assert_eq!(key(&mut p, &mut cx, 99, false), [0xe0, 0xb7, 0xe0, 0xaa]);
    // A Shift that was released in between is not pressed again.
    let (mut p, mut cx) = controller();
    key(&mut p, &mut cx, 42, true);
    key(&mut p, &mut cx, 105, true);
    key(&mut p, &mut cx, 42, false);
    assert_eq!(key(&mut p, &mut cx, 105, false), [0xe0, 0xcb]);
}

#[test]
fn every_key_has_a_code_of_its_own_in_set_3() {
    let codes: Vec<u8> = (0..256).filter_map(keys::set3).collect();
    let different: std::collections::BTreeSet<u8> = codes.iter().copied().collect();
    assert!(
        codes.len() > 90 && different.len() == codes.len() && !different.contains(&0),
        "{} of {}",
        different.len(),
        codes.len()
    );
}
