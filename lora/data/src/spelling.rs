//! Finds the known name that a misspelt one may stand for.

/// Returns the nearest of the names that `text` misspells or begins. Up to a third of the letters of `text` may be wrong, but one
/// wrong letter is always accepted. If `text` is the beginning of a name, it must have at least three letters. `None` if no name
/// fits.
pub fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = text.chars().count();
    let most = (letters / 3).max(1);
    let rated = names.into_iter().map(|name| (strsim::osa_distance(name, text), name));
    let is_near = |(distance, name): &(usize, &str)| *distance <= most || letters >= 3 && name.starts_with(text);
    rated.filter(is_near).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}
