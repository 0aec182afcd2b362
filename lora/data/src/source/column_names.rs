//! Recognises columns by their names: those that may hold a prompt, and those that may say how good an answer is.

/// Words in the names of columns that hold prompts, in the singular.
const PROMPTS: [&str; 9] =
    ["prompt", "instruction", "question", "query", "input", "system", "conversation", "message", "dialogue"];
/// Words in the names of columns that may hold a prompt, if the value is a list or a text of some length.
const PERHAPS: [&str; 6] = ["context", "history", "problem", "user", "human", "post"];
/// Minimum number of characters of a text in such a column.
pub(crate) const SOME_LENGTH: usize = 20;
/// Words in the names of columns that are about a prompt or about answers, but hold no prompt.
const ABOUT: [&str; 54] = [
    "id", "uid", "uuid", "hash", "len", "length", "token", "type", "kind", "count", "num", "number", "source", "lang",
    "language", "category", "index", "idx", "name", "version", "score", "rating", "date", "time", "timestamp", "url",
    "model", "label", "labelling", "labeling", "tag", "split", "topic", "domain", "difficulty", "format", "template",
    "answer", "response", "output", "generation", "chosen", "rejected", "critique", "judge", "evaluation", "reward",
    "weight", "margin", "quality", "fingerprint", "intent", "following", "explanation",
];

/// Words in the names of columns that say which of two answers is better.
const VERDICTS: [&str; 8] = ["better", "winner", "preference", "preferred", "best", "choice", "verdict", "label"];
/// Words in the names of columns that say how good an answer is.
const SCORES: [&str; 6] = ["score", "rating", "reward", "grade", "quality", "helpfulness"];
/// Words in the names of scores that are better when smaller.
const FAULTS: [&str; 10] =
    ["toxicity", "toxic", "harm", "risk", "perplexity", "length", "verbosity", "loss", "error", "rank"];
/// Words in the name of a column that holds another version of a prompt that is read.
const VERSIONS: [&str; 9] =
    ["original", "orig", "raw", "translated", "translation", "english", "en", "clean", "cleaned"];

/// How strongly the name of a column suggests that it holds a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Likeness {
    Perhaps,
    Yes,
}

/// Whether the name of a column suggests a prompt.
pub(crate) fn is_like_a_prompt(name: &str) -> bool {
    likeness(name).is_some()
}

/// Returns the column that most likely is the prompt. `None` if no name suggests one.
pub(crate) fn candidate(unread: &[String]) -> Option<&str> {
    // a `system` column is only a part of a prompt, so any other column goes first
    let rank = |name: &&String| likeness(name).map(|likeness| (!is_system(name), likeness));
    // reversed, since `max_by_key` takes the last of equal ones
    unread.iter().rev().filter(|name| is_like_a_prompt(name)).max_by_key(rank).map(String::as_str)
}

/// Whether the check of a sample looks at a column even if nothing else reads it.
pub(crate) fn is_looked_at(name: &str) -> bool {
    is_like_a_prompt(name) || is_verdict(name) || is_score(name)
}

/// Whether a column may say which of two answers is better.
pub(crate) fn is_verdict(name: &str) -> bool {
    has_any(name, &VERDICTS)
}

/// Whether a column may say how good an answer is, the larger the better.
pub(crate) fn is_score(name: &str) -> bool {
    has_any(name, &SCORES) && !has_any(name, &FAULTS)
}

/// Whether a name consists of the words of `read`, the name of a column that is read, and of words for another version.
pub(crate) fn is_other_version(name: &str, read: &str) -> bool {
    let (all, read) = (words(name), words(read));
    let rest: Vec<&String> = all.iter().filter(|word| !VERSIONS.contains(&word.as_str())).collect();
    rest.len() < all.len() && rest.into_iter().eq(&read)
}

fn has_any(name: &str, list: &[&str]) -> bool {
    words(name).iter().any(|word| list.contains(&word.as_str()))
}

pub(crate) fn is_system(name: &str) -> bool {
    words(name).iter().any(|word| word == "system")
}

pub(crate) fn likeness(name: &str) -> Option<Likeness> {
    match () {
        () if has_any(name, &ABOUT) => None,
        () if has_any(name, &PROMPTS) => Some(Likeness::Yes),
        () if has_any(name, &PERHAPS) => Some(Likeness::Perhaps),
        () => None,
    }
}

/// Splits a name into words in the singular: `userInputs`, `user_inputs` and `User-Input` all give `user`, `input`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || c.is_uppercase() && was_lower {
            words.push(String::new());
        }
        was_lower = c.is_lowercase();
        if c.is_alphanumeric() {
            words.last_mut().expect("there is a word").extend(c.to_lowercase());
        }
    }
    let singular = |word: String| match word.as_str() {
        "queries" => "query".to_owned(),
        "dialog" | "dialogs" => "dialogue".to_owned(),
        "class" => word,
        plural => plural.strip_suffix('s').map_or(plural.to_owned(), str::to_owned),
    };
    words.into_iter().filter(|word| !word.is_empty()).map(singular).collect()
}
