//! A file's claims about sizes, lengths, lists and texts do not make the reader allocate that much.

use serde_json::json;

use super::*;
use crate::tests::sources::{gzip, held_by, zstd};

#[test]
fn a_row_that_refers_to_a_large_text_over_and_over_is_bad() {
    let bytes = list_of_one_text(&vec![b'x'; MIB], 2, &[(1, 0), (99_999, 1), (1, 0)]);
    let (rows, held) = held_by(|| open(&bytes).unwrap());
    assert!(held < 256 * MIB, "{held} bytes");
    let (column, message) = bad(&rows, 0);
    assert_eq!(
        (column.as_str(), message.as_str()),
        ("completions", "with it the row has more than 67108864 bytes, which is the limit")
    );
    assert_eq!(row(&rows, 1), json!({"completions": ["x".repeat(MIB)]}));
}

/// The line of a bad row is short, but to find that a row is too long, almost as many bytes are written as for the longest good
/// row. So those bytes count towards the limit.
#[test]
fn rows_that_are_too_long_count_as_what_they_took() {
    let runs: Vec<(u64, u8)> = (0..17).flat_map(|_| [(1, 0), (99, 1)]).collect();
    let error = open(&list_of_one_text(&vec![b'x'; MIB], 17, &runs)).unwrap_err();
    assert!(matches!(error, SourceError::Expansion { .. }), "{error}");
}

#[test]
fn a_row_of_endless_lists_is_refused() {
    let (fault, held) = held_by(|| fault(&list_of_one_text(b"x", 1, &[(1, 0), ((1 << 31) - 2, 1)])));
    assert!(held < 8 * MIB, "{held} bytes");
    let message = fault.to_string();
    assert!(message.contains("completions.list.element") && message.contains("more than 2097152 values"), "{message}");
}

#[test]
fn pages_are_held_one_at_a_time() {
    let packed = zstd(&texts(&[&vec![b'a'; MIB]]));
    let pages = vec![page(DATA, PLAIN, 1, MIB + 4, &packed); 64];
    let chunk = Chunk { codec: ZSTD, ..chunk("text", BYTE_ARRAY, 64, pages) };
    let bytes = file(&[text("text", REQUIRED)], 64, &[chunk]);
    let (rows, held) = held_by(|| open(&bytes).unwrap());
    assert!(held < 16 * MIB, "{held} bytes");
    assert_eq!(rows.len(), 64);
    assert_eq!(row(&rows, 63)["text"].as_str().unwrap().len(), MIB);
}

#[test]
fn a_dictionary_of_nothing_is_counted_as_what_it_becomes() {
    let entries = 1 << 24;
    let packed = zstd(&vec![0; 4 * entries]);
    let pages = vec![
        page(DICTIONARY, PLAIN, entries as i64, 4 * entries, &packed),
        page(DATA, RLE_DICTIONARY, 1, 3, &zstd(&[1, 2, 0])),
    ];
    let chunk = Chunk { codec: ZSTD, has_dictionary: true, ..chunk("text", BYTE_ARRAY, 1, pages) };
    let bytes = file(&[text("text", REQUIRED)], 1, &[chunk]);
    let (fault, held) = held_by(|| fault(&bytes));
    assert!(held < 8 * MIB, "{held} bytes");
    assert!(matches!(fault, ParquetFault::Memory { bytes, limit } if bytes > limit), "{fault}");
    assert!(fault.to_string().contains("smaller pages"), "{fault}");
}

#[test]
fn columns_share_what_may_be_held() {
    // 1 MiB of snappy may unpack to 200 MiB; three such pages are refused without being unpacked
    let schema = ["prompt", "chosen", "rejected"].map(|name| text(name, REQUIRED));
    let chunks = schema.map(|element| {
        let pages = vec![page(DATA, PLAIN, 1, 200 * MIB, &vec![0; MIB])];
        Chunk { codec: SNAPPY, ..chunk(element.name, BYTE_ARRAY, 1, pages) }
    });
    let (fault, held) = held_by(|| fault(&file(&schema, 1, &chunks)));
    assert_eq!(fault, ParquetFault::Memory { bytes: 600 << 20, limit: 512 << 20 });
    assert!(held < 16 * MIB, "{held} bytes");
}

#[test]
fn sizes_that_a_codec_cannot_make_are_refused() {
    let of = |codec: i64, unpacked: usize, data: &[u8]| {
        let chunk = Chunk { codec, ..chunk("text", BYTE_ARRAY, 1, vec![page(DATA, PLAIN, 1, unpacked, data)]) };
        file(&[text("text", REQUIRED)], 1, &[chunk])
    };
    let data = texts(&[b"some words"]);
    assert_eq!(row(&open(&of(GZIP, data.len(), &gzip(&data))).unwrap(), 0), json!({"text": "some words"}));
    assert_column_fault(&of(NONE, 15, &data), "text", "is said to have 15 bytes unpacked, from 14");
    assert_column_fault(&of(SNAPPY, 14 * 256 + 1, &data), "text", "is said to have 3585 bytes unpacked, from 14");
    assert_column_fault(&of(ZSTD, (256 << 20) + 1, &data), "text", "the limit is 268435456");
    let mut brotli_data = Vec::new();
    brotli::BrotliCompress(&mut &data[..], &mut brotli_data, &Default::default()).unwrap();
    for (codec, packed) in [(GZIP, gzip(&data)), (ZSTD, zstd(&data)), (BROTLI, brotli_data)] {
        assert!(open(&of(codec, data.len(), &packed)).is_ok(), "codec {codec}");
        for said in [data.len() - 1, data.len() + 1] {
            assert_column_fault(&of(codec, said, &packed), "text", "bytes unpacked, which is not so");
        }
        assert!(matches!(fault(&of(codec, data.len(), b"no stream")), ParquetFault::Column { .. }), "codec {codec}");
    }
    assert!(matches!(fault(&of(LZO, data.len(), &data)), ParquetFault::Library(_)));
}

/// The library reads pages as long as the column has bytes, and unpacks all of them.
#[test]
fn pages_after_the_last_value_are_looked_at_too() {
    let data = texts(&[b"x"]);
    let bomb = gzip(&vec![0; 64 * MIB]);
    let pages = vec![page(DATA, PLAIN, 1, data.len(), &gzip(&data)), page(DATA, PLAIN, 0, 10, &bomb)];
    let bytes = file(&[text("text", REQUIRED)], 1, &[Chunk { codec: GZIP, ..chunk("text", BYTE_ARRAY, 1, pages) }]);
    let (_, held) = held_by(|| assert_column_fault(&bytes, "text", "said to have 10 bytes unpacked, which is not so"));
    assert!(held < 8 * MIB, "{held} bytes");
}

#[test]
fn lengths_that_are_not_there_are_not_allocated() {
    let of = |encoding: i64, data: &[u8]| {
        let pages = vec![page(DATA, encoding, 1, data.len(), data)];
        file(&[text("text", REQUIRED)], 1, &[chunk("text", BYTE_ARRAY, 1, pages)])
    };
    // blocks of 128 in 4 parts, 2^40 lengths
    let many = Out::new().varint(128).varint(4).varint(1 << 40).varint(0).bytes;
    let one = Out::new().varint(128).varint(4).varint(1).varint(2).bytes;
    assert_eq!(row(&open(&of(DELTA_LENGTH_BYTE_ARRAY, &[&one[..], b"x"].concat())).unwrap(), 0), json!({"text": "x"}));
    for bytes in [
        of(DELTA_LENGTH_BYTE_ARRAY, &many),
        of(DELTA_BYTE_ARRAY, &many),
        of(DELTA_BYTE_ARRAY, &[&one[..], &many].concat()),
    ] {
        let (_, held) = held_by(|| assert_column_fault(&bytes, "text", "1099511627776 texts, of at most 1"));
        assert!(held < 8 * MIB, "{held} bytes");
    }
}

/// Packs lengths as differences, in blocks of 128. A part of 32 differences takes no bytes if all of them are the block's
/// smallest difference. In any other part, each difference takes 12 bits.
fn packed_lengths(lengths: &[i64]) -> Vec<u8> {
    let mut out = Out::new().varint(128).varint(4).varint(lengths.len() as u64).zigzag(lengths[0]);
    let differences: Vec<i64> = lengths.windows(2).map(|two| two[1] - two[0]).collect();
    for block in differences.chunks(128) {
        let least = *block.iter().min().unwrap();
        out = out.zigzag(least);
        let parts: Vec<&[i64]> = block.chunks(32).collect();
        let width = |part: &&[i64]| if part.iter().all(|value| *value == least) { 0 } else { 12 };
        out.bytes.extend((0..4).map(|i| parts.get(i).map_or(0, width)));
        for part in parts.iter().filter(|part| width(part) > 0) {
            let mut packed = [0u8; 48];
            for bit in (0..32 * 12).filter(|bit| (part.get(bit / 12).unwrap_or(&least) - least) >> (bit % 12) & 1 == 1)
            {
                packed[bit / 8] |= 1 << (bit % 8);
            }
            out.bytes.extend(packed);
        }
    }
    out.bytes
}

/// Each text may repeat the whole previous one, so few bytes can become many.
#[test]
fn texts_that_repeat_each_other_are_bounded() {
    let of = |values: usize| {
        let schema = [text("completions", REPEATED)];
        // every text repeats the first one and adds nothing
        let (mut prefixes, mut suffixes) = (vec![2048; values], vec![0; values]);
        (prefixes[0], suffixes[0]) = (0, 2048);
        let mut data = [levels(&[(1, 0), (values as u64 - 1, 1)]), levels(&[(values as u64, 1)])].concat();
        data.extend([packed_lengths(&prefixes), packed_lengths(&suffixes), vec![b'x'; 2048]].concat());
        let pages = vec![page(DATA, DELTA_BYTE_ARRAY, values as i64, data.len(), &data)];
        file(&schema, 1, &[chunk("completions", BYTE_ARRAY, values as i64, pages)])
    };
    assert_eq!(row(&open(&of(300)).unwrap(), 0), json!({"completions": vec!["x".repeat(2048); 300]}));
    let bytes = of(1 << 20);
    let (_, held) = held_by(|| assert_column_fault(&bytes, "completions", "1048576 values of a row may repeat"));
    assert!(held < 8 * MIB, "{held} bytes");
}
