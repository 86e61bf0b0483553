//! The rules of docs/architecture.md for the crates, checked against `cargo metadata` and the sources.
use bulkhead_plan::KINDS;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").canonicalize().unwrap()
}

/// Direct dependencies (not those of tests or build scripts), by package.
fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(top())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|p| {
            let dependencies = p["dependencies"].as_array().unwrap();
            let normal =
                dependencies.iter().filter(|d| d["kind"].is_null()).map(|d| d["name"].as_str().unwrap().to_owned());
            (p["name"].as_str().unwrap().to_owned(), normal.collect())
        })
        .collect()
}

#[test]
fn devices_know_the_bus_and_nothing_of_the_broker() {
    let graph = graph();
    let devices: Vec<_> = graph.keys().filter(|name| name.starts_with("bulkhead-dev-")).collect();
    assert!(devices.len() >= 5, "{devices:?}");
    for device in devices {
        let ours: Vec<_> = graph[device].iter().filter(|d| d.starts_with("bulkhead-")).map(String::as_str).collect();
        assert_eq!(ours, ["bulkhead-bus"], "{device}");
    }
}

#[test]
fn tokio_and_tonic_are_on_the_control_plane_only() {
    for (package, dependencies) in graph() {
        let asynchronous =
            dependencies.iter().any(|d| d.starts_with("tokio") || d == "tonic" || d == "hyper-util" || d == "tower");
        let allowed = ["bulkhead-runtime", "bulkhead-control", "bulkhead-control-api"].contains(&package.as_str());
        assert!(!asynchronous || allowed, "{package}");
    }
}

#[test]
fn what_crosses_a_border_needs_no_xen_and_no_process() {
    let graph = graph();
    for (package, allowed) in [
        ("bulkhead-wire", &[][..]),
        ("bulkhead-xen-abi", &[]),
        ("bulkhead-ring", &["bulkhead-wire"]),
        ("bulkhead-bus", &["bulkhead-wire"]),
        ("bulkhead-stream", &[]),
        ("bulkhead-plan", &["bulkhead-bus", "bulkhead-stream"]),
    ] {
        for dependency in graph[package].iter().filter(|d| d.starts_with("bulkhead-")) {
            assert!(allowed.contains(&dependency.as_str()), "{package} uses {dependency}");
        }
    }
}

#[test]
fn unsafe_code_is_where_the_architecture_says() {
    let allowed = [
        "proto/ring/src/area.rs",
        "broker/xen/src/",
        "policy/src/",
        "policy/runtime/src/frame_buffer.rs",
        "policy/runtime/src/memory.rs",
        "policy/runtime/src/packet.rs",
        "policy/runtime/src/process.rs",
        "integration/tests/breakout/src/",
    ];
    let out = Command::new("git").args(["ls-files", "*.rs"]).current_dir(top()).output().unwrap();
    for file in String::from_utf8(out.stdout).unwrap().lines() {
        let Ok(text) = std::fs::read_to_string(top().join(file)) else { continue };
        let found = text.lines().any(|l| {
            !l.trim_start().starts_with("//")
                && (l.contains("unsafe {") || l.contains("unsafe fn ") || l.contains("unsafe impl "))
        });
        let tested = file.ends_with("direction.rs");
        assert!(!found || tested || allowed.iter().any(|a| file.starts_with(a)), "{file}");
    }
}

#[test]
fn the_state_of_every_device_has_a_version() {
    for file in [
        "dev-input/src/serial/state.rs",
        "dev-input/src/ps2/state.rs",
        "dev-input/src/usb/state.rs",
        "dev-blk/src/ide/state.rs",
        "dev-display/src/vga/state.rs",
        "dev-net/src/e1000/state.rs",
        "dev-net/src/rtl8139/state.rs",
        "dev-board/src/state.rs",
        "dev-board/src/fw_cfg/mod.rs",
    ] {
        assert!(std::fs::read_to_string(top().join(file)).unwrap().contains("VERSION: u32"), "{file}");
    }
}

/// Files of the device crates below this folder.
fn files_of_devices(folder: &str) -> Vec<String> {
    let pattern = format!("dev-*/{folder}/*");
    let out = Command::new("git").args(["ls-files", &pattern]).current_dir(top()).output().unwrap();
    let names = String::from_utf8(out.stdout).unwrap();
    names.lines().filter_map(|path| path.rsplit('/').next()).map(str::to_owned).collect()
}

#[test]
fn every_device_has_a_fuzz_target_and_every_device_with_a_state_a_golden_one() {
    let (targets, golden) = (files_of_devices("fuzz/targets"), files_of_devices("tests/golden"));
    for kind in KINDS.iter().filter(|k| k.guest_visible || k.back_end.is_some()) {
        let role = kind.role;
        assert!(targets.contains(&format!("{role}.rs")), "{role} has no fuzz target");
        // A back end's state is in the guest's memory and in xenstore.
        let state = golden.iter().any(|file| file.starts_with(&format!("{role}-1")));
        assert!(state || !kind.guest_visible, "{role} has no golden state");
    }
}

/// The fuzz targets are a separate workspace, which no other check builds: a target that names a crate outside of its manifest does not
/// build, nor does one whose feature leaves that crate out.
#[test]
fn fuzz_targets_name_only_crates_of_their_manifest() {
    let out = Command::new("git").args(["ls-files", "*/fuzz/targets/*.rs"]).current_dir(top()).output().unwrap();
    let files: Vec<String> = String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect();
    let files: Vec<_> = files.iter().filter(|f| !f.starts_with("integration/fuzz/")).collect();
    assert!(files.len() >= 18, "{files:?}");
    let manifest = std::fs::read_to_string(top().join("integration/fuzz/targets/Cargo.toml")).unwrap();
    for file in files {
        let path = top().join(file);
        let feature = path.ancestors().nth(3).unwrap().file_name().unwrap().to_str().unwrap();
        let entry = format!("path = \"../../../{file}\"\nrequired-features = [\"{feature}\"]\n");
        assert!(manifest.contains(&entry), "{file} is no target of {feature}");
        for piece in std::fs::read_to_string(&path).unwrap().split("bulkhead_").skip(1) {
            let used: String = piece.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let used = format!("bulkhead-{}", used.trim_end_matches('_').replace('_', "-"));
            let always = ["bulkhead-fuzz-targets", "bulkhead-bus"].contains(&used.as_str());
            assert!(always || manifest.contains(&format!("{feature} = [\"dep:{used}\"]")), "{file} uses {used}");
        }
    }
}

/// The modules that each module of `sources` names after `prefix`; a folder belongs to the module of its name.
fn module_graph(sources: &str, root: &str, prefix: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut waiting = vec![top().join(sources)];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let within = path.strip_prefix(top().join(sources)).unwrap().with_extension("");
            let module = within.iter().next().unwrap().to_str().unwrap().to_owned();
            if path.extension().is_none_or(|e| e != "rs") || [root, "tests"].contains(&module.as_str()) {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for piece in text.split(prefix).skip(1) {
                let used: String = piece.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if used != module {
                    graph.entry(module.clone()).or_default().insert(used);
                }
            }
        }
    }
    graph
}

/// Modules must not use each other in a circle, because such modules can only be read together.
#[test]
fn modules_use_each_other_in_one_direction() {
    for (sources, root, prefix) in
        [("broker/control/src", "lib", "crate::"), ("dev-board/src/fw_cfg", "mod", "super::")]
    {
        let mut graph = module_graph(sources, root, prefix);
        assert!(graph.len() > 1, "{sources}");
        // Removes the modules that use none of the remaining ones; a circle is never removed.
        while let Some(module) =
            graph.iter().find(|(_, uses)| uses.iter().all(|u| !graph.contains_key(u))).map(|(m, _)| m.clone())
        {
            graph.remove(&module);
        }
        assert!(graph.is_empty(), "a circle in {sources}: {graph:?}");
    }
}
