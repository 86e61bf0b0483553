//! QEMU's option grammar: `key=value` pairs with commas between them. A doubled comma is a comma in a value. The first element of
//! some options has no key.

/// An option's value, split into keys and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The first element if it has no `=`: the value of the implied key.
    pub head: Option<String>,
    /// All other elements; one without `=` is a switch that is on.
    pub pairs: Vec<(String, String)>,
}

impl Options {
    /// Parses `text`. Each text has this grammar; the caller validates keys and values.
    pub fn parse(text: &str) -> Self {
        let mut parts = vec![String::new()];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == ',' && chars.next_if_eq(&',').is_none() {
                parts.push(String::new());
                continue;
            }
            if let Some(last) = parts.last_mut() {
                last.push(c);
            }
        }
        let mut options = Self::default();
        for (i, part) in parts.into_iter().enumerate() {
            match part.split_once('=') {
                Some((key, value)) => options.pairs.push((key.to_owned(), value.to_owned())),
                None if i == 0 => options.head = Some(part),
                None if part.is_empty() => {}
                // QEMU's older way to write a switch that is off: `server,nowait`.
                None if part == "nowait" => options.pairs.push(("wait".to_owned(), "off".to_owned())),
                None => options.pairs.push((part, "on".to_owned())),
            }
        }
        options
    }

    /// The value of `key`, the last one given.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The value of the first element, with or without its key `key`.
    pub fn head(&self, key: &str) -> Option<&str> {
        self.head.as_deref().filter(|h| !h.is_empty()).or_else(|| self.get(key))
    }

    /// A switch; `None` if it is neither on nor off.
    pub fn flag(&self, key: &str, default: bool) -> Option<bool> {
        match self.get(key) {
            None => Some(default),
            Some("on" | "yes" | "true" | "y") => Some(true),
            Some("off" | "no" | "false" | "n") => Some(false),
            Some(_) => None,
        }
    }

    /// The first key that is not in `known`.
    pub fn unknown<'a>(&'a self, known: &[&str]) -> Option<&'a str> {
        self.pairs.iter().map(|(k, _)| k.as_str()).find(|k| !known.contains(k))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_libxl_writes() {
        let o = Options::parse("socket,id=libxl-cmd,path=/var/run/xen/qmp-libxl-7,server=on,wait=off");
        assert_eq!(o.head("backend"), Some("socket"));
        assert_eq!(o.get("path"), Some("/var/run/xen/qmp-libxl-7"));
        assert_eq!(
            (o.flag("server", false), o.flag("wait", true), o.flag("x", true)),
            (Some(true), Some(false), Some(true))
        );
        let o = Options::parse("file=/iso/a,,b.iso,if=ide,readonly");
        assert_eq!((o.head("file"), o.get("readonly")), (Some("/iso/a,b.iso"), Some("on")));
        assert_eq!(Options::parse("driver=VGA,vgamem_mb=16").head("driver"), Some("VGA"));
        assert_eq!(Options::parse("a=1,a=2").get("a"), Some("2"));
        assert_eq!(Options::parse("order=dc").unknown(&["order"]), None);
        assert_eq!(Options::parse("order=dc,menu=on").unknown(&["order"]), Some("menu"));
        let o = Options::parse("unix:/run/qmp,server,nowait");
        assert_eq!((o.flag("server", false), o.flag("wait", true)), (Some(true), Some(false)));
        assert_eq!(Options::parse("x=maybe").flag("x", false), None);
    }

    proptest! {
        #[test]
        fn a_value_with_any_commas_survives_when_they_are_doubled(value in "[a-z,=]{0,20}") {
            let text = format!("head,key={}", value.replace(',', ",,"));
            let parsed = Options::parse(&text);
            prop_assert_eq!(parsed.get("key"), Some(value.as_str()));
        }
    }
}
