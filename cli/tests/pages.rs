//! Pages that say where in the sources something stands: each place is there.
#![expect(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The texts between back quotes.
fn quoted(page: &str) -> BTreeSet<&str> {
    page.split('`').skip(1).step_by(2).collect()
}

/// What links lead to.
fn linked(page: &str) -> impl Iterator<Item = &str> {
    page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

/// All sources of the workspace, one after the other.
fn sources() -> String {
    let mut folders: Vec<PathBuf> = ["audit", "cli", "commitments", "tests"].map(|name| root().join(name)).into();
    let mut sources = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&fs::read_to_string(entry).unwrap());
            }
        }
    }
    sources
}

fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.contains('_') && text.split('_').all(|part| !part.is_empty() && part.chars().all(is_part))
}

/// Whether a source defines a test, as a function or in the list of attacks.
fn defines(sources: &str, name: &str) -> bool {
    [format!("fn {name}("), format!("\n    {name}: ")].iter().any(|definition| sources.contains(definition.as_str()))
}

/// Whether `crate::module` is a source, and `crate::module::item` stands in one.
fn resolves(place: &str) -> bool {
    let mut path = place.split("::");
    let mut folder = root().join(path.next().unwrap().replace('_', "-")).join("src");
    let mut module = folder.join("lib.rs");
    for name in path {
        let file = folder.join(name).with_extension("rs");
        if file.is_file() {
            (module, folder) = (file, folder.join(name));
        } else {
            let source = fs::read_to_string(&module).unwrap_or_default();
            let kinds = ["fn", "struct", "enum", "const", "trait", "mod", "type"];
            return kinds.iter().any(|kind| {
                let definition = format!("{kind} {name}");
                let rests = source.split(definition.as_str()).skip(1);
                rests.filter_map(|rest| rest.chars().next()).any(|next| next != '_' && !next.is_alphanumeric())
            });
        }
    }
    module.is_file()
}

#[test]
fn what_the_page_on_security_points_to_is_there() {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let sources = sources();
    let [mut places, mut paths, mut names] = [0; 3];
    for text in quoted(&page) {
        if text.contains("::") {
            assert!(resolves(text), "`{text}` is no module and no item of one");
            places += 1;
        } else if text.contains('/') && !text.contains(' ') {
            assert!(root().join(text).exists(), "`{text}` is no path");
            paths += 1;
        } else if is_name(text) {
            assert!(defines(&sources, text), "`{text}` is no test");
            names += 1;
        } else {
            assert!(!text.contains(['_', ':']) && !text.contains(".rs"), "`{text}` is none of these");
        }
    }
    assert!(places > 20 && paths > 5 && names > 30, "{places} places, {paths} paths, {names} tests");
    for target in linked(&page) {
        assert!(root().join("docs").join(target).exists(), "{target} is linked to and not there");
    }
}
