//! `type` and `key`: keyboard input for a guest.
use crate::guest::Guest;
use crate::{Done, Failure};
use serde_json::{Value, json};

/// Milliseconds for which a typed key is held: a keyboard's buffer takes the press and the release in that time.
const HOLD: u64 = 20;

/// The US layout's keys other than letters and digits: the character without shift, with shift, and QEMU's name of the key.
const SIGNS: &[(char, char, &str)] = &[
    (' ', ' ', "spc"),
    ('\n', '\n', "ret"),
    ('\t', '\t', "tab"),
    ('-', '_', "minus"),
    ('=', '+', "equal"),
    ('[', '{', "bracket_left"),
    (']', '}', "bracket_right"),
    (';', ':', "semicolon"),
    ('\'', '"', "apostrophe"),
    ('`', '~', "grave_accent"),
    ('\\', '|', "backslash"),
    (',', '<', "comma"),
    ('.', '>', "dot"),
    ('/', '?', "slash"),
];
/// The characters of the digit keys 0 to 9 with shift.
const SHIFTED_DIGITS: [char; 10] = [')', '!', '@', '#', '$', '%', '^', '&', '*', '('];

/// The keys that produce a character. Caps Lock inverts the case of letters only.
fn keys(c: char, caps_lock: bool) -> Option<Vec<String>> {
    let shifted =
        |name: &str, shift: bool| if shift { vec!["shift".to_owned(), name.to_owned()] } else { vec![name.to_owned()] };
    if c.is_ascii_alphanumeric() {
        let shift = c.is_ascii_uppercase() != (caps_lock && c.is_ascii_alphabetic());
        return Some(shifted(&c.to_ascii_lowercase().to_string(), shift));
    }
    if let Some(digit) = SHIFTED_DIGITS.iter().position(|d| *d == c) {
        return Some(shifted(&digit.to_string(), true));
    }
    SIGNS.iter().find(|(plain, shift, _)| *plain == c || *shift == c).map(|(plain, _, name)| shifted(name, *plain != c))
}

/// Types a text, or nothing if one of its characters is not on the US layout.
pub(crate) fn type_text(guest: &Guest, text: &str) -> Done {
    // If the device model does not report its lights, Caps Lock is taken to be off.
    let lights = guest.ask("x-bulkhead-lights", &json!({})).unwrap_or_default();
    let caps_lock = lights.get("caps-lock").and_then(Value::as_bool).unwrap_or(false);
    let all: Result<Vec<_>, char> = text.chars().map(|c| keys(c, caps_lock).ok_or(c)).collect();
    let all = all.map_err(Failure::NoKey)?;
    all.iter().try_for_each(|keys| send(guest, keys, HOLD))
}

/// Presses keys together for 100 ms.
pub(crate) fn press(guest: &Guest, keys: &[String]) -> Done {
    send(guest, keys, 100)
}

fn send(guest: &Guest, keys: &[String], hold: u64) -> Done {
    let keys: Vec<Value> = keys.iter().map(|k| json!({ "type": "qcode", "data": k })).collect();
    guest.ask("send-key", &json!({ "keys": keys, "hold-time": hold })).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::keys;

    #[test]
    fn every_character_of_the_keyboard_has_its_keys() {
        for c in (' '..='~').chain(['\n', '\t']) {
            let keys = keys(c, false).unwrap();
            let locked = super::keys(c, true).unwrap();
            assert_eq!(locked.len() != keys.len(), c.is_ascii_alphabetic(), "{c:?} with Caps Lock");
            assert!(keys.len() <= 2 && (keys.len() == 1 || keys[0] == "shift"), "{c:?}: {keys:?}");
        }
        assert_eq!(keys('A', false).unwrap(), ["shift", "a"]);
        assert_eq!(keys('(', false).unwrap(), ["shift", "9"]);
        assert_eq!(
            (keys('/', false).unwrap(), keys('?', false).unwrap()),
            (vec!["slash".to_owned()], vec!["shift".to_owned(), "slash".to_owned()])
        );
        assert_eq!(keys('ä', false), None);
    }
}
