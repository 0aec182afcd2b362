//! Finds this user's caches.

use std::ffi::OsString;
use std::path::PathBuf;

/// Returns `align/<name>` in `$XDG_CACHE_HOME` (a relative path does not count) or in `~/.cache`. `None` if neither folder is
/// known.
pub fn folder(name: &str) -> Option<PathBuf> {
    folder_by(name, |variable| std::env::var_os(variable))
}

fn folder_by(name: &str, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(caches.join("align").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_directory_follows_the_xdg_rules() {
        let with = |variables: &[(&str, &str)]| {
            let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
            folder_by("reference", |name| find(name).map(|(_, value)| value.into()))
        };
        assert_eq!(with(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")]), Some("/c/align/reference".into()));
        assert_eq!(with(&[("XDG_CACHE_HOME", "c"), ("HOME", "/h")]), Some("/h/.cache/align/reference".into()));
        assert_eq!(with(&[("HOME", "/h")]), Some("/h/.cache/align/reference".into()));
        assert_eq!(with(&[("HOME", "")]), None);
        assert_eq!(with(&[]), None);
    }
}
