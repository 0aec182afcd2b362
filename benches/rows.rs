//! Writes any number of meaningless preference rows, to measure how long a run with a million of them takes to start.

use align_kernels::rng::Key;
use std::io::{BufWriter, Write};
use std::path::Path;

type Error = Box<dyn std::error::Error>;

/// Smallest and largest number of words in a prompt. [`ANSWER_WORDS`] has the numbers for an answer.
const PROMPT_WORDS: [usize; 2] = [10, 60];
const ANSWER_WORDS: [usize; 2] = [10, 120];
/// Number of different words, of two or three syllables.
const WORDS: usize = 4096;
/// One in this many rows has the prompt of the previous row.
const SAME_PROMPT: u64 = 8;

/// Writes `rows` rows of `{prompt, chosen, rejected}` as conversations.
pub(crate) fn write(path: &Path, rows: u64) -> Result<(), Error> {
    let words = words();
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for row in 0..rows {
        let of_prompt = if row % SAME_PROMPT == 1 { row - 1 } else { row };
        let prompt = text(&words, of_prompt, 0, PROMPT_WORDS);
        let [chosen, rejected] = [1, 2].map(|stream| text(&words, row, stream, ANSWER_WORDS));
        writeln!(
            file,
            r#"{{"prompt":[{{"role":"user","content":"{prompt}"}}],"chosen":[{{"role":"assistant","content":"{chosen}"}}],"rejected":[{{"role":"assistant","content":"{rejected}"}}]}}"#
        )?;
    }
    file.flush()?;
    println!("{}: {rows} rows, {:.2} GB", path.display(), path.metadata()?.len() as f64 / 1e9);
    Ok(())
}

/// Makes one string of a row: the prompt (`stream` 0), the chosen answer (1) or the rejected answer (2). It has `least` to `most`
/// words. The same arguments always make the same string.
fn text(words: &[String], row: u64, stream: u64, [least, most]: [usize; 2]) -> String {
    let key = Key::new(11, row, stream);
    let draw = |i: u64, below: usize| (key.unit(i) * below as f32) as usize;
    let count = least + draw(0, most - least + 1);
    (1..=count as u64).map(|i| words[draw(i, words.len())].as_str()).collect::<Vec<_>>().join(" ")
}

fn words() -> Vec<String> {
    let syllables: Vec<String> =
        "bdfglmnprstvz".chars().flat_map(|c| "aeiou".chars().map(move |v| format!("{c}{v}"))).collect();
    let syllable = |i: usize| syllables[i % syllables.len()].as_str();
    let word = |i: usize| match i % 3 {
        0 => [syllable(i), syllable(i / 7), syllable(i / 65)].concat(),
        _ => [syllable(i), syllable(i / 65)].concat(),
    };
    (0..WORDS).map(word).collect()
}
