//! Pages with a part that is made from a data file.
use super::sources::{read, top};

/// Compares the part of a page that is made from `source` with `made`; `UPDATE=1` writes it. The part is between two comments.
pub fn compare(path: &str, source: &str, made: &str) {
    let page = read(path);
    let (begin, end) = (format!("<!-- from {source} -->\n"), format!("<!-- to here from {source} -->\n"));
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("{path} has no place for {source}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{path}: the part from {source} does not end"));
    let whole = format!("{before}{begin}{made}{end}{after}");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(top().join(path), &whole).unwrap();
    }
    assert!(read(path) == whole, "{path} is not what {source} says; UPDATE=1 writes it");
}

/// Tests in a column for people: functions by package. Tests of one name, one for each module, are shown once with their number.
pub fn tests(names: &[String]) -> String {
    let mut packages: Vec<(&str, Vec<(&str, u32)>)> = Vec::new();
    for name in names {
        let (package, rest) = name.split_once("::").unwrap_or((name, ""));
        let function = rest.rsplit("::").next().unwrap_or_default();
        if packages.last().is_none_or(|(last, _)| *last != package) {
            packages.push((package, Vec::new()));
        }
        let functions = &mut packages.last_mut().unwrap().1;
        match functions.iter_mut().find(|(known, _)| *known == function) {
            Some((_, count)) => *count += 1,
            None => functions.push((function, 1)),
        }
    }
    let shown = packages.into_iter().map(|(package, functions)| {
        let functions = functions.into_iter().map(|(function, count)| match count {
            1 => format!("`{function}`"),
            _ => format!("`{function}` ({count})"),
        });
        format!("{}: {}", package.trim_start_matches("bulkhead-"), functions.collect::<Vec<_>>().join(", "))
    });
    shown.collect::<Vec<_>>().join("; ")
}
