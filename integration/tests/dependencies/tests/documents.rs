//! Interfaces in the documents, checked against the code.
use std::collections::BTreeSet;
use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").join(path)).unwrap()
}

/// The source text of a file without its tests.
fn code(path: &str) -> String {
    read(path).split("#[cfg(test)]\nmod").next().unwrap_or_default().to_owned()
}

/// The string literals of a source text.
fn literals(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    lines.flat_map(|l| l.split('"').skip(1).step_by(2)).map(str::to_owned).collect()
}

const STUBDOM: &str = "broker/launcher/src/stubdom.rs";
const ATTACH: &str = "broker/launcher/src/attach.rs";
const MEDIA: &str = "broker/launcher/src/supervise/media.rs";
const PREPARE: &str = "broker/launcher/src/supervise/prepare.rs";
const BACK_ENDS: &str = "broker/launcher/src/machine/back_ends.rs";

/// Names of the contract: the page's text, the file, and the code's text.
const CONTRACT: &[(&str, &str, &str)] = &[
    ("`target`", STUBDOM, "target"),
    ("`/local/domain/GUEST/vm`", STUBDOM, "/local/domain/{domid}/vm"),
    ("`VM/image/dm-argv`", STUBDOM, "{vm}/image/dm-argv"),
    ("`device/CLASS/ID/state`", STUBDOM, "device/{class}/{id}/state"),
    ("`device/CLASS/ID/backend`", STUBDOM, "device/{class}/{id}/backend"),
    ("`device/vbd/ID/device-type`", MEDIA, "device/vbd/{devid}/device-type"),
    ("`device/vkbd/0/backend`", STUBDOM, "device/vkbd/0/backend"),
    ("`width`", STUBDOM, "{back}/width"),
    ("32768", STUBDOM, "32768"),
    ("`/local/domain/GUEST/device/vbd`", PREPARE, "/local/domain/{domid}/device/vbd"),
    ("`device-model/GUEST/qmp-vchan/ring-ref`", STUBDOM, "{path}/ring-ref"),
    ("`device-model/GUEST/qmp-vchan/event-channel`", STUBDOM, "{path}/event-channel"),
    ("`device-model/GUEST/qmp-vchan/", STUBDOM, "device-model/{domid}/qmp-vchan"),
    ("`device-model/GUEST/state`", PREPARE, "device-model/{domid}/state"),
    ("`running`", PREPARE, "running"),
    ("`device-model/GUEST/error`", STUBDOM, "device-model/{guest}/error"),
    ("`hand-over`", BACK_ENDS, "hand-over"),
    ("`/dev/hvc1`", STUBDOM, "/dev/hvc1"),
    ("`/local/domain/STUBDOM/target`", ATTACH, "/local/domain/{domid}/target"),
    ("`@releaseDomain`", ATTACH, "@releaseDomain"),
    ("`/local/domain/STUBDOM/console/vnc-*`", ATTACH, "/local/domain/{stubdom}/console"),
    ("`/local/domain/GUEST/console`", ATTACH, "/local/domain/{guest}/console"),
];

/// Further nodes that the first process of a stub domain reads.
const PREFIXES: &[&str] = &["device", "device/{class}", "{back}/state", "{path}/{key}"];

#[test]
fn the_stub_domains_contract_is_what_the_code_does() {
    let page = read("docs/integrating.md");
    let contract = page.split("## The stub domain's contract").nth(1).unwrap();
    assert!(contract.contains("**version 1**"));
    let tables: String = contract.lines().filter(|l| l.starts_with('|')).collect();
    for (named, file, text) in CONTRACT {
        // The contract describes the program in dom0 in a sentence, not in a table.
        let place = if *file == ATTACH { contract } else { &tables };
        assert!(place.contains(named), "docs/integrating.md does not name {named}");
        assert!(literals(&code(file)).iter().any(|l| l == text), "{file} has no {text:?}: is {named} still so?");
    }
    // In the other direction, every node that stubdom.rs reads or writes is listed.
    let known: BTreeSet<&str> = CONTRACT.iter().map(|c| c.2).chain(PREFIXES.iter().copied()).collect();
    for literal in literals(&code(STUBDOM)) {
        let node = literal == "target"
            || ["device", "/local/domain/", "{vm}/", "{path}/", "{back}/"].iter().any(|p| literal.starts_with(p));
        if node && !literal.contains(' ') && !literal.contains(':') {
            assert!(known.contains(literal.as_str()), "docs/integrating.md does not have {literal}");
        }
    }
}

#[test]
fn the_vchans_rings_are_as_large_as_the_contract_says() {
    let page = read("docs/integrating.md");
    let vchan = page.split("### vchan").nth(1).unwrap();
    let abi = read("proto/xen-abi/src/vchan.rs");
    for (name, order) in [("SMALL_ORDER", 10), ("LARGE_ORDER", 11)] {
        assert!(abi.contains(&format!("pub const {name}: u16 = {order};")));
        assert!(vchan.contains(&(1 << order).to_string()), "{name}");
    }
}

/// The names of the events that control sends.
fn events() -> BTreeSet<String> {
    let mut events = BTreeSet::new();
    for file in ["broker/control/src/run.rs", "broker/control/src/board.rs"] {
        let text: String = code(file).split_whitespace().collect();
        for sent in text.split("event(").skip(1) {
            let name = sent.split(',').next().unwrap_or_default();
            if let Some(name) = name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
                events.insert(name.to_owned());
            }
        }
    }
    events
}

#[test]
fn every_event_of_qmp_is_in_the_page_for_operators() {
    let page = read("docs/operations.md");
    let table = page.split("## QMP events").nth(1).unwrap().split("\n## ").next().unwrap();
    let told: BTreeSet<String> =
        table.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next().map(str::to_owned)).collect();
    assert!(told.contains("X_BULKHEAD_DEVICE_DIED"));
    assert_eq!(events(), told);
    // Only the expected files send events.
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../broker/control/src")).unwrap();
    for file in files.map(|f| f.unwrap().file_name().into_string().unwrap()) {
        let elsewhere = file.ends_with(".rs") && file != "run.rs" && file != "board.rs";
        assert!(!elsewhere || !code(&format!("broker/control/src/{file}")).contains(".event(\""), "{file}");
    }
}

/// Folders of Xen's and QEMU's documentation, which the documents cite.
const CITED: [&str; 3] = ["docs/misc/", "docs/specs/", "docs/features/"];
/// Decisions describe the tree of their day.
const HISTORY: &str = "docs/decisions/";

#[test]
fn every_path_in_the_documents_exists() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let listed = std::process::Command::new("git").args(["ls-files"]).current_dir(&top).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let documents = listed.lines().filter(|f| f.ends_with(".md") && !f.starts_with("docs/results/"));
    let folders = ["broker/", "proto/", "policy/", "integration/", "docs/", "dev-"];
    let mut checked = 0;
    for document in documents.filter(|d| !d.starts_with(HISTORY)) {
        let text = read(document);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_./-*{}…".contains(c)));
        for word in words.filter(|w| w.contains('/') && folders.iter().any(|f| w.starts_with(f))) {
            // `dev-input/src/{usb,hid}.rs`, `machine/*.rs`: the folder. A decision may be cited by its number.
            let path = word.split(['{', '*', '…']).next().unwrap_or_default().trim_end_matches('.');
            let path =
                if path == word.trim_end_matches('.') { path } else { path.rsplit_once('/').map_or("", |p| p.0) };
            // A word in capitals stands for any name.
            let any = path.split('/').any(|p| p.len() > 2 && p.bytes().all(|b| b.is_ascii_uppercase()));
            if any || path == "dev-" || CITED.iter().any(|c| path.starts_with(c)) {
                continue;
            }
            let exists = listed.lines().any(|f| f.starts_with(path));
            assert!(exists, "{document}: {path} does not exist");
            checked += 1;
        }
    }
    assert!(checked > 200, "{checked}");
}
