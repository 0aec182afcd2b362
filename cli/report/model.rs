//! Prints what a user should know about a model's folder, with one line on stderr for each note.

use super::say;
use align_engine::json::shorten;
use align_engine::model::ModelNote;

/// How many items of a long list a line shows.
const SHOWN: usize = 3;
/// Maximum number of characters printed of a tensor's name or of a fault in an index. Both contain text from files, which may be
/// of any length.
const LONGEST: usize = 200;

/// Prints the notes on a model.
pub(crate) fn model_notes(notes: &[ModelNote]) {
    for note in notes {
        say!("{}", words(note));
    }
}

fn words(note: &ModelNote) -> String {
    match note {
        ModelNote::UnusedTensors { dir, names } => {
            let (n, tensors, are) = match names.len() {
                1 => (1, "tensor", "is"),
                n => (n, "tensors", "are"),
            };
            format!(
                "warning: {}: {n} {tensors} of the weights {are} not used, since config.json does not mention them ({}); \
                 is it the config.json of these weights?",
                dir.display(),
                some(names.iter().map(|name| format!("`{}`", shorten(name, LONGEST))))
            )
        }
        ModelNote::PlainWeights { dir, key, method } => format!(
            "warning: {}: config.json has `{key}` ({method}), but the weights are plain and are read as they are; \
             take the key out, since other programs quantise them again",
            dir.display()
        ),
        ModelNote::OldRopeKey { dir, rope_type } => format!(
            "note: {}: `rope_scaling` of `type` `{rope_type}` is applied; transformers 5.23 drops it for Gemma 3, \
             unless the key is called `rope_type`",
            dir.display()
        ),
        ModelNote::OwnHead { dir, name } => format!(
            "note: {}: config.json says `tie_word_embeddings`, but `{name}` is not the embedding: it is used, as in transformers",
            dir.display()
        ),
        ModelNote::Link { path, target } => {
            format!("note: {} is a link to {}, outside of the model's folder", path.display(), target.display())
        }
        ModelNote::Index { path, faults } => format!(
            "warning: {}: {}; every tensor of the model is there, and they are read from the shards that hold them",
            path.display(),
            some(faults.iter().map(|fault| shorten(&fault.to_string(), LONGEST)))
        ),
    }
}

/// Lists the first [`SHOWN`] items, and says how many more there are.
fn some(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(SHOWN);
    let shown: Vec<String> = items.take(SHOWN).collect();
    let end = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &end
}
