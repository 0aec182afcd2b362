//! Compares two lists of named values that say what something was made from.

/// Returns the names of the entries of `ours` that `theirs` does not have at the same place.
pub fn differences<'n, N: PartialEq, V: PartialEq>(
    ours: &'n [(N, V)],
    theirs: &[(N, V)],
) -> impl Iterator<Item = &'n N> {
    let differs = move |(i, entry): &(usize, &(N, V))| theirs.get(*i) != Some(*entry);
    ours.iter().enumerate().filter(differs).map(|(_, (name, _))| name)
}
