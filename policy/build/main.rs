//! Compiles each profile in profiles/ into a BPF program and a Rust constant. A profile is complete: profiles share no list of
//! system calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
mod arguments;

use arguments::{Width, width};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    role: String,
    purpose: String,
    descriptors: Vec<String>,
    limits: Limits,
    syscalls: BTreeMap<String, Syscall>,
}

/// The launcher's own profile.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Cage {
    role: String,
    purpose: String,
    capabilities: Vec<Capability>,
    syscalls: BTreeMap<String, Syscall>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Capability {
    name: String,
    why: String,
    /// Only the first process of a stub domain has it.
    #[serde(default)]
    stubdom: bool,
    /// Until the machine is prepared; then the starter alone has it.
    #[serde(default)]
    start: bool,
}

/// The file of [`Cage`].
const CAGE: &str = "launcher";
/// EPERM: the answer to a call that the launcher's profile does not have.
const DENIED: u32 = 1;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    files: u64,
    file_size: u64,
    data: u64,
    address_space: u64,
    memory: u64,
    threads: u64,
}

#[derive(Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Syscall {
    why: String,
    /// Each is one allowed combination; all conditions of one must hold.
    #[serde(default)]
    only: Vec<Vec<Condition>>,
    /// As of a capability; in the launcher's profile alone.
    #[serde(default)]
    start: bool,
    /// What is left of `only` when the machine is prepared; in the launcher's profile alone.
    #[serde(default)]
    then: Vec<Vec<Condition>>,
}

#[derive(Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    /// The argument's number, from 0. `arguments.rs` knows how much of it is compared.
    arg: u8,
    #[serde(default)]
    eq: Option<u64>,
    /// arg & mask == 0.
    #[serde(default)]
    without: Option<u64>,
}

fn main() {
    println!("cargo:rerun-if-changed=profiles");
    println!("cargo:rerun-if-changed=build");
    let out = std::env::var("OUT_DIR").unwrap();
    let mut table = String::from("/// All profiles, by role.\npub static PROFILES: &[Profile] = &[\n");
    let mut paths: Vec<_> = std::fs::read_dir("profiles").unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let mut cage: Option<Cage> = None;
    for path in paths {
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        if path.file_stem().is_some_and(|s| s == CAGE) {
            cage = Some(toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap());
            continue;
        }
        let profile: Profile = toml::from_str(&std::fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(path.file_stem().unwrap().to_str().unwrap(), profile.role, "a profile's name is its role");
        assert!(!profile.purpose.is_empty() && profile.syscalls.values().all(|s| !s.start && s.then.is_empty()));
        let bytes = compile(&profile.role, &profile.syscalls, serde_json::json!("kill_process"));
        std::fs::write(Path::new(&out).join(format!("{}.bpf", profile.role)), bytes).unwrap();
        let names: Vec<_> = profile.syscalls.keys().collect();
        let Profile { role, descriptors, .. } = &profile;
        let Limits { files, file_size, data, address_space, memory, threads } = &profile.limits;
        let limits = format!(
            "Limits {{ files: {files}, file_size: {file_size}, data: {data}, address_space: {address_space}, memory: {memory}, threads: {threads} }}"
        );
        let filter = format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{role}.bpf\"))");
        writeln!(table, "Profile {{").unwrap();
        writeln!(table, "    role: {role:?}, limits: {limits},").unwrap();
        writeln!(table, "    descriptors: &{descriptors:?}, syscalls: &{names:?}, filter: {filter},").unwrap();
        writeln!(table, "}},").unwrap();
    }
    table.push_str("];\n");
    let Cage { role, purpose, capabilities, syscalls } = cage.expect("the launcher's profile");
    assert!(role == CAGE && !purpose.is_empty());
    assert!(capabilities.iter().all(|c| c.why.len() > 5), "each capability has a reason");
    let mut rights = |name: &str, doc: &str, kept: fn(bool) -> bool| {
        let denied = serde_json::json!({ "errno": DENIED });
        let mut syscalls: BTreeMap<_, _> = syscalls.clone().into_iter().filter(|(_, s)| kept(s.start)).collect();
        if !kept(true) {
            for syscall in syscalls.values_mut().filter(|s| !s.then.is_empty()) {
                syscall.only.clone_from(&syscall.then);
            }
        }
        let file = format!("{}.bpf", name.to_lowercase());
        std::fs::write(Path::new(&out).join(&file), compile(&role, &syscalls, denied)).unwrap();
        let of = |stubdom| {
            let all = capabilities.iter().filter(|c| kept(c.start) && c.stubdom == stubdom);
            all.map(|c| &c.name).collect::<Vec<_>>()
        };
        let (everywhere, in_stubdom, names) = (of(false), of(true), syscalls.keys().collect::<Vec<_>>());
        let filter = format!("include_bytes!(concat!(env!(\"OUT_DIR\"), {:?}))", format!("/{file}"));
        writeln!(table, "/// {doc}\npub static {name}: Cage = Cage {{").unwrap();
        writeln!(table, "    capabilities: &{everywhere:?}, in_stubdom: &{in_stubdom:?},").unwrap();
        writeln!(table, "    syscalls: &{names:?},\n    filter: {filter},\n}};").unwrap();
    };
    rights("STARTING", "The rights of the launcher until the machine is prepared, and of the starter.", |_| true);
    rights("RUNNING", "The rights of the launcher from then on.", |start| !start);
    std::fs::write(Path::new(&out).join("profiles.rs"), table).unwrap();
}

fn compile(role: &str, syscalls: &BTreeMap<String, Syscall>, otherwise: serde_json::Value) -> Vec<u8> {
    let mut rules = Vec::new();
    for (name, syscall) in syscalls {
        assert!(syscall.why.len() > 5, "{}: {name} needs a reason", role);
        assert!(!name.starts_with("io_uring"), "{}: io_uring escapes the filter", role);
        if syscall.only.is_empty() {
            rules.push(serde_json::json!({ "syscall": name }));
        }
        for conditions in &syscall.only {
            let args: Vec<_> = conditions.iter().map(|c| compared(c, name, role)).collect();
            rules.push(serde_json::json!({ "syscall": name, "args": args }));
        }
    }
    let json = serde_json::json!({
        "main": { "mismatch_action": otherwise, "match_action": "allow", "filter": rules }
    });
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap();
    let map = seccompiler::compile_from_json(json.to_string().as_bytes(), arch.as_str().try_into().unwrap())
        .unwrap_or_else(|e| panic!("{}: {e}", role));
    let program = &map["main"];
    let mut bytes = Vec::new();
    for i in program {
        bytes.extend_from_slice(&i.code.to_le_bytes());
        bytes.extend_from_slice(&[i.jt, i.jf]);
        bytes.extend_from_slice(&i.k.to_le_bytes());
    }
    bytes
}

/// A condition in the form of the compiler, over the part of the argument that the kernel uses.
fn compared(condition: &Condition, syscall: &str, role: &str) -> serde_json::Value {
    let arg = condition.arg;
    let (kind, most) = match width(syscall, arg) {
        Some(Width::Half) => ("dword", u64::from(u32::MAX)),
        Some(Width::Whole) => ("qword", u64::MAX),
        None => panic!("{role}: {syscall}: how wide argument {arg} is must stand in build/arguments.rs"),
    };
    let (op, value, named) = match (condition.eq, condition.without) {
        (Some(value), None) => (serde_json::json!("eq"), value, value),
        (None, Some(mask)) => (serde_json::json!({ "masked_eq": mask }), 0, mask),
        _ => panic!("{role}: {syscall}: one of eq and without"),
    };
    assert!(named <= most, "{role}: {syscall}: argument {arg} cannot be {named:#x}");
    serde_json::json!({ "index": arg, "type": kind, "op": op, "val": value })
}
