//! Picks values out of JSON.
use crate::Done;
use serde_json::Value;

/// Prints what the words lead to in the documents on standard input, a value a line; fails if that is nothing.
pub(crate) fn json(words: &[String]) -> Done {
    let mut found = 0;
    for document in serde_json::Deserializer::from_reader(std::io::stdin()).into_iter::<Value>() {
        for value in select(vec![document?], words)? {
            println!("{}", shown(&value));
            found += 1;
        }
    }
    if found > 0 { Ok(()) } else { Err(format!("there is no {}", words.join(" ")).into()) }
}

/// Strings as they are, everything else as JSON.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Each word takes every value so far to some of what is in it, or leaves out those that are not like that.
fn select(mut values: Vec<Value>, words: &[String]) -> Result<Vec<Value>, String> {
    for word in words {
        values = match word.split_once('=') {
            _ if word == "*" => values.iter().flat_map(members).collect(),
            _ if word == "nonzero" => values.into_iter().map(nonzero).collect(),
            Some(("", wanted)) => values.into_iter().filter(|v| shown(v) == wanted).collect(),
            Some(("!", unwanted)) => values.into_iter().filter(|v| shown(v) != unwanted).collect(),
            Some((path, wanted)) => {
                let has = |v: &Value| at(v, path).is_some_and(|v| like(&shown(v), wanted));
                values.iter().flat_map(members).filter(has).collect()
            }
            None => values.iter().filter_map(|v| at(v, word)).cloned().collect(),
        };
    }
    Ok(values)
}

fn members(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(all) => all.clone(),
        Value::Object(all) => all.values().cloned().collect(),
        _ => Vec::new(),
    }
}

/// A member by its name, an element by its number; of these again by what comes behind a dot.
fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    if let Some(found) = value.get(path) {
        return Some(found);
    }
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let found = value.get(first).or_else(|| value.get(first.parse::<usize>().ok()?))?;
    if rest.is_empty() { Some(found) } else { at(found, rest) }
}

/// `wanted` may end in a star.
fn like(text: &str, wanted: &str) -> bool {
    wanted.strip_suffix('*').map_or(text == wanted, |start| text.starts_with(start))
}

/// The members of an object that are not 0.
fn nonzero(value: Value) -> Value {
    match value {
        Value::Object(all) => Value::Object(all.into_iter().filter(|(_, v)| v != &Value::from(0)).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(document: &str, words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        select(vec![serde_json::from_str(document).unwrap()], &words).unwrap().iter().map(shown).collect()
    }

    #[test]
    fn words_lead_to_values() {
        let table = r#"{"processes":[{"name":"ide","restarts":0},{"name":"qdisk768","restarts":1},{"name":"qdisk832","restarts":0}]}"#;
        assert_eq!(picked(table, &["processes", "name=ide", "restarts"]), ["0"]);
        assert_eq!(picked(table, &["processes", "name=qdisk*", "restarts"]), ["1", "0"]);
        assert_eq!(picked(table, &["processes", "name=qdisk*", "restarts", "=1"]), ["1"]);
        assert_eq!(picked(table, &["processes", "name=qdisk*", "restarts", "!=0"]), ["1"]);
        assert_eq!(picked(table, &["processes", "2", "name"]), ["qdisk832"]);
        assert!(picked(table, &["processes", "name=vga", "restarts"]).is_empty());
        let sets = r#"{"return":[{"fds":[{"fd":3,"opaque":"stub-devid:5632"}],"fdset-id":7}]}"#;
        assert_eq!(picked(sets, &["return", "fds.0.opaque=stub-devid:5632", "fdset-id"]), ["7"]);
        let counts = r#"{"statistics":{"full hops":12,"pages mapped":0}}"#;
        assert_eq!(picked(counts, &["*", "full hops"]), ["12"]);
        assert_eq!(picked(counts, &["statistics", "nonzero"]), [r#"{"full hops":12}"#]);
    }
}
