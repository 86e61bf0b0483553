//! Splits a stream of bytes into JSON objects, with any bytes between them, as QMP does.

/// Most bytes of one object, which is also libxl's limit.
pub(crate) const OBJECT_MAX: usize = 1 << 20;
/// Deepest nesting that is accepted.
const DEPTH_MAX: usize = 64;

/// The next part of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A complete object's text.
    Object(Vec<u8>),
    /// Bytes that cannot begin an object, up to the end of their line.
    Garbage,
}

/// Collects bytes and returns complete objects.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    bytes: Vec<u8>,
    /// Number of bytes that have been scanned; the fields below are the scanner's state there.
    at: usize,
    depth: usize,
    string: bool,
    escape: bool,
    skipping: bool,
    /// This line has only blanks so far.
    fresh: bool,
    /// Position of a brace that begins a line while another object is open.
    suspect: Option<usize>,
}

impl Splitter {
    /// Appends received bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn cut(&mut self) -> Vec<u8> {
        let rest = self.bytes.split_off(self.at.min(self.bytes.len()));
        let head = std::mem::replace(&mut self.bytes, rest);
        *self = Self { bytes: std::mem::take(&mut self.bytes), ..Self::default() };
        head
    }

    /// Called at the end of a string. If the string is "execute", the first token of an object that begins a line, then that object
    /// is a new command, and the open object before it was never completed: an incomplete command must not swallow the commands
    /// after it.
    fn is_new_command(&mut self) -> bool {
        let Some(start) = self.suspect.take() else { return false };
        let text = self.bytes.get(start.saturating_add(1)..self.at).unwrap_or_default();
        if text.trim_ascii() != b"\"execute\"" {
            return false;
        }
        self.at = start;
        self.cut();
        true
    }

    /// The next piece, if it is complete.
    pub(crate) fn next(&mut self) -> Option<Piece> {
        while let Some(&byte) = self.bytes.get(self.at) {
            self.at = self.at.saturating_add(1);
            if self.skipping {
                if byte == b'\n' {
                    self.cut();
                    return Some(Piece::Garbage);
                }
                if self.at > 4096 {
                    self.cut();
                    self.skipping = true;
                }
                continue;
            }
            if self.string {
                match byte {
                    // A string cannot span lines, so a quote is missing.
                    b'\n' => {
                        self.cut();
                        return Some(Piece::Garbage);
                    }
                    _ if self.escape => self.escape = false,
                    b'\\' => self.escape = true,
                    b'"' => {
                        self.string = false;
                        if self.is_new_command() {
                            return Some(Piece::Garbage);
                        }
                    }
                    _ => {}
                }
            } else {
                let fresh = self.fresh;
                self.fresh = byte == b'\n' || (fresh && byte.is_ascii_whitespace());
                if byte == b'{' && fresh && self.depth > 0 {
                    self.suspect = Some(self.at.saturating_sub(1));
                } else if !byte.is_ascii_whitespace() && byte != b'"' {
                    self.suspect = None;
                }
                match byte {
                    b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                    b'}' | b']' if self.depth > 0 => {
                        self.depth = self.depth.saturating_sub(1);
                        if self.depth == 0 {
                            let object = self.cut();
                            let start = object.iter().position(|b| *b == b'{' || *b == b'[').unwrap_or(0);
                            return Some(Piece::Object(object.get(start..).unwrap_or_default().to_vec()));
                        }
                    }
                    b'"' if self.depth > 0 => self.string = true,
                    b' ' | b'\t' | b'\r' => {}
                    b'\n' if self.depth == 0 => {
                        self.cut();
                    }
                    _ if self.depth == 0 => self.skipping = true,
                    _ => {}
                }
            }
            if self.depth > DEPTH_MAX || self.at > OBJECT_MAX {
                self.cut();
                self.skipping = true;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(splitter: &mut Splitter) -> Vec<Piece> {
        std::iter::from_fn(|| splitter.next()).collect()
    }

    #[test]
    fn objects_come_out_whole_whatever_the_pieces() {
        let text = b"{\"execute\":\"a}\\\"{\",\"id\":1}{\"b\":[{}]}\r\n\n{\"c\":1}";
        for cut in 0..text.len() {
            let mut splitter = Splitter::default();
            splitter.push(&text[..cut]);
            let mut pieces = all(&mut splitter);
            splitter.push(&text[cut..]);
            pieces.extend(all(&mut splitter));
            let texts: Vec<_> = pieces
                .into_iter()
                .map(|p| match p {
                    Piece::Object(o) => String::from_utf8(o).unwrap(),
                    Piece::Garbage => "garbage".into(),
                })
                .collect();
            assert_eq!(texts, ["{\"execute\":\"a}\\\"{\",\"id\":1}", "{\"b\":[{}]}", "{\"c\":1}"]);
        }
    }

    #[test]
    fn garbage_ends_with_its_line_and_what_follows_is_understood() {
        let mut splitter = Splitter::default();
        splitter.push(b"hello {\"a\":1}\n{\"execute\":\"x\n{\"b\":2}");
        assert_eq!(all(&mut splitter), [Piece::Garbage, Piece::Garbage, Piece::Object(b"{\"b\":2}".to_vec())]);
    }

    #[test]
    fn a_command_that_was_cut_off_does_not_swallow_the_next() {
        let mut splitter = Splitter::default();
        splitter.push(b"{\"execute\":\"a\",\"arguments\":{\r\n{ \"execute\":\"b\"}\n{\"x\":\n{\"y\":1}}");
        let objects = [&b"{ \"execute\":\"b\"}"[..], b"{\"x\":\n{\"y\":1}}"].map(|o| Piece::Object(o.to_vec()));
        assert_eq!(all(&mut splitter), [vec![Piece::Garbage], objects.into()].concat());
    }

    /// Any byte, and often one that has a meaning in JSON.
    fn noisy() -> impl Strategy<Value = u8> {
        prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\"\\\n,:ae".to_vec())]
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_a_valid_object_on_its_own_line_is_always_found(noise in prop::collection::vec(noisy(), 0..300)) {
            let mut splitter = Splitter::default();
            splitter.push(&noise);
            let _ = all(&mut splitter);
            splitter.push(b"\n{\"execute\":\"query-status\"}\n");
            let found = all(&mut splitter).contains(&Piece::Object(b"{\"execute\":\"query-status\"}".to_vec()));
            prop_assert!(found);
        }
    }
}
