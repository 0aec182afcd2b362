//! The commands of the README and of the pages behind it exist, with every flag that they show.

use crate::align::{align, root};

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

/// The README and the pages for users.
fn pages() -> Vec<String> {
    let docs = ["training.md", "data.md", "reward-models.md"].map(|page| format!("docs/{page}"));
    let page = |path: String| std::fs::read_to_string(root().join(path)).unwrap();
    std::iter::once(readme()).chain(docs.map(page)).collect()
}

/// Lines of a page's shell blocks.
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

/// A newcomer's two commands are what the gate runs.
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

/// What the README links to is there.
#[test]
fn every_page_exists() {
    let text = readme();
    let links: Vec<&str> = text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(links.len() >= 4);
    for link in links {
        assert!(root().join(link).exists(), "{link}");
    }
}

#[test]
fn the_table_of_losses_is_that_of_the_registry() {
    let text = readme();
    let row = text.lines().find(|line| line.starts_with("| losses |")).unwrap();
    for loss in align_lora::objective::LOSSES {
        assert!(row.contains(loss.name), "the README does not name {}", loss.name);
    }
    let row = text.lines().find(|line| line.starts_with("| families |")).unwrap();
    for family in align_engine::model::families::FAMILIES {
        let name = family.model_types[0].trim_end_matches("_text");
        assert!(row.contains(name), "the README does not name {name}");
    }
}

#[test]
fn the_document_of_the_losses_is_that_of_the_registry() {
    let path = root().join("docs/objectives.md");
    let (found, made) = (std::fs::read_to_string(&path).unwrap(), align(&["losses", "--markdown"]).ok().stdout);
    assert!(found == made, "docs/objectives.md is old: cargo run -- losses --markdown > docs/objectives.md");
}
