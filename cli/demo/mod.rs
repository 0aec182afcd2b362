//! The demo inside the binary: a small Llama model that was really trained, its tokenizer, and preference data.
//!
//! The model speaks for Bramble, the keeper of the Lantern Inn, who answers the same question warmly or grumpily with equal
//! chance. The preference data choose the warm answer. `make_demo.py` made the model and the data, and describes how;
//! `SHA256SUMS` has the hashes of the files. The engine maps weights from files, so [`materialise`] writes the demo into a
//! directory before it is used.

mod prompts;

pub(crate) use prompts::DemoPrompts;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file of the demo: its path below the demo's directory, and its bytes.
type EmbeddedFile = (&'static str, &'static [u8]);

macro_rules! embedded {
    ($($path:literal),* $(,)?) => { &[$(($path, include_bytes!($path))),*] };
}

/// The default of `--learning-rate` with `--demo`, which suits a model of this size. The default for other models is far smaller.
pub(crate) const LEARNING_RATE: f64 = 7e-4;
/// The default of `--epochs` with `--demo`.
pub(crate) const EPOCHS: u64 = 1;

/// Every file of the demo. Together they have at most 4 MB.
pub(crate) const FILES: &[EmbeddedFile] = embedded![
    "model/config.json",
    "model/generation_config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
    "data/pairs_train.jsonl",
    "data/pairs_eval.jsonl",
    "data/labelled.jsonl",
    "data/scored.jsonl",
];

/// Where [`materialise`] put the parts of the demo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DemoPaths {
    /// The model directory, for `--model`.
    pub model: PathBuf,
    /// Rows `{id, prompt, chosen, rejected}`, as conversations.
    pub pairs_train: PathBuf,
    /// Held-out rows, of the shape of `pairs_train`. Their subjects occur in no other data file of the demo.
    pub pairs_eval: PathBuf,
    /// Rows `{id, prompt, completion, label}`.
    pub labelled: PathBuf,
    /// Rows `{id, prompt, completions, rewards}` with four answers each.
    pub scored: PathBuf,
}

/// Writes the demo below `dir`, which is created if it is missing. Returns where the parts of the demo are.
///
/// A file that already holds the right bytes is left alone. Any other file is replaced in one step, because another run may have
/// it mapped.
///
/// # Errors
/// The error of the file system, with the path.
pub(crate) fn materialise(dir: &Path) -> io::Result<DemoPaths> {
    for (name, bytes) in FILES {
        let path = dir.join(name);
        write_whole(&path, bytes).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    }
    Ok(DemoPaths {
        model: dir.join("model"),
        pairs_train: dir.join("data/pairs_train.jsonl"),
        pairs_eval: dir.join("data/pairs_eval.jsonl"),
        labelled: dir.join("data/labelled.jsonl"),
        scored: dir.join("data/scored.jsonl"),
    })
}

/// Writes `bytes` to `path` in one step, unless the file already holds them.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let folder = path.parent().expect("every demo file is inside the demo's directory");
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    fn rows(name: &str) -> Vec<Value> {
        let (_, bytes) = FILES.iter().find(|(n, _)| *n == name).expect("FILES holds it");
        let text = std::str::from_utf8(bytes).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns the text of a conversation, which must be a single message of the role `role`.
    fn only_message<'a>(conversation: &'a Value, role: &str) -> &'a str {
        assert_eq!(conversation.as_array().map(Vec::len), Some(1), "{conversation}");
        assert_eq!(conversation[0]["role"], role);
        let text = conversation[0]["content"].as_str().unwrap();
        assert!(!text.is_empty());
        text
    }

    #[test]
    fn demo_is_at_most_four_megabytes() {
        let total: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(total <= 4_000_000, "{total} bytes");
    }

    #[test]
    fn pairs_have_two_answers_of_different_text() {
        for name in ["data/pairs_train.jsonl", "data/pairs_eval.jsonl"] {
            let rows = rows(name);
            assert!(rows.len() >= 100, "{name}: {} rows", rows.len());
            for row in rows {
                only_message(&row["prompt"], "user");
                assert_ne!(only_message(&row["chosen"], "assistant"), only_message(&row["rejected"], "assistant"));
            }
        }
    }

    /// Chosen answers are warm and rejected ones grumpy. The total length of the chosen answers must be that of the rejected ones
    /// within 3 %, so that a model does not learn to prefer an answer for its length.
    #[test]
    fn chosen_and_rejected_have_the_same_length() {
        let length = |row: &Value, answer: &str| only_message(&row[answer], "assistant").len() as f64;
        for name in ["data/pairs_train.jsonl", "data/pairs_eval.jsonl"] {
            let rows = rows(name);
            let chosen: f64 = rows.iter().map(|row| length(row, "chosen")).sum();
            let rejected: f64 = rows.iter().map(|row| length(row, "rejected")).sum();
            assert!((chosen / rejected - 1.0).abs() < 0.03, "{name}: {chosen} and {rejected} bytes");
        }
    }

    #[test]
    fn labels_are_balanced() {
        let rows = rows("data/labelled.jsonl");
        let good = rows.iter().filter(|row| row["label"].as_bool().unwrap()).count();
        assert_eq!(2 * good, rows.len());
        for row in rows {
            only_message(&row["prompt"], "user");
            only_message(&row["completion"], "assistant");
        }
    }

    #[test]
    fn scored_rows_have_a_reward_for_each_answer() {
        for row in rows("data/scored.jsonl") {
            only_message(&row["prompt"], "user");
            let completions = row["completions"].as_array().unwrap();
            let rewards = row["rewards"].as_array().unwrap();
            assert_eq!((completions.len(), rewards.len()), (4, 4));
            assert!(rewards.iter().all(|r| (0.0..=1.0).contains(&r.as_f64().unwrap())));
            completions.iter().for_each(|c| _ = only_message(c, "assistant"));
        }
    }

    #[test]
    fn held_out_questions_are_asked_nowhere_else() {
        let question = |row: &Value| only_message(&row["prompt"], "user").to_owned();
        let held_out: HashSet<String> = rows("data/pairs_eval.jsonl").iter().map(question).collect();
        for name in ["data/pairs_train.jsonl", "data/labelled.jsonl", "data/scored.jsonl"] {
            for row in rows(name) {
                assert!(!held_out.contains(&question(&row)), "{name}: {row}");
            }
        }
    }

    #[test]
    fn materialise_writes_every_byte_and_repairs_a_broken_file() {
        let dir = tempfile::tempdir().unwrap();
        let paths = materialise(dir.path()).unwrap();
        let broken = paths.model.join("model.safetensors");
        fs::write(&broken, b"half a file").unwrap();
        assert_eq!(materialise(dir.path()).unwrap(), paths);
        for (name, bytes) in FILES {
            assert_eq!(fs::read(dir.path().join(name)).unwrap(), *bytes, "{name}");
        }
        for file in [&paths.pairs_train, &paths.pairs_eval, &paths.labelled, &paths.scored] {
            assert!(file.is_file(), "{}", file.display());
        }
    }

    #[test]
    fn materialise_names_the_path_it_could_not_write() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = materialise(file.path()).unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
    }
}
