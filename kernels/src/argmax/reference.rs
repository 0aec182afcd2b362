//! Plain version: the definition.

/// The first column whose value is larger than every one before it and not smaller than any after it; NaN does not count.
pub fn argmax(x: &[f32]) -> u32 {
    let mut best = 0;
    for (column, &value) in x.iter().enumerate() {
        if value > x[best] || (x[best].is_nan() && !value.is_nan()) {
            best = column;
        }
    }
    if x[best].is_nan() { super::NONE } else { best as u32 }
}
