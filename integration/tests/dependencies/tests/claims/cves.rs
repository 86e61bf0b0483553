//! Faults of other device models: `docs/security/cves.toml`.
use super::page;
use super::sources::{Sources, read};
use bulkhead_launcher::argv;
use bulkhead_policy::PROFILES;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// What a process exposes if it is compromised, by its role.
    exposes: BTreeMap<String, String>,
    /// Advisories whose subject is not published: nothing is claimed of them.
    unread: Vec<Unread>,
    fault: Vec<Fault>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unread {
    ids: Vec<String>,
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    /// CVE and XSA numbers.
    ids: Vec<String>,
    /// Where it was.
    device: String,
    /// Its class in a few words.
    class: String,
    /// Why, in half a sentence.
    why: String,
    answer: Answer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
enum Answer {
    /// The types or functions that leave no room for it, and tests that try.
    NotExpressible { types: Vec<String>, tests: Vec<String> },
    /// It could be made again in these processes; tests that it has not been.
    Contained { processes: Vec<String>, tests: Vec<String> },
    /// Arguments of the launcher that ask for it, and QMP's commands for it: none has an effect.
    NotOffered {
        #[serde(default)]
        arguments: Vec<Vec<String>>,
        #[serde(default)]
        qmp: Vec<String>,
    },
}

fn table() -> Table {
    toml::from_str(&read("docs/security/cves.toml")).unwrap_or_else(|e| panic!("cves.toml: {e}"))
}

/// Whether a machine with these arguments would have what they ask for.
fn is_offered(arguments: &[String]) -> bool {
    let implemented = argv::verdicts(arguments).iter().all(|v| v.fate.0 == "implemented");
    let whole =
        ["-xen-domid", "1", "-machine", "xenfv"].map(str::to_owned).into_iter().chain(arguments.iter().cloned());
    implemented && argv::parse(whole).is_ok()
}

#[test]
fn every_answer_names_what_there_is() {
    let sources = Sources::parse();
    let table = table();
    let mut wrong = Vec::new();
    let mut need = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    for Fault { ids, answer, .. } in &table.fault {
        let name = ids.join(", ");
        need(!ids.is_empty(), "a fault without a number".to_owned());
        match answer {
            Answer::NotExpressible { types, tests } => {
                need(!types.is_empty() && !tests.is_empty(), format!("{name}: no type or no test"));
                for item in types {
                    need(sources.has_item(item), format!("{name}: there is no {item}"));
                }
                for test in tests {
                    need(sources.has_test(test), format!("{name}: there is no test {test}"));
                }
            }
            Answer::Contained { processes, tests } => {
                need(!processes.is_empty() && !tests.is_empty(), format!("{name}: no process or no test"));
                for process in processes {
                    need(
                        table.exposes.contains_key(process),
                        format!("{name}: {process} is not in the list of processes"),
                    );
                }
                for test in tests {
                    need(sources.has_test(test), format!("{name}: there is no test {test}"));
                }
            }
            Answer::NotOffered { arguments, qmp } => {
                need(!arguments.is_empty() || !qmp.is_empty(), format!("{name}: nothing asks for it"));
                for arguments in arguments {
                    need(!is_offered(arguments), format!("{name}: {} is accepted", arguments.join(" ")));
                }
                for command in qmp {
                    let known = bulkhead_control::COMMANDS.iter().any(|(known, _)| known == command);
                    need(!known, format!("{name}: QMP has {command}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_processes_of_the_table_are_the_roles() {
    let roles: BTreeSet<&str> = PROFILES.iter().map(|profile| profile.role).chain(["launcher", "starter"]).collect();
    assert_eq!(table().exposes.keys().map(String::as_str).collect::<BTreeSet<_>>(), roles);
}

#[test]
fn no_fault_is_in_two_rows() {
    let table = table();
    let mut seen = BTreeSet::new();
    for id in table.fault.iter().flat_map(|f| &f.ids).chain(table.unread.iter().flat_map(|u| &u.ids)) {
        let number = id.strip_prefix("CVE-").or_else(|| id.strip_prefix("XSA-"));
        let digits = |n: &str| n.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        assert!(number.is_some_and(digits), "{id} is no number of an advisory");
        assert!(seen.insert(id), "{id} is in two rows");
    }
    assert!(seen.len() > 200, "{}", seen.len());
}

/// Types and functions in a column for people: the name, and its file.
fn items(names: &[String]) -> String {
    let shown = names.iter().filter_map(|name| name.split_once("::"));
    shown.map(|(file, name)| format!("`{name}` ({file})")).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_page_has_the_faults() {
    let table = table();
    let mut made = String::new();
    let mut numbers = [0; 3];
    let mut rows = String::from("| advisory | where | class | answer | by what |\n|---|---|---|---|---|\n");
    for Fault { ids, device, class, answer, why } in &table.fault {
        let (kind, answer, how) = match answer {
            Answer::NotExpressible { types, tests } => {
                (0, "not expressible", format!("{why}: {}. {}", items(types), page::tests(tests)))
            }
            Answer::Contained { processes, tests } => {
                let processes: Vec<_> = processes.iter().map(|p| format!("`{p}`")).collect();
                (1, "contained", format!("{why}; process {}. {}", processes.join(", "), page::tests(tests)))
            }
            Answer::NotOffered { arguments, qmp } => {
                let mut asks: Vec<_> = arguments.iter().map(|a| format!("`{}`", a.join(" "))).collect();
                asks.extend(qmp.iter().map(|c| format!("QMP `{c}`")));
                (2, "not offered", format!("{why}: {}", asks.join(", ")))
            }
        };
        numbers[kind] += ids.len();
        rows.push_str(&format!("| {} | {device} | {class} | {answer} | {how} |\n", ids.join(", ")));
    }
    let [not_expressible, contained, not_offered] = numbers;
    made.push_str(&format!(
        "{} advisories: {not_expressible} not expressible, {contained} contained, {not_offered} not offered.\n\n{rows}",
        not_expressible + contained + not_offered
    ));
    made.push_str("\n## What a process exposes\n\n| process | if it is compromised |\n|---|---|\n");
    for (process, exposes) in &table.exposes {
        made.push_str(&format!("| `{process}` | {exposes} |\n"));
    }
    made.push_str("\n## Not classified\n\n");
    for Unread { ids, source } in &table.unread {
        made.push_str(&format!("* {}: {source}\n", ids.join(", ")));
    }
    page::compare("docs/security/cves.md", "docs/security/cves.toml", &made);
}
