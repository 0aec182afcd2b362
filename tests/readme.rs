//! The README and the manual agree with the program: commands, flags, lists and links.

use crate::align::{align, root};
use std::collections::BTreeSet;
use std::path::Path;

/// The manual: the pages for users other than the README.
const MANUAL: [&str; 6] = [
    "docs/training.md",
    "docs/data.md",
    "docs/objectives.md",
    "docs/reward-models.md",
    "docs/performance.md",
    "docs/gpu.md",
];

fn page(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

fn readme() -> String {
    page("README.md")
}

/// Returns the README and the pages of the manual.
fn pages() -> Vec<String> {
    std::iter::once(readme()).chain(MANUAL.map(page)).collect()
}

/// Returns the lines of a page's shell blocks.
fn commands(text: &str) -> Vec<String> {
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn every_command_and_flag_exists() {
    let mut checked = 0;
    for line in pages().iter().flat_map(|page| commands(page)) {
        let Some((_, arguments)) = line.split_once("align-cli ").or(line.split_once("--release -- ")) else { continue };
        let words: Vec<&str> = arguments.split_whitespace().collect();
        let help = align(&[words[0], "--help"]).ok().stdout;
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")), "{line}: {flag}");
        }
        checked += 1;
    }
    assert!(checked >= 10, "{checked} commands");
}

/// Returns the flags that the help of a command describes.
fn flags(command: &str) -> BTreeSet<String> {
    let help = align(&[command, "--help"]).ok().stdout;
    let long = |line: &str| {
        // a line that is indented further is part of a flag's description
        let line = Some(line.trim_start()).filter(|flag| line.len() - flag.len() < 10)?;
        let line = line.split_once(", ").filter(|(short, _)| short.len() == 2).map_or(line, |(_, long)| long);
        let name = line.strip_prefix("--")?.split([' ', '=', '[', '<']).next()?;
        Some(format!("--{name}"))
    };
    help.lines().filter_map(long).filter(|flag| flag != "--help").collect()
}

#[test]
fn the_manual_names_every_flag() {
    let manual = MANUAL.map(page).concat();
    for command in ["train", "score", "eval", "generate", "merge", "inspect"] {
        let flags = flags(command);
        assert!(flags.contains("--adapter"), "the help of {command} has another form: {flags:?}");
        for flag in flags {
            let named = manual.match_indices(&flag).any(|(at, _)| {
                let next = manual[at + flag.len()..].chars().next();
                next.is_none_or(|next| !next.is_ascii_alphanumeric() && !"-_".contains(next))
            });
            assert!(named, "docs/ does not explain {flag} of {command}");
        }
    }
}

/// The gate (`.ci`) runs the two commands that the README gives to a newcomer.
#[test]
fn the_gate_runs_the_two_commands() {
    let gate: String =
        ["run", "demo"].map(|file| std::fs::read_to_string(root().join(".ci").join(file)).unwrap()).concat();
    let two: Vec<String> = commands(&readme()).into_iter().filter(|line| line.starts_with("cargo ")).collect();
    assert_eq!(two.len(), 2);
    for command in two {
        assert!(gate.contains(&command), ".ci does not run `{command}`");
    }
}

/// A newcomer should be able to read all of the README.
#[test]
fn the_readme_is_short() {
    let words = readme().split_whitespace().count();
    assert!(words < 900, "{words} words");
}

/// Returns the name that GitHub gives to a heading in links.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

/// Every file and every heading that the pages link to exists.
#[test]
fn every_page_exists() {
    let mut checked = 0;
    for name in ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "benches/README.md"].iter().chain(&MANUAL) {
        let text = page(name);
        let folder = Path::new(name).parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let path = if file.is_empty() { root().join(name) } else { root().join(folder).join(file) };
            assert!(path.exists(), "{name}: {link}");
            if !heading.is_empty() {
                let target = std::fs::read_to_string(&path).unwrap();
                let headings = target.lines().filter(|line| line.starts_with('#'));
                let found = headings.map(|line| anchor(line.trim_start_matches('#'))).any(|found| found == heading);
                assert!(found, "{name}: no heading for {link}");
            }
            checked += 1;
        }
    }
    assert!(checked >= 20, "{checked} links");
}

#[test]
fn the_table_of_families_is_that_of_the_registry() {
    let text = page("docs/training.md");
    let row = text.lines().find(|line| line.starts_with("| families |")).unwrap();
    for family in align_engine::model::families::FAMILIES {
        let name = family.model_types[0].trim_end_matches("_text");
        assert!(row.contains(name), "docs/training.md does not name {name}");
    }
}

/// The page is made from the registry, so it has every loss.
#[test]
fn the_document_of_the_losses_is_that_of_the_registry() {
    let path = root().join("docs/objectives.md");
    let (found, made) = (std::fs::read_to_string(&path).unwrap(), align(&["losses", "--markdown"]).ok().stdout);
    assert!(found == made, "docs/objectives.md is old: cargo run -- losses --markdown > docs/objectives.md");
}
