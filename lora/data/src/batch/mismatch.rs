//! KTO's mismatched answers. A row's prompt is followed by the answer of another row, its donor.

use crate::row::EncodedRow;

/// Which row's answer follows a row's prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The answer of the row before, as in TRL.
    Previous,
    /// The answer of the nearest earlier row with another prompt, or of the row before if all rows have the same prompt. Meant for
    /// rows made from pairs, since the two rows of a pair have the same prompt.
    OtherPrompt,
}

/// Returns, for each of `n` rows, the place of its donor. The rows form a circle: the last row is before the first.
/// `same_prompt(a, b)` is called for neighbours only.
///
/// If all rows have the same prompt, each donor is the row before, as with [`Mismatch::Previous`].
pub fn donors(n: usize, mismatch: Mismatch, same_prompt: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    let before = |place: usize| (place + n - 1) % n;
    let mut donors: Vec<usize> = (0..n).map(before).collect();
    if mismatch == Mismatch::Previous {
        return donors;
    }
    // go around the circle, from a row whose predecessor has another prompt
    let Some(first) = (0..n).find(|&place| !same_prompt(before(place), place)) else { return donors };
    for place in (first..first + n).map(|place| place % n) {
        if same_prompt(before(place), place) {
            donors[place] = donors[before(place)];
        }
    }
    donors
}

/// Returns the completion ids of the mismatched answer of each row of `batch`: the full answer of its donor, cut so that
/// prompt + answer is at most `max_length` tokens.
///
/// Full means: before it was cut to fit behind its own prompt. If a donor has no answer or several, its mismatched answer is
/// empty: the losses that use such answers are unpaired. In a batch of one row, the row would get its own answer, which is not
/// mismatched: the trainer refuses that batch size.
///
/// Source: TRL 1.16 `KTOTrainer`, `add_kl_completion_ids` and its collator.
pub fn mismatched_answers<'a>(
    batch: &[EncodedRow],
    donors: impl IntoIterator<Item = &'a EncodedRow>,
    max_length: usize,
) -> Vec<&'a [u32]> {
    let answer = |(row, donor): (&EncodedRow, &'a EncodedRow)| {
        let [answer] = &donor.answers[..] else { return &[][..] };
        let room = max_length.saturating_sub(row.prompt.len());
        &answer.ids[..answer.ids.len().min(room)]
    };
    batch.iter().zip(donors).map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Answer, RowNumbers, Target};

    fn row(prompt: &[u32], answer: &[u32], kept: usize) -> EncodedRow {
        EncodedRow {
            row: 0,
            id: None,
            prompt: prompt.to_vec(),
            answers: vec![Answer { ids: answer.to_vec(), kept, unscored: Vec::new() }],
            target: Target::Label(true),
            numbers: RowNumbers::default(),
        }
    }

    fn answers(batch: &[EncodedRow], mismatch: Mismatch, max_length: usize) -> Vec<&[u32]> {
        let donors = donors(batch.len(), mismatch, |a, b| batch[a].prompt == batch[b].prompt);
        mismatched_answers(batch, donors.into_iter().map(|donor| &batch[donor]), max_length)
    }

    #[test]
    fn the_full_answer_of_the_previous_row_after_this_prompt() {
        // with max_length 5, the second row keeps one token of its own answer, but lends all three
        let batch = [row(&[1, 2], &[7], 1), row(&[1, 2, 3, 4], &[8, 9, 10], 1), row(&[1], &[11, 12], 2)];
        for mismatch in [Mismatch::Previous, Mismatch::OtherPrompt] {
            assert_eq!(answers(&batch, mismatch, 5), vec![&[11, 12][..], &[7][..], &[8, 9, 10][..]]);
            assert_eq!(answers(&batch, mismatch, 3), vec![&[11][..], &[][..], &[8, 9][..]]);
            assert_eq!(answers(&[], mismatch, 5), Vec::<&[u32]>::new());
        }
    }

    #[test]
    fn a_donor_is_of_another_prompt_where_there_is_one() {
        let of = |prompts: &[u32]| donors(prompts.len(), Mismatch::OtherPrompt, |a, b| prompts[a] == prompts[b]);
        assert_eq!(of(&[1, 2, 1, 2]), [3, 0, 1, 2]);
        // the last row has the prompt of the first one
        assert_eq!(of(&[1, 2, 3, 1]), [2, 0, 1, 2]);
        assert_eq!(of(&[1, 1, 2, 2, 2, 1]), [4, 4, 1, 1, 1, 4]);
        assert_eq!(of(&[5, 5, 5]), [2, 0, 1]);
        assert_eq!(donors(3, Mismatch::Previous, |_, _| true), [2, 0, 1]);
    }
}
