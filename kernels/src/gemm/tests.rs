//! Against the reference, and equalities on bits.

use super::*;
use crate::case::check_all;

#[test]
fn agrees_with_the_reference() {
    let cases: Vec<_> = case::cases().into_iter().filter(|case| case.flops < 1e9).collect();
    check_all(&cases);
}
