//! KTO's mismatched answers: for every row of a batch, the answer of another row after this row's prompt.

use super::EncodedRow;

/// Completion ids of the mismatched answer of each row of `batch`: the full answer of the previous row (the first row takes
/// the last row's), cut so that prompt + answer is at most `max_length` tokens.
///
/// Full: before it was cut to fit behind its own prompt. Rows hold one answer each; rows of no answer or several have no
/// mismatched one, as the losses that use it are unpaired. A batch of one row would meet its own answer, which is not
/// mismatched: the trainer refuses that batch size.
///
/// Source: TRL 1.16 `KTOTrainer`, `add_kl_completion_ids` and its collator.
pub fn mismatched_answers(batch: &[EncodedRow], max_length: usize) -> Vec<&[u32]> {
    (0..batch.len())
        .map(|i| {
            let previous = &batch[if i == 0 { batch.len() - 1 } else { i - 1 }];
            let [answer] = &previous.answers[..] else { return &[][..] };
            let room = max_length.saturating_sub(batch[i].prompt.len());
            &answer.ids[..answer.ids.len().min(room)]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, RowNumbers, Target};
    use super::*;

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

    #[test]
    fn the_full_answer_of_the_previous_row_after_this_prompt() {
        // max_length 5: the second row keeps one token of its own answer, but lends all three
        let batch = [row(&[1, 2], &[7], 1), row(&[1, 2, 3, 4], &[8, 9, 10], 1), row(&[1], &[11, 12], 2)];
        assert_eq!(mismatched_answers(&batch, 5), vec![&[11, 12][..], &[7][..], &[8, 9, 10][..]]);
        assert_eq!(mismatched_answers(&batch, 3), vec![&[11][..], &[][..], &[8, 9][..]]);
        assert_eq!(mismatched_answers(&[], 5), Vec::<&[u32]>::new());
    }
}
