//! Text of others, for people: of a guest, an image, a peer, a process that may be hostile.

/// Most characters of a text; the rest is dropped.
const MOST: usize = 4096;

/// The text in one line in which nothing acts on a terminal or deceives its reader: control characters, line breaks, characters that
/// change the direction of writing or have no width are escaped as in Rust's strings (`\u{1b}`). At most 4096 characters of it.
pub fn shown(text: &str) -> String {
    let mut out = String::new();
    for (number, c) in text.chars().enumerate() {
        if number >= MOST {
            out.push('…');
            break;
        }
        match c {
            '"' | '\'' | '\\' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Characters that act on a terminal, or that its reader does not see.
    fn acts(c: char) -> bool {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
            || matches!(c, '\u{61c}' | '\u{e0001}'..='\u{e007f}')
    }

    #[test]
    fn text_that_acts_on_a_terminal_is_escaped_and_other_text_stays() {
        assert_eq!(shown("\x1b]0;x\x07\r\n\u{9b}2J\u{202e}a\u{200b}"), r"\u{1b}]0;x\u{7}\r\n\u{9b}2J\u{202e}a\u{200b}");
        let plain = r#"disk image "C:\a" it's größer – 100 %"#;
        assert_eq!(shown(plain), plain);
        for c in (0..=0x10_ffff).filter_map(char::from_u32).filter(|c| acts(*c)) {
            assert!(!shown(&c.to_string()).contains(c), "{:#x}", c as u32);
        }
    }

    #[test]
    fn a_text_without_end_is_cut() {
        assert_eq!(shown(&"ä".repeat(5000)).chars().count(), MOST + 1);
    }

    proptest! {
        #[test]
        fn whatever_the_text_says_nothing_of_it_acts(text in any::<String>()) {
            prop_assert!(!shown(&text).chars().any(acts));
        }
    }
}
