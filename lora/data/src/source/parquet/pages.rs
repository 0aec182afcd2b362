//! Checks the pages of a column. Their headers are compared with the file before the library sees them. When the library reads a
//! page, its content is compared with what a row may hold.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use ::parquet::basic::{Compression, Encoding};
use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::data_type::ByteArray;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ColumnChunkMetaData;

use super::thrift::{Compact, Event, varint};
use crate::source::limits::MAX_ROW_BYTES;

/// Largest page header, in bytes: it may hold the smallest and the largest value of the page.
const MAX_HEADER_BYTES: usize = 16 << 20;
/// Largest unpacked page, in bytes. Writers end a page at about a megabyte, or after a batch of rows.
const MAX_PAGE_BYTES: u64 = 4 * MAX_ROW_BYTES;
/// Upper bound of the bytes that snappy or lz4 make of one byte: lz4 makes at most 255, snappy fewer.
const MOST_EXPANSION: u64 = 256;
/// Bytes that each value of a dictionary takes in memory, besides the bytes of its content.
const VALUE_BYTES: u64 = size_of::<ByteArray>() as u64;
/// Maximum number of lengths in front of a page's texts. With more lengths, even the largest page would have less than 16 bytes
/// for each text.
const MAX_LENGTHS: u64 = 1 << 24;
/// Maximum number of bytes of pages and dictionaries that all columns together may need at a time. A page or a dictionary usually
/// has about a megabyte.
pub(super) const HELD_BYTES: u64 = 512 << 20;
/// Maximum number of values that a row may have in its lists, all columns together.
pub(super) const ROW_VALUES: u64 = 1 << 21;

/// What a page header says.
#[derive(Clone, Copy, Debug, Default)]
struct Header {
    kind: i64,
    unpacked: i64,
    packed: i64,
    values: i64,
    /// Bytes of levels in front of the values, in pages of version 2. They are never packed.
    levels: [i64; 2],
    is_packed: bool,
}

/// Kinds of pages.
const DATA_PAGE: i64 = 0;
const DICTIONARY_PAGE: i64 = 2;
const DATA_PAGE_V2: i64 = 3;

/// What a column needs in memory while it is read, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub dictionary: u64,
    /// Size of its largest page.
    pub page: u64,
}

/// Walks the pages of a column as the library will, and checks their sizes. Returns what the column needs in memory.
pub(super) fn check_column(file: &File, bytes: u64, column: &ColumnChunkMetaData, rows: i64) -> Result<Held, String> {
    let whole = |number: i64| u64::try_from(number).map_err(|_| format!("{number} in its description"));
    // like the library, begin at the dictionary if the footer gives its offset, whatever the offset of the data pages is
    let start = whole(column.dictionary_page_offset().unwrap_or(column.data_page_offset()))?;
    let length = whole(column.compressed_size())?;
    let end = start.checked_add(length).filter(|end| *end <= bytes);
    let end =
        end.ok_or_else(|| format!("its data is said to be at {start}, {length} bytes long, in a file of {bytes}"))?;
    let claimed = whole(column.num_values())?;
    if column.column_descr().max_rep_level() == 0 && claimed != whole(rows)? {
        return Err(format!("{claimed} values for {rows} rows"));
    }

    let (mut at, mut values, mut held) = (start, 0u64, Held::default());
    while at < end {
        let (header_bytes, page) = page_header(file, at, end)?;
        let data = at + header_bytes;
        let packed = whole(page.packed)?;
        let next = data.checked_add(packed).filter(|next| *next <= end);
        let next =
            next.ok_or_else(|| format!("a page at {at} is said to have {packed} bytes, its column ends at {end}"))?;
        let page_bytes = whole(page.unpacked)?;
        let said = format!("a page at {at} is said to have {page_bytes} bytes unpacked");
        if page_bytes > MAX_PAGE_BYTES {
            return Err(format!("{said}, the limit is {MAX_PAGE_BYTES}"));
        }
        let justified = match column.compression() {
            Compression::UNCOMPRESSED => packed,
            Compression::SNAPPY | Compression::LZ4 | Compression::LZ4_RAW => packed.saturating_mul(MOST_EXPANSION),
            // pages of other codecs are unpacked below, and the bytes are counted
            _ => MAX_PAGE_BYTES,
        };
        if page_bytes > justified {
            return Err(format!("{said}, from {packed}"));
        }
        let page_values = whole(page.values)?;
        match page.kind {
            DATA_PAGE | DATA_PAGE_V2 => {
                values += page_values;
                held.page = held.page.max(page_bytes);
            }
            // each value has at least one byte
            DICTIONARY_PAGE if page_values > page_bytes => {
                return Err(format!("a dictionary at {at} is said to have {page_values} values in {page_bytes} bytes"));
            }
            DICTIONARY_PAGE => held.dictionary += page_bytes + page_values * VALUE_BYTES,
            _ => {}
        }
        let levels = page.levels.iter().try_fold(0u64, |sum, &n| Some(sum + whole(n).ok()?));
        let levels = levels.filter(|levels| *levels <= packed && *levels <= page_bytes);
        let levels = levels.ok_or_else(|| format!("a page at {at} has more bytes of levels than bytes"))?;
        if page.is_packed {
            check_expansion(file, column.compression(), data + levels..next, page_bytes - levels)
                .map_err(|message| format!("a page at {at}: {message}"))?;
        }
        at = next;
    }
    match values == claimed {
        true => Ok(held),
        false => Err(format!("{claimed} values are said to be in its pages, there are {values}")),
    }
}

/// Whether a field has the wire type with which the library reads it: the library ignores the type that the file gives. With
/// another type, this walk would differ from the library's.
fn is_read_as(path: &[i16], kind: u8) -> bool {
    match path {
        [1..=4] | [5, 1..=4] | [7, 1..=2] | [8, 1..=6] => kind == 5,
        [5..=8] | [5, 5] | [8, 8] => kind == 12,
        [7, 3] | [8, 7] => matches!(kind, 1 | 2),
        _ => true,
    }
}

/// Reads the header at an offset. Returns its size in bytes and what it says.
fn page_header(file: &File, at: u64, end: u64) -> Result<(u64, Header), String> {
    let mut window = 4096;
    loop {
        let size = usize::try_from(end - at).unwrap_or(usize::MAX).min(window);
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, at).map_err(|error| error.to_string())?;
        let mut page = Header { is_packed: true, ..Header::default() };
        let mut compact = Compact::new(&bytes);
        // a field that occurs twice is refused: some readers keep its first value, others its last
        let (mut seen, mut wrong) = (Vec::new(), false);
        let walked = compact.walk(&mut |path, event| {
            let value = match event {
                Event::Int(value) => value,
                Event::Field(kind) => {
                    if matches!(path, [1..=8] | [5 | 7 | 8, 1..=8]) {
                        let place = (path[0], path.get(1).copied());
                        wrong |= seen.contains(&place) || !is_read_as(path, kind);
                        seen.push(place);
                    }
                    return;
                }
                Event::End => return,
            };
            match path {
                [1] => page.kind = value,
                [2] => page.unpacked = value,
                [3] => page.packed = value,
                [5 | 7 | 8, 1] => page.values = value,
                [8, 5] => page.levels[0] = value,
                [8, 6] => page.levels[1] = value,
                [8, 7] => page.is_packed = value != 0,
                _ => return,
            }
            wrong |= i32::try_from(value).is_err();
        });
        match walked {
            _ if wrong => return Err(format!("the page header at {at} is damaged: a field is not what it should be")),
            Ok(()) => return Ok((compact.position() as u64, page)),
            // a text in the header may extend beyond the window
            Err(_) if size == window && window < MAX_HEADER_BYTES => window *= 16,
            Err(fault) => return Err(format!("the page header at {at} is damaged: {fault}")),
        }
    }
}

/// Unpacks a page if its codec can expand without bound, and checks that it has the size that its header says.
fn check_expansion(file: &File, codec: Compression, range: Range<u64>, unpacked: u64) -> Result<(), String> {
    let mut packed = vec![0; (range.end - range.start) as usize]; // the range is inside the file
    file.read_exact_at(&mut packed, range.start).map_err(|error| error.to_string())?;
    let count = |decoder: &mut dyn Read| {
        std::io::copy(&mut decoder.take(unpacked + 1), &mut std::io::sink()).map_err(|error| error.to_string())
    };
    let found = match codec {
        Compression::GZIP(_) => count(&mut flate2::read::MultiGzDecoder::new(&packed[..]))?,
        Compression::ZSTD(_) => {
            count(&mut zstd::stream::read::Decoder::with_buffer(&packed[..]).map_err(|error| error.to_string())?)?
        }
        Compression::BROTLI(_) => count(&mut brotli::Decompressor::new(&packed[..], 4096))?,
        // other pages are bounded by their input or by the size in the header
        _ => return Ok(()),
    };
    match found == unpacked {
        true => Ok(()),
        false => Err(format!("it is said to have {unpacked} bytes unpacked, which is not so")),
    }
}

/// The library's reader of a column's pages. Each page is checked before it is decoded.
pub(super) struct Watched {
    pub pages: Box<dyn PageReader>,
    pub max_def_level: i16,
    pub max_rep_level: i16,
    /// Maximum number of values in a row.
    pub most_values: u64,
    /// Maximum number of bytes in the pages that one row extends over.
    pub most_bytes: u64,
    /// Values so far of the last row, which may go on in the next page.
    pub open_values: u64,
    /// Bytes of the pages that hold the last row.
    pub open_bytes: u64,
}

impl Watched {
    fn look_at(&mut self, page: &Page) -> Result<(), String> {
        if matches!(page, Page::DictionaryPage { .. }) {
            return Ok(());
        }
        let (rep_levels, values) = self.sections(page)?;
        let mut longest = 1;
        if self.max_rep_level > 0 {
            let (most_values, most_bytes) = (self.most_values, self.most_bytes);
            let rows = RowLengths::of(rep_levels, self.max_rep_level, page.num_values().into(), self.open_values);
            longest = rows.longest;
            self.open_values = rows.last;
            if longest > most_values {
                return Err(format!("a row has more than {most_values} values in it, of which this is the limit"));
            }
            let bytes = page.buffer().len() as u64;
            let held = self.open_bytes.saturating_add(bytes);
            if held > most_bytes {
                return Err(format!("a row goes over pages of more than {most_bytes} bytes, which is the limit"));
            }
            self.open_bytes = if rows.begins { bytes } else { held };
        }
        let most_lengths = MAX_LENGTHS.min(page.num_values().into());
        match page.encoding() {
            Encoding::DELTA_LENGTH_BYTE_ARRAY => {
                delta_lengths(values, most_lengths)?;
            }
            Encoding::DELTA_BYTE_ARRAY => {
                let prefixes = delta_lengths(values, most_lengths)?;
                delta_lengths(values.get(prefixes..).unwrap_or_default(), most_lengths)?;
                // each value may repeat the whole previous one
                if longest.saturating_mul(values.len() as u64) > HELD_BYTES.max(MAX_PAGE_BYTES) {
                    return Err(format!("{longest} values of a row may repeat each other's {} bytes", values.len()));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns the levels of repetition and the values of a page.
    fn sections<'p>(&self, page: &'p Page) -> Result<(&'p [u8], &'p [u8]), String> {
        let ends = || "a page ends inside its levels".to_owned();
        match page {
            Page::DataPageV2 { buf, rep_levels_byte_len, def_levels_byte_len, .. } => {
                let (rep, rest) = buf.split_at_checked(*rep_levels_byte_len as usize).ok_or_else(ends)?;
                Ok((rep, rest.get(*def_levels_byte_len as usize..).ok_or_else(ends)?))
            }
            Page::DataPage { buf, num_values, def_level_encoding, rep_level_encoding, .. } => {
                let mut rest = &buf[..];
                let mut prefixed = || {
                    let (length, after) = rest.split_first_chunk().ok_or_else(ends)?;
                    let (levels, after) =
                        after.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(ends)?;
                    rest = after;
                    Ok::<_, String>(levels)
                };
                if self.max_rep_level > 0 && *rep_level_encoding != Encoding::RLE {
                    return Err("its lists are in an encoding that was given up (BIT_PACKED); write it anew".into());
                }
                let rep_levels = if self.max_rep_level > 0 { prefixed()? } else { &[] };
                if self.max_def_level > 0 && *def_level_encoding == Encoding::RLE {
                    prefixed()?;
                } else {
                    let bits = u64::from(*num_values) * u64::from(bits_of(self.max_def_level));
                    rest = rest.get(bits.div_ceil(8) as usize..).ok_or_else(ends)?;
                }
                Ok((rep_levels, rest))
            }
            Page::DictionaryPage { buf, .. } => Ok((&[], buf)),
        }
    }
}

impl Iterator for Watched {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Watched {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let page = self.pages.get_next_page()?;
        if let Some(page) = &page {
            self.look_at(page).map_err(ParquetError::General)?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool, ParquetError> {
        self.pages.at_record_boundary()
    }
}

fn bits_of(max_level: i16) -> u32 {
    i16::BITS - max_level.leading_zeros()
}

/// The lengths of a page's rows, in values.
#[derive(Debug, PartialEq, Eq)]
struct RowLengths {
    longest: u64,
    /// Values so far of the last row, which may go on in the next page.
    last: u64,
    /// Whether a row begins in the page.
    begins: bool,
}

impl RowLengths {
    /// Reads `levels`: runs of one level, and levels packed in a few bits each. A row begins at every level of 0. The row that
    /// the page continues has `open` values already.
    fn of(mut levels: &[u8], max_level: i16, values: u64, open: u64) -> RowLengths {
        let bits = bits_of(max_level) as usize;
        let mut rows = RowLengths { longest: open, last: open, begins: false };
        let mut left = values;
        while left > 0 {
            let Ok(head) = varint(&mut levels) else { break };
            if head & 1 == 0 {
                let n = left.min(head >> 1);
                let Some((level, rest)) = levels.split_at_checked(bits.div_ceil(8)) else { break };
                match level.iter().all(|byte| *byte == 0) {
                    true if n > 0 => rows.begin(),
                    true => {}
                    false => rows.last = rows.last.saturating_add(n),
                }
                (levels, left) = (rest, left - n);
                continue;
            }
            let bytes = usize::try_from(head >> 1).unwrap_or(usize::MAX).saturating_mul(bits).min(levels.len());
            let (packed, rest) = levels.split_at(bytes);
            let n = left.min((packed.len() * 8 / bits) as u64);
            for i in 0..n as usize {
                let is_set = |bit: usize| packed[bit / 8] >> (bit % 8) & 1 == 1;
                if (i * bits..(i + 1) * bits).any(is_set) { rows.last += 1 } else { rows.begin() }
            }
            (levels, left) = (rest, left - n);
        }
        rows.longest = rows.longest.max(rows.last);
        rows
    }

    fn begin(&mut self) {
        self.longest = self.longest.max(self.last);
        self.last = 1;
        self.begins = true;
    }
}

/// Returns how many bytes a list of lengths takes. The list holds differences between lengths, packed in blocks. Refuses more
/// than `most` lengths.
fn delta_lengths(bytes: &[u8], most: u64) -> Result<usize, String> {
    let ends = || "a page ends inside the lengths of its texts".to_owned();
    let mut rest = bytes;
    let number = |rest: &mut &[u8]| varint(rest).map_err(|_| ends());
    let (block, parts, count) = (number(&mut rest)?, number(&mut rest)?, number(&mut rest)?);
    number(&mut rest)?; // the first length
    if count > most {
        return Err(format!("a page is said to have {count} texts, of at most {most}"));
    }
    let per_part = block.checked_div(parts).filter(|n| *n > 0 && block % 128 == 0);
    let per_part = per_part.ok_or_else(|| format!("the lengths of its texts are in {parts} parts of {block}"))?;
    let mut left = count.saturating_sub(1);
    while left > 0 {
        number(&mut rest)?; // the smallest difference
        let parts = usize::try_from(parts).map_err(|_| ends())?;
        let (widths, mut after) = rest.split_at_checked(parts).ok_or_else(ends)?;
        for &width in widths {
            if left > 0 {
                let bytes = u64::from(width).checked_mul(per_part).map(|bits| bits / 8);
                let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(ends)?;
                after = after.get(bytes..).ok_or_else(ends)?;
                left = left.saturating_sub(per_part);
            }
        }
        rest = after;
    }
    Ok(bytes.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_in_runs_and_in_bits() {
        let of = |levels: &[u8], max, values, open| {
            let rows = RowLengths::of(levels, max, values, open);
            (rows.longest, rows.last, rows.begins)
        };
        // one run of a million rows; then one row of a million and one values
        assert_eq!(of(&[0x80, 0x89, 0x7A, 0], 1, 1_000_000, 0), (1, 1, true));
        assert_eq!(of(&[2, 0, 0x80, 0x89, 0x7A, 1], 1, 1_000_001, 0), (1_000_001, 1_000_001, true));
        // a run counts for no more than the page's values, and the open row goes on
        assert_eq!(of(&[0xFE, 0xFF, 0xFF, 0xFF, 0x0F, 1], 1, 10, 5), (15, 15, false));
        // eight levels in a byte: 0 1 1 0 1 1 1 0
        assert_eq!(of(&[3, 0b0111_0110], 1, 8, 2), (4, 1, true));
        assert_eq!(of(&[3, 0b0111_0110], 1, 7, 2), (4, 4, true));
        // two bits a level: 0 1 2 0 | 3 3 0 1
        assert_eq!(of(&[3, 0b0010_0100, 0b0100_1111], 3, 8, 0), (3, 2, true));
        // levels that end too early: only the levels that are present count
        assert_eq!(of(&[], 1, 8, 3), (3, 3, false));
        assert_eq!(of(&[5, 0xFF], 1, 16, 0), (8, 8, false));
    }

    #[test]
    fn lists_of_lengths_are_walked_to_their_end() {
        // block 128, 4 parts, 1 length; the last byte is not part of the list
        assert_eq!(delta_lengths(&[0x80, 1, 4, 1, 10, 99], 8), Ok(5));
        // 34 lengths: 32 differences of 2 bits, and one in the second part, of 1 bit; the widths of the two empty parts do not
        // count
        let mut bytes = vec![0x80, 1, 4, 34, 10, 0, 2, 1, 7, 7];
        bytes.extend([0; 8 + 4]);
        assert_eq!(delta_lengths(&bytes, 34), Ok(bytes.len()));
        assert_eq!(
            delta_lengths(&bytes[..bytes.len() - 1], 34).unwrap_err(),
            "a page ends inside the lengths of its texts"
        );
        assert_eq!(delta_lengths(&bytes, 33).unwrap_err(), "a page is said to have 34 texts, of at most 33");
        assert!(delta_lengths(&[0, 4, 34, 10], 34).is_err());
        assert!(delta_lengths(&[0x80, 1, 0, 34, 10], 34).is_err());
        assert!(delta_lengths(&[0x80, 1, 4], 34).is_err());
    }
}
