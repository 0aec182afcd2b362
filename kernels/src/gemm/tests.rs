//! Against the reference, and equalities on bits.

use super::*;
use crate::case::check_all;

/// The largest ones would take minutes without vector instructions: the bench checks what it times.
#[test]
fn agrees_with_the_reference() {
    let cases: Vec<_> = case::cases().into_iter().filter(|case| case.flops < 1e9).collect();
    check_all(&cases);
}
