//! The borders of docs/threat-model.md: `docs/security/borders.toml`.
use super::faults::faults;
use super::page;
use super::sources::{Sources, read};
use serde::Deserialize;
use std::collections::BTreeSet;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    border: Vec<Border>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Border {
    border: String,
    hostile: String,
    holds: String,
    tests: Vec<String>,
}

fn table() -> Vec<Border> {
    toml::from_str::<Table>(&read("docs/security/borders.toml")).unwrap_or_else(|e| panic!("borders.toml: {e}")).border
}

#[test]
fn every_border_has_its_tests_and_a_fault_that_one_of_them_catches() {
    let sources = Sources::parse();
    let caught: BTreeSet<String> = faults().into_iter().map(|f| f.test).collect();
    let table = table();
    assert!(table.len() > 25, "{}", table.len());
    let mut wrong = Vec::new();
    for Border { border, tests, .. } in &table {
        for test in tests.iter().filter(|t| !sources.has_test(t)) {
            wrong.push(format!("{border}: there is no test {test}"));
        }
        if !tests.iter().any(|t| caught.contains(t)) {
            wrong.push(format!("{border}: faults.tsv has no fault that one of its tests catches"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_page_has_the_borders() {
    let mut rows = String::from("| border | what is hostile | what holds | tests |\n|---|---|---|---|\n");
    for Border { border, hostile, holds, tests } in table() {
        rows.push_str(&format!("| {border} | {hostile} | {holds} | {} |\n", page::tests(&tests)));
    }
    page::compare("docs/threat-model.md", "docs/security/borders.toml", &rows);
}
