//! What the workspace has: its tests and its items, as the compiler finds them from each crate's root.
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's folder.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").canonicalize().unwrap()
}

/// Reads a file of the repository.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(top().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Names that a claim may refer to.
#[derive(Default)]
pub struct Sources {
    /// `PACKAGE::MODULE::…::FUNCTION`; a test beside the sources (`tests/FILE.rs`) has FILE as its first module. `bed::FUNCTION`: a
    /// test on real Xen.
    tests: BTreeSet<String>,
    /// `FILE::NAME`, and `FILE::TYPE::NAME` of what an `impl` has.
    items: BTreeSet<String>,
}

impl Sources {
    /// Parses every source file that is part of a target.
    pub fn parse() -> Self {
        let out = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
            .current_dir(top())
            .output()
            .unwrap();
        let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
        let mut found = Self::default();
        for package in metadata["packages"].as_array().unwrap() {
            for target in package["targets"].as_array().unwrap() {
                let kind = target["kind"][0].as_str().unwrap();
                let mut module = package["name"].as_str().unwrap().to_owned();
                if kind == "test" {
                    module = format!("{module}::{}", target["name"].as_str().unwrap());
                }
                let root = PathBuf::from(target["src_path"].as_str().unwrap());
                let folder = root.parent().unwrap().to_owned();
                found.file(&root, &folder, &module);
            }
        }
        found.bed();
        found
    }

    /// Whether a test of this name is run.
    pub fn has_test(&self, name: &str) -> bool {
        self.tests.contains(name)
    }

    /// Whether this file has an item of this name.
    pub fn has_item(&self, name: &str) -> bool {
        self.items.contains(name)
    }

    /// The tests on real Xen: words of the suite's lists for which there is a function.
    fn bed(&mut self) {
        let folder = "integration/tests/bed";
        let functions: String = std::fs::read_dir(top().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect();
        let suite = read(&format!("{folder}/suite"));
        for list in ["all", "newer", "newer_xen", "seldom"] {
            let words = suite.split(&format!("\n{list}='")).nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
            for word in words.split_whitespace() {
                assert!(
                    functions.contains(&format!("\n{word}() ")),
                    "{word} is in the suite's list, but is no function"
                );
                self.tests.insert(format!("bed::{word}"));
            }
        }
    }

    fn file(&mut self, path: &Path, folder: &Path, module: &str) {
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let shown = path.strip_prefix(top()).unwrap().display().to_string();
        self.module(&file.items, &shown, folder, module);
    }

    fn module(&mut self, items: &[syn::Item], file: &str, folder: &Path, module: &str) {
        for item in items {
            match item {
                syn::Item::Mod(inner) => {
                    let name = inner.ident.to_string();
                    let module = format!("{module}::{name}");
                    let folder = folder.join(&name);
                    match &inner.content {
                        Some((_, items)) => self.module(items, file, &folder, &module),
                        None => {
                            let own = folder.with_extension("rs");
                            let path = match elsewhere(&inner.attrs) {
                                Some(path) => top().join(file).parent().unwrap().join(path),
                                None if own.exists() => own,
                                None => folder.join("mod.rs"),
                            };
                            self.file(&path, &folder, &module);
                        }
                    }
                }
                syn::Item::Fn(function) => {
                    let name = &function.sig.ident;
                    self.item(file, name);
                    if function.attrs.iter().any(|a| a.path().is_ident("test")) {
                        self.tests.insert(format!("{module}::{name}"));
                    }
                }
                syn::Item::Macro(call) if call.mac.path.segments.last().is_some_and(|s| s.ident == "proptest") => {
                    self.property_tests(call.mac.tokens.clone(), module);
                }
                syn::Item::Impl(block) => {
                    let syn::Type::Path(of) = &*block.self_ty else { continue };
                    let of = &of.path.segments.last().unwrap().ident;
                    for inner in &block.items {
                        match inner {
                            syn::ImplItem::Fn(function) => self.item(file, &format!("{of}::{}", function.sig.ident)),
                            syn::ImplItem::Const(constant) => self.item(file, &format!("{of}::{}", constant.ident)),
                            _ => {}
                        }
                    }
                }
                syn::Item::Const(i) => self.item(file, &i.ident),
                syn::Item::Enum(i) => self.item(file, &i.ident),
                syn::Item::Static(i) => self.item(file, &i.ident),
                syn::Item::Struct(i) => self.item(file, &i.ident),
                syn::Item::Trait(i) => self.item(file, &i.ident),
                syn::Item::Type(i) => self.item(file, &i.ident),
                _ => {}
            }
        }
    }

    fn item(&mut self, file: &str, name: &impl ToString) {
        self.items.insert(format!("{file}::{}", name.to_string()));
    }

    /// The functions in a `proptest!`; its arguments are not Rust's syntax.
    fn property_tests(&mut self, tokens: proc_macro2::TokenStream, module: &str) {
        let mut after_fn = false;
        for token in tokens {
            let proc_macro2::TokenTree::Ident(word) = token else { continue };
            if std::mem::replace(&mut after_fn, word == "fn") {
                self.tests.insert(format!("{module}::{word}"));
            }
        }
    }
}

#[test]
fn tests_and_items_are_found_where_they_are() {
    let sources = Sources::parse();
    for test in [
        "bulkhead-plan::ask::tests::an_accepted_message_has_one_encoding",
        "bulkhead-ioreq::dispatcher::tests::a_device_that_rings_without_end_is_given_up",
        "bulkhead-roles::tests::every_kind_has_its_role_and_what_the_guest_sees_is_declared",
        "bulkhead-sim::machine::supplementary_groups_are_given_up",
        "bed::net_attacked",
    ] {
        assert!(sources.has_test(test), "{test}");
    }
    // A function without the attribute, a test that is not in the suite's lists.
    assert!(!sources.has_test("bulkhead-sim::machine::machine") && !sources.has_test("bed::check"));
    for item in [
        "proto/plan/src/ask.rs::Ask",
        "proto/plan/src/ask.rs::FromProcess::from_bytes",
        "proto/plan/src/ask.rs::FromProcess::LEN",
        "broker/launcher/src/slot.rs::RESTARTS",
    ] {
        assert!(sources.has_item(item), "{item}");
    }
    assert!(!sources.has_item("proto/plan/src/lib.rs::Ask"));
}

/// The file that a module's attribute `path` names.
fn elsewhere(attributes: &[syn::Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(syn::MetaNameValue {
            path,
            value: syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(name), .. }),
            ..
        }) if path.is_ident("path") => Some(name.value()),
        _ => None,
    })
}
