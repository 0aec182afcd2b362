//! Invariants that a search of the sources can check.

use crate::align::root;
use std::path::{Path, PathBuf};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    assert!(!found.is_empty(), "{folder}");
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn libraries_print_nothing() {
    for folder in ["kernels/src", "engine/src", "lora/data/src", "lora/src"] {
        for (path, text) in sources(folder) {
            if ["test", "fixtures.rs", "case/card.rs"].iter().any(|part| path.to_str().unwrap().contains(part)) {
                continue;
            }
            let code = text.split("#[cfg(test)]").next().unwrap();
            for word in ["println!", "eprintln!", "eprint!(", "print!("] {
                let used = code.lines().any(|line| line.contains(word) && !line.trim_start().starts_with("//"));
                assert!(!used, "{}: {word}", path.display());
            }
        }
    }
}

#[test]
fn crates_depend_to_the_left_only() {
    let depends = |on: &str, manifest: &str| std::fs::read_to_string(root().join(manifest)).unwrap().contains(on);
    let crates =
        [("align-kernels", "kernels"), ("align-engine", "engine"), ("align-data", "lora/data"), ("align-lora", "lora")];
    for (i, (_, folder)) in crates.iter().enumerate() {
        let manifest = format!("{folder}/Cargo.toml");
        for (right, _) in &crates[i + 1..] {
            assert!(!depends(right, &manifest), "{manifest} depends on {right}");
        }
    }
}

/// Each room (top-level module) of the data crate uses only rooms to its left in this list. Tests may use all of them.
#[test]
fn rooms_of_the_data_use_those_to_their_left() {
    let rooms = ["store", "batch", "source", "record", "tokens", "set"];
    for (i, room) in rooms.iter().enumerate() {
        for (path, text) in sources(&format!("lora/data/src/{room}")) {
            if path.components().any(|part| part.as_os_str() == "tests") {
                continue;
            }
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for right in &rooms[i + 1..] {
                let used = code
                    .lines()
                    .any(|line| line.contains(&format!("crate::{right}::")) && !line.trim_start().starts_with("//"));
                assert!(!used, "{} uses {right}", path.display());
            }
        }
    }
}

/// Every path in the first column of a table in docs/architecture.md exists.
#[test]
fn the_map_names_files_that_exist() {
    let map = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    for line in map.lines().filter(|line| line.starts_with("| `")) {
        let cell = line.split('|').nth(1).unwrap().trim().trim_matches('`');
        let folder = cell.split('<').next().unwrap();
        if folder.contains('/') {
            assert!(root().join(folder).exists(), "docs/architecture.md names {cell}");
        }
    }
}
