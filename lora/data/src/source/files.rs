//! Finds the files that a user means by names and by patterns like `dir/*.jsonl`.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::endings::{PACKED, endings};
use super::error::SourceError;
use super::hub::{self, CachedSet};
use crate::spelling::nearest;

/// The files of a run, in the order in which their rows are numbered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataFiles {
    /// The files, in the order of the given names. The files of one pattern are in alphabetical order.
    pub paths: Vec<PathBuf>,
    /// Files that `paths` has more than once, perhaps under another name. Their rows count each time.
    pub repeated: Vec<PathBuf>,
    /// Folders that a pattern matched. They are skipped.
    pub folders: Vec<PathBuf>,
    /// Data sets of the local Hugging Face cache. Their files are among `paths`.
    pub sets: Vec<CachedSet>,
}

/// Finds the files that names and patterns stand for.
///
/// A name that exists stands for that file, whatever characters it contains. Otherwise, a name with `*`, `?` or `[` is a pattern:
/// `*` ends at a `/` (`**` is any number of folders) and matches no leading dot. A missing name in the form of a data set's id is
/// looked up in the local Hugging Face cache. Any other missing name is refused here if its folder has a file with a similar
/// name, and by the reader otherwise.
///
/// # Errors
/// [`SourceError::Folder`], [`SourceError::Pattern`], [`SourceError::NoMatch`], [`SourceError::NotText`], [`SourceError::Hub`],
/// [`SourceError::Misspelt`]; [`SourceError::Io`] for a folder that cannot be listed.
pub fn data_files(names: &[PathBuf]) -> Result<DataFiles, SourceError> {
    let mut files = DataFiles::default();
    for name in names {
        match name.to_str().filter(|text| text.contains(['*', '?', '[']) && !name.exists()) {
            Some(pattern) => matching(pattern, &mut files)?,
            None if name.is_dir() => return Err(folder(name)),
            None if name.exists() => files.paths.push(name.clone()),
            None => match name.to_str().and_then(hub::find).transpose()? {
                Some(set) => {
                    files.paths.extend(set.files.iter().cloned());
                    files.sets.push(set);
                }
                None => match similar(name) {
                    Some(similar) => return Err(SourceError::Misspelt { path: name.clone(), similar }),
                    None => files.paths.push(name.clone()),
                },
            },
        }
    }
    let mut seen = HashSet::new();
    for path in &files.paths {
        if let Ok(meta) = path.metadata()
            && !seen.insert((meta.dev(), meta.ino()))
        {
            files.repeated.push(path.clone());
        }
    }
    Ok(files)
}

fn matching(pattern: &str, files: &mut DataFiles) -> Result<(), SourceError> {
    let broken =
        |error: glob::PatternError| SourceError::Pattern { pattern: pattern.to_owned(), message: error.to_string() };
    let mut found = Vec::new();
    for entry in glob::glob_with(pattern, OPTIONS).map_err(broken)? {
        let path = entry.map_err(|error| SourceError::Io { path: error.path().to_owned(), source: error.into() })?;
        if is_hidden(&path, pattern) {
            continue;
        }
        if path.is_dir() { files.folders.push(path) } else { found.push(path) }
    }
    if let Some(path) = passed_over(pattern) {
        return Err(SourceError::NotText { path, pattern: pattern.to_owned() });
    }
    if found.is_empty() {
        return Err(SourceError::NoMatch { pattern: pattern.to_owned() });
    }
    found.sort();
    files.paths.extend(found);
    Ok(())
}

/// How patterns match. Names with a leading dot match here, and [`is_hidden`] leaves them out: with
/// `require_literal_leading_dot`, the library panics on names that are not UTF-8.
pub(super) const OPTIONS: glob::MatchOptions =
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// Whether a matched path has a part that begins with a dot and that the pattern does not spell out.
fn is_hidden(path: &Path, pattern: &str) -> bool {
    let has_dot = |part: &std::ffi::OsStr| part.as_encoded_bytes().starts_with(b".") && part != "." && part != "..";
    path.iter().any(|part| has_dot(part) && !Path::new(pattern).iter().any(|literal| literal == part))
}

/// Returns a file that the pattern would match if its name were UTF-8. The library silently skips such files.
fn passed_over(pattern: &str) -> Option<PathBuf> {
    let path = Path::new(pattern);
    let name = glob::Pattern::new(path.file_name()?.to_str()?).ok()?;
    let parent = parent(path);
    // `**` also stands for no folder at all
    let without = parent.parent().filter(|_| parent.ends_with("**")).unwrap_or(parent);
    let folders = [parent, without].into_iter().filter_map(|of| glob::glob_with(of.to_str()?, OPTIONS).ok());
    let entries = folders.flatten().flatten().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let is_wrong = |name_of: &std::ffi::OsStr| {
        name_of.to_str().is_none() && name.matches_with(&name_of.to_string_lossy(), OPTIONS)
    };
    let mut paths = entries.map(|entry| entry.path());
    paths.find(|path| !is_hidden(path, pattern) && path.file_name().is_some_and(is_wrong))
}

/// Returns the folder of a file. `.` if the path has no folder.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Lists the names in a folder. Empty if it cannot be read.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Returns the file in the same folder whose name is nearest to the name of a missing file. `None` if no name is similar.
fn similar(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let names = names_in(parent(path));
    Some(path.with_file_name(nearest(name, names.iter().map(String::as_str).filter(|other| *other != name))?))
}

/// Makes the error for a folder. It suggests a pattern for the data files in it.
pub(crate) fn folder(path: &Path) -> SourceError {
    let names = names_in(path);
    let has = |ending: &String| names.iter().any(|name| name.ends_with(&format!(".{ending}")));
    // JSONL before all other formats
    let preferred = || ["jsonl"].into_iter().chain(endings());
    let packed = PACKED.into_iter().flat_map(|packed| preferred().map(move |ending| format!("{ending}{packed}")));
    let ending = preferred().map(str::to_owned).chain(packed).find(has).unwrap_or("jsonl".to_owned());
    SourceError::Folder { path: path.to_owned(), pattern: path.join(format!("*.{ending}")).display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}\n").unwrap();
        }
        folder
    }

    fn names(folder: &Path, files: &DataFiles) -> Vec<String> {
        let name = |path: &PathBuf| path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
        files.paths.iter().map(name).collect()
    }

    #[test]
    fn patterns_are_sorted_and_keep_the_order_of_the_arguments() {
        let folder = folder_with(&["b.jsonl", "a.jsonl", "c.json", ".hidden.jsonl", "sub/d.jsonl", "z.jsonl"]);
        let at = |name: &str| folder.path().join(name);
        let files = data_files(&[at("z.jsonl"), at("[ab].jsonl"), at("c.json")]).unwrap();
        assert_eq!(names(folder.path(), &files), ["z.jsonl", "a.jsonl", "b.jsonl", "c.json"]);
        assert_eq!(files.repeated, Vec::<PathBuf>::new());
        let files = data_files(&[at("**/*.jsonl")]).unwrap();
        assert_eq!(names(folder.path(), &files), ["a.jsonl", "b.jsonl", "sub/d.jsonl", "z.jsonl"]);
        let files = data_files(&[at("*")]).unwrap();
        assert_eq!(names(folder.path(), &files), ["a.jsonl", "b.jsonl", "c.json", "z.jsonl"]);
        assert_eq!(files.folders, [at("sub")]);
        // a name with a dot in front is accepted if the pattern spells it out, but no `*` matches it
        let hidden = folder_with(&[".cache/a.jsonl", ".cache/.b.jsonl", ".c.jsonl"]);
        let files = data_files(&[hidden.path().join(".cache/*.jsonl")]).unwrap();
        assert_eq!(names(hidden.path(), &files), [".cache/a.jsonl"]);
        for pattern in ["*.jsonl", ".*.jsonl", "**/*.jsonl", "*/*.jsonl"] {
            let error = data_files(&[hidden.path().join(pattern)]).unwrap_err();
            assert!(matches!(error, SourceError::NoMatch { .. }), "{pattern}: {error}");
        }
    }

    #[test]
    fn a_name_that_is_not_utf8_is_not_passed_over() {
        use std::os::unix::ffi::OsStrExt;
        let folder = folder_with(&["a.jsonl", "sub/b.jsonl"]);
        let name = std::ffi::OsStr::from_bytes(b"sub/caf\xE9.jsonl");
        let path = folder.path().join(name);
        if std::fs::write(&path, "{}\n").is_err() {
            return; // this file system allows UTF-8 names only
        }
        for pattern in ["sub/*.jsonl", "s*/*.jsonl", "**/*.jsonl", "sub/caf?.jsonl"] {
            let error = data_files(&[folder.path().join(pattern)]).unwrap_err();
            assert!(matches!(&error, SourceError::NotText { path: found, .. } if *found == path), "{pattern}: {error}");
            assert!(error.to_string().contains(r"caf\xE9.jsonl"), "{error}");
        }
        // the file can still be given by its exact name, and patterns that could not match it cause no error
        assert_eq!(data_files(std::slice::from_ref(&path)).unwrap().paths, [path]);
        assert_eq!(data_files(&[folder.path().join("*.jsonl")]).unwrap().paths.len(), 1);
        assert_eq!(data_files(&[folder.path().join("sub/b*.jsonl")]).unwrap().paths.len(), 1);
        std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"caf\xE9.json")), "{}\n").unwrap();
        assert!(matches!(data_files(&[folder.path().join("**/*.json")]), Err(SourceError::NotText { .. })));
    }

    #[test]
    fn a_file_that_exists_is_no_pattern() {
        let folder = folder_with(&["rows[1].jsonl", "rows1.jsonl"]);
        let files = data_files(&[folder.path().join("rows[1].jsonl")]).unwrap();
        assert_eq!(names(folder.path(), &files), ["rows[1].jsonl"]);
    }

    #[test]
    fn the_same_file_twice_is_said() {
        let folder = folder_with(&["a.jsonl", "b.jsonl"]);
        let at = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink(at("a.jsonl"), at("link.jsonl")).unwrap();
        let files = data_files(&[at("*.jsonl"), at("b.jsonl")]).unwrap();
        assert_eq!(names(folder.path(), &files), ["a.jsonl", "b.jsonl", "link.jsonl", "b.jsonl"]);
        assert_eq!(files.repeated, [at("link.jsonl"), at("b.jsonl")]);
    }

    #[test]
    fn what_names_no_file_is_refused() {
        let folder = folder_with(&["sub/d.parquet"]);
        let at = |name: &str| folder.path().join(name);
        let message = |name: &str| data_files(&[at(name)]).unwrap_err().to_string();
        let text = message("*.jsonl");
        assert!(text.contains("*.jsonl") && text.contains("matches no file"), "{text}");
        assert!(matches!(data_files(&[at("su*")]), Err(SourceError::NoMatch { .. })), "folders are no files");
        let text = message("sub");
        assert!(text.contains("is a folder") && text.contains("sub/*.parquet"), "{text}");
        assert!(matches!(data_files(&[at("a***b")]), Err(SourceError::Pattern { .. })));
        assert!(message("sub/e.parqet").ends_with(&format!("did you mean {}?", at("sub/d.parquet").display())));
        // the reader reports that the file is missing
        assert_eq!(data_files(&[at("none.jsonl")]).unwrap().paths, [at("none.jsonl")]);
    }
}
