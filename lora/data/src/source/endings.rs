//! What the names of data files end with.

/// Endings of data files by format. If a data set has equally many files of two formats, `datasets` reads the format that comes
/// later in this list.
pub(crate) const FORMATS: [&[&str]; 3] = [&["csv", "tsv", "tab"], &["jsonl", "json", "ndjson"], &["parquet"]];

/// Returns all endings, those of the preferred format first.
pub(crate) fn endings() -> impl Iterator<Item = &'static str> {
    FORMATS.into_iter().rev().flatten().copied()
}

/// Endings that compression adds to a name, as in `rows.jsonl.gz`.
pub(crate) const PACKED: [&str; 3] = [".gz", ".zst", ".zstd"];

/// Returns the ending of a file's name in lower case, after removing an ending of [`PACKED`]. `None` if no dot is left in the
/// name.
pub(crate) fn ending(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let name = PACKED.into_iter().find_map(|packed| name.strip_suffix(packed)).unwrap_or(&name);
    Some(name.rsplit_once('.')?.1.to_owned())
}
