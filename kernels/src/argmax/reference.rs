//! Plain version: the definition.

/// Returns the first column that holds the largest value, or [`super::NONE`] if no value counts. NaN and the columns `left_out` do
/// not count.
pub(crate) fn argmax(x: &[f32], left_out: &[u32]) -> u32 {
    let mut best = super::NONE;
    for (column, &value) in x.iter().enumerate() {
        let counts = !value.is_nan() && !left_out.contains(&(column as u32));
        if counts && (best == super::NONE || value > x[best as usize]) {
            best = column as u32;
        }
    }
    best
}
