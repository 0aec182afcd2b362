//! A row whose answers do not fit into one forward pass, in pieces that do.

use align_data::{EncodedRow, Target};
use std::ops::Range;

/// Ranges of the row's answers for forward passes of at most `micro_batch_tokens` tokens, each with the prompt; one answer at
/// least is in each. All of them in one, unless it is a row of scored answers that does not fit.
pub fn pieces(row: &EncodedRow, micro_batch_tokens: usize) -> Vec<Range<usize>> {
    let n = row.answers.len();
    if !matches!(row.target, Target::Rewards(_)) || row.tree_tokens() <= micro_batch_tokens {
        return vec![Range { start: 0, end: n }];
    }
    let mut pieces = Vec::new();
    let (mut first, mut tokens) = (0, row.prompt.len());
    for (answer, kept) in row.answers.iter().map(|answer| answer.kept).enumerate() {
        if answer > first && tokens + kept > micro_batch_tokens {
            pieces.push(first..answer);
            (first, tokens) = (answer, row.prompt.len());
        }
        tokens += kept;
    }
    pieces.push(first..n);
    pieces
}

/// Tokens of the tree of some of a row's answers.
pub fn piece_tokens(row: &EncodedRow, answers: Range<usize>) -> usize {
    row.prompt.len() + row.answers[answers].iter().map(|answer| answer.kept).sum::<usize>()
}
