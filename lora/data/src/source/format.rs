//! Recognises the format of a data file by its first bytes, whatever the ending of its name.

/// How a file holds its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text: JSONL, a JSON array or CSV.
    Text,
    /// Text, compressed by gzip.
    Gzip,
    /// Text, compressed by zstd.
    Zstd,
    /// Apache Parquet.
    Parquet,
}

/// Formats that are refused: their magic bytes, the offset of the magic bytes in the file, and the format's name.
const REFUSED: [(&[u8], usize, &str); 15] = [
    (b"PK\x03\x04", 0, "a zip archive (or an Excel sheet)"),
    (b"BZh", 0, "compressed by bzip2"),
    (b"\xFD7zXZ\x00", 0, "compressed by xz"),
    (b"\x04\x22\x4D\x18", 0, "compressed by lz4"),
    (b"7z\xBC\xAF\x27\x1C", 0, "a 7z archive"),
    (b"ustar", 257, "a tar archive"),
    (b"ARROW1", 0, "an Arrow file"),
    (b"\xFF\xFF\xFF\xFF", 0, "an Arrow stream"),
    (b"version https://git-lfs", 0, "a pointer of Git LFS (fetch the file that it stands for: git lfs pull)"),
    (b"<!DOCTYPE html", 0, "a page of HTML (was it fetched from the right address?)"),
    (b"<!doctype html", 0, "a page of HTML (was it fetched from the right address?)"),
    (b"<html", 0, "a page of HTML (was it fetched from the right address?)"),
    (b"Obj\x01", 0, "an Avro file"),
    (b"PARE", 0, "an encrypted Parquet file"),
    (b"SQLite format 3\x00", 0, "an SQLite database"),
];

impl Format {
    /// Returns the format of a file that begins with `head`.
    ///
    /// # Errors
    /// The name of the format, if the format is refused.
    pub(crate) fn of(head: &[u8]) -> Result<Format, &'static str> {
        let has = |bytes: &[u8], at: usize| head.get(at..).is_some_and(|rest| rest.starts_with(bytes));
        if let Some((_, _, name)) = REFUSED.into_iter().find(|(bytes, at, _)| has(bytes, *at)) {
            return Err(name);
        }
        // this is UTF-16, with or without a byte-order mark: UTF-8 text has no zero bytes in these places
        if matches!(
            head,
            [0xFF, 0xFE, _, 0, ..] | [0xFE, 0xFF, 0, ..] | [0, 0x20..=0x7E, 0, ..] | [0x20..=0x7E, 0, _, 0, ..]
        ) {
            return Err("text in UTF-16 (save it as UTF-8)");
        }
        // skippable frames of zstd begin with a number from 0x184D2A50 to 0x184D2A5F, in little-endian order
        let is_skippable = matches!(head, [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..]);
        Ok(match head {
            [0x1F, 0x8B, ..] => Format::Gzip,
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Format::Zstd,
            _ if is_skippable => Format::Zstd,
            [b'P', b'A', b'R', b'1', ..] => Format::Parquet,
            _ => Format::Text,
        })
    }

    /// Returns the name of the format for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Gzip => "gzip",
            Format::Zstd => "zstd",
            Format::Parquet => "Parquet",
        }
    }
}
