//! Finds where the answers begin in a pair of texts without a prompt column.
//!
//! Such texts share their beginning: the prompt, and any letters that both answers happen to begin with. If the data marks turns,
//! as HH does with `\n\nAssistant:`, the prompt ends with the last such mark. A sample of the rows shows which mark that is.
//! Candidates are marks in the common prefix of at least 95 % of the rows, after the last mark of a user or the like. A mark with
//! the name of a role is preferred, then a mark with another known name, then the latest mark. The order matters because the
//! answers may contain labels too: `Step 1:`, `Answer:`.
//!
//! | a mark is | for example |
//! |---|---|
//! | a label with a colon, of one to three words at the start of a line, or of one capitalised word after a blank | `Assistant:`, `TL;DR:`, ` ASSISTANT:` |
//! | a line that begins with `#` | `### Response:` |
//! | tags, with the name of a role between or after them | `[/INST]`, `<\|im_start\|>assistant` |
//!
//! Newlines that follow the mark in these rows belong to it. A mark that opens a turn of the user (`Human:`, `### Input:`,
//! `[INST]`) or ends a turn cannot open an answer: if it is the latest, there is no marker. Only letters that answers happen to
//! share may follow a marker in the common prefix. So a mark with a long text behind it does not count, and a mark with an
//! unknown name counts only if next to nothing follows it.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

/// Smallest share of the rows that must have the mark, in percent.
pub(crate) const SHARE: usize = 95;
/// Maximum number of bytes of a mark: `<|eot_id|><|start_header_id|>assistant<|end_header_id|>` has 57.
const LONGEST: usize = 80;
/// Number of bytes at the end of a text, such as a common prefix, that are searched for marks.
const SEARCHED: usize = 4096;
/// Maximum number of characters after a mark with an unknown name, in the median row: letters that the answers happen to share.
const BY_CHANCE: usize = 16;
/// Maximum number of characters after a mark with a known name, in the median row. The limit is larger because answers of one
/// model may begin alike.
const ALIKE: usize = 64;
/// Minimum number of rows for which an unknown word within a line may be a mark.
const MANY: usize = 20;

/// Roles that give answers.
const ROLES: [&str; 12] =
    ["assistant", "bot", "ai", "gpt", "chatgpt", "model", "chatbot", "agent", "claude", "llama", "machine", "robot"];
/// Words for an answer.
const ANSWER_WORDS: [&str; 9] =
    ["answer", "response", "output", "completion", "reply", "tldr", "summary", "solution", "translation"];
/// A mark with no other word than this letter opens an answer.
const ANSWER_LETTER: &str = "a";
/// A mark with no other word than one of these letters opens what others say.
const OTHER_LETTERS: [&str; 2] = ["q", "s"];
/// Words for others who speak, and headings for what they say.
const SPEAKERS: [&str; 11] = [
    "human", "user", "question", "instruction", "instructions", "input", "system", "query", "inst", "customer", "tool",
];
/// Further words in marks that open something other than an answer.
const OTHERS: [&str; 13] = [
    "inputs", "prompt", "context", "sys", "observation", "end", "eos", "bos", "eot", "eom", "message", "problem",
    "post",
];

/// The text after which the answers begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnMarker {
    mark: String,
    /// The newlines that follow the mark.
    newlines: String,
}

/// Writes the marker as it occurs in the rows.
impl std::fmt::Display for TurnMarker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.mark, self.newlines)
    }
}

impl TurnMarker {
    /// Returns the byte offset after the last occurrence of the mark, and after the marker's newlines if they follow. `None` if the
    /// mark does not occur.
    pub(crate) fn end_in(&self, shared: &str) -> Option<usize> {
        let (_, after) = around_last(shared, &self.mark)?;
        Some(shared.len() - after.strip_prefix(self.newlines.as_str()).unwrap_or(after).len())
    }

    /// Finds the marker of rows from the common prefixes of their two texts. `None` if there is none.
    pub(crate) fn of(prefixes: &[&str]) -> Option<TurnMarker> {
        let wanted = (prefixes.len() * SHARE).div_ceil(100).max(1);
        let mut rows: HashMap<&str, usize> = HashMap::new();
        for prefix in prefixes {
            distinct_marks(prefix).into_iter().for_each(|mark| *rows.entry(mark).or_default() += 1);
        }
        rows.retain(|_, rows| *rows >= wanted);
        let of_mark = |mark| Shared { mark, side: side(mark), rest: middle_rest(prefixes, mark) };
        let mut shared: Vec<Shared> = rows.into_keys().map(of_mark).collect();
        // the latest first; if several end at the same place, the longest first
        shared.sort_by_key(|shared| (shared.rest, std::cmp::Reverse(shared.mark.len()), shared.mark));
        let after_others = shared.iter().position(|shared| shared.side == Side::Other).unwrap_or(shared.len());
        let mark = open_mark(&shared[..after_others], prefixes)?;
        let stands_alone =
            |prefix: &&&str| around_last(prefix, mark).is_some_and(|(before, _)| before.trim().is_empty());
        if prefixes.iter().filter(stands_alone).count() > prefixes.len() - wanted {
            return None; // too many rows have no prompt before the mark
        }
        let after = |newlines: &str| {
            let follows =
                |prefix: &&&str| around_last(prefix, mark).is_some_and(|(_, after)| after.starts_with(newlines));
            prefixes.iter().filter(follows).count() >= wanted
        };
        let newlines = ["\n\n", "\n"].into_iter().find(|newlines| after(newlines)).unwrap_or_default();
        Some(TurnMarker { mark: mark.to_owned(), newlines: newlines.to_owned() })
    }
}

/// A mark that nearly all rows have.
struct Shared<'a> {
    mark: &'a str,
    side: Side,
    /// Characters that follow the mark in the median row.
    rest: usize,
}

fn middle_rest(prefixes: &[&str], mark: &str) -> usize {
    let rest = |prefix: &&str| Some(around_last(prefix, mark)?.1.trim().chars().count());
    let mut rests: Vec<usize> = prefixes.iter().filter_map(rest).collect();
    rests.sort_unstable();
    rests.get(rests.len() / 2).copied().unwrap_or(0)
}

/// Chooses the mark that opens the answers. `marks` are those after the last mark that opens a turn of others, the latest first.
/// Answers may contain labels too, such as `Step 1:` and `Answer:`, so known names are preferred to unknown ones, and roles to
/// other known names.
fn open_mark<'a>(marks: &[Shared<'a>], prefixes: &[&str]) -> Option<&'a str> {
    let known = marks.iter().filter(|shared| shared.side == Side::Answer && shared.rest <= ALIKE);
    let is_open = |shared: &&Shared| {
        shared.side == Side::Unknown
            && shared.rest <= BY_CHANCE
            && (prefixes.len() >= MANY || is_of_a_line(prefixes, shared.mark))
    };
    let best = known.min_by_key(|shared| rank(shared.mark)).or_else(|| marks.first().filter(is_open));
    best.map(|shared| shared.mark)
}

/// Ranks how surely a known mark opens an answer: 0, the surest, for the name of a role, 1 for a heading or a tag, 2 for a word.
fn rank(mark: &str) -> u8 {
    let lower = mark.to_lowercase();
    match () {
        () if words(&lower).any(|word| ROLES.contains(&word)) => 0,
        () if mark.starts_with(['#', '<', '[']) => 1,
        () => 2,
    }
}

/// Returns the words of a mark, some of them empty.
fn words(mark: &str) -> impl Iterator<Item = &str> {
    mark.split(|c: char| !c.is_alphanumeric())
}

/// Whether a text contains a mark that opens an answer: the text then consists of turns.
pub(crate) fn holds_turns(text: &str) -> bool {
    marks(text).into_iter().any(|mark| side(mark) == Side::Answer)
}

/// Whether a text is surely marked with turns: by a mark with the name of a role that answers, or by a heading for the answer at
/// its end. Other words for an answer may be part of the question.
pub(crate) fn is_marked(text: &str) -> bool {
    let is_heading =
        |mark: &str| mark.starts_with('#') && side(mark) == Side::Answer && text.trim_end().ends_with(mark);
    let is_role =
        |mark: &str| side(mark) == Side::Answer && rank(mark) == 0 || mark.to_lowercase().ends_with("[/inst]");
    marks(text).into_iter().any(|mark| is_role(mark) || is_heading(mark))
}

/// Returns a mark that opens a turn of others both in the answer and in the prompt. `None` if there is none, or if the prompt has
/// no mark that opens an answer.
pub(crate) fn turn_of_others<'a>(prompt: &str, answer: &'a str) -> Option<&'a str> {
    let opens = |mark: &&str| opens_turn_of_others(mark) && opens_line(answer, mark) && says_more(answer, mark);
    let mut marks = distinct_marks(answer).into_iter().filter(opens);
    marks.find(|mark| opens_line(prompt, mark)).filter(|_| holds_turns(prompt))
}

/// Whether a mark opens what others say. Names in XML tags do not open turns, and neither do ends of turns.
fn opens_turn_of_others(mark: &str) -> bool {
    let lower = mark.to_lowercase();
    let is_of_turns = ["<|", "<start_of_turn>", "[inst]"].iter().any(|start| lower.starts_with(start));
    side(mark) == Side::Other
        && words(&lower).any(|word| SPEAKERS.contains(&word) || OTHER_LETTERS.contains(&word))
        && (is_of_turns || !lower.starts_with(['<', '[']))
}

/// Whether the last occurrence of a mark is at the start of a line, or is a tag.
fn opens_line(text: &str, mark: &str) -> bool {
    let begins = |before: &str| before.is_empty() || before.ends_with('\n') || mark.starts_with(['<', '[']);
    around_last(text, mark).is_some_and(|(before, _)| begins(before))
}

/// Whether something follows the last occurrence of a mark.
fn says_more(text: &str, mark: &str) -> bool {
    around_last(text, mark).is_some_and(|(_, after)| !after.trim().is_empty())
}

/// Whether a text ends with a mark.
pub(crate) fn ends_with_mark(text: &str) -> bool {
    marks(text).into_iter().any(|mark| text.ends_with(mark))
}

/// Splits a text around the last occurrence of a mark. Occurrences that begin within a word do not count.
fn around_last<'t>(text: &'t str, mark: &str) -> Option<(&'t str, &'t str)> {
    let begins_word = mark.starts_with(char::is_alphanumeric);
    let is_start = |at: usize| !begins_word || !text[..at].ends_with(char::is_alphanumeric);
    let at = text.rmatch_indices(mark).map(|(at, _)| at).find(|at| is_start(*at))?;
    Some((&text[..at], &text[at + mark.len()..]))
}

fn is_of_a_line(prefixes: &[&str], mark: &str) -> bool {
    let begins = |before: &str| before.ends_with('\n') || mark.starts_with(['<', '[', '#']);
    prefixes.iter().all(|prefix| around_last(prefix, mark).is_none_or(|(before, _)| begins(before)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Answer,
    Other,
    Unknown,
}

/// Returns what a mark opens: an answer, what others say, or something unknown.
fn side(mark: &str) -> Side {
    let lower = mark.to_lowercase();
    if lower.ends_with("[/inst]") {
        return Side::Answer;
    }
    let words: Vec<&str> = words(&lower).filter(|word| !word.is_empty()).collect();
    match words[..] {
        [letter] if letter == ANSWER_LETTER => return Side::Answer,
        [letter] if OTHER_LETTERS.contains(&letter) => return Side::Other,
        _ => {}
    }
    let has = |list: &[&str]| words.iter().any(|word| list.contains(word));
    let is_tldr = words.windows(2).any(|two| two == ["tl", "dr"]);
    // the mark may begin with the end of the previous turn, so a role decides first
    match (has(&ROLES) || has(&ANSWER_WORDS) || is_tldr, has(&SPEAKERS) || has(&OTHERS)) {
        (true, _) => Side::Answer,
        (false, true) => Side::Other,
        (false, false) => Side::Unknown,
    }
}

/// Returns the marks in the last part of a text once each, in alphabetical order.
fn distinct_marks(text: &str) -> BTreeSet<&str> {
    marks(text).into_iter().collect()
}

/// Returns the marks in the last part of a text.
fn marks(text: &str) -> Vec<&str> {
    let text = &text[text.ceil_char_boundary(text.len().saturating_sub(SEARCHED))..];
    let mut all = Vec::new();
    for line in text.split('\n').map(|line| line.trim_end_matches('\r')) {
        if line.starts_with('#') && line.len() <= LONGEST {
            all.push(line.trim_end());
        }
        labels(line, &mut all);
        tags(line, &mut all);
    }
    all
}

/// Adds the labels of a line to `all`: one to three words at its start, or one capitalised word within it, with the colon.
fn labels<'a>(line: &'a str, all: &mut Vec<&'a str>) {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, ';' | '_' | '-' | '*' | '/');
    for (colon, _) in line.match_indices(':') {
        let before = &line[..colon];
        let is_label = colon < LONGEST
            && before.split(' ').count() <= 3
            && before.chars().all(|c| is_word(c) || c == ' ' || c == '#');
        if is_label && !before.trim().is_empty() {
            all.push(&line[..=colon]);
        }
        let start = before.trim_end_matches(is_word).len();
        let word = &before[start..];
        if word.starts_with(char::is_uppercase) && word.len() < LONGEST {
            all.push(&line[start..=colon]);
        }
    }
}

/// Adds the runs of tags in a line to `all`, with the names between and after the tags.
fn tags<'a>(line: &'a str, all: &mut Vec<&'a str>) {
    let mut at = 0;
    while let Some(found) = line[at..].find(['<', '[']) {
        let start = at + found;
        let mut end = start;
        loop {
            let rest = &line[end..];
            let closing = match rest.chars().next() {
                Some('<') => '>',
                Some('[') => ']',
                _ => {
                    // a name counts if a tag or the end of the line follows
                    let name = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
                    let is_name = name > 0 && end > start && (name == rest.len() || rest[name..].starts_with('<'));
                    if !is_name {
                        break;
                    }
                    end += name;
                    continue;
                }
            };
            match rest.find(closing) {
                Some(close) if close <= LONGEST && !rest[..close].contains(' ') && close > 1 => end += close + 1,
                _ => break,
            }
        }
        if end > start && end - start <= LONGEST {
            all.push(&line[start..end]);
        }
        at = end.max(start + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finds the marker of 40 prefixes. In some rows, letters that the answers share by chance follow the prompt.
    fn marker(prompt: impl Fn(usize) -> String) -> Option<String> {
        let chance = ["", "", " The ", "", " I"];
        let prefixes: Vec<String> = (0..40).map(|i| prompt(i) + chance[i % chance.len()]).collect();
        let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
        TurnMarker::of(&prefixes).map(|marker| marker.to_string())
    }

    #[test]
    fn the_marks_of_common_formats_are_found() {
        let q = |i: usize| format!("What is {i}: a lake? Or a sea?");
        let formats: [(&str, &dyn Fn(usize) -> String); 11] = [
            ("Assistant:", &|i| format!("\n\nHuman: {}\n\nAssistant:", q(i))),
            ("Assistant:", &|i| format!("\n\nHuman: hi\n\nAssistant: Hello!\n\nHuman: {}\n\nAssistant:", q(i))),
            ("ASSISTANT:", &|i| format!("A chat. USER: {} ASSISTANT:", q(i))),
            ("### Response:\n", &|i| format!("Below is a task.\n\n### Instruction:\n{}\n\n### Response:\n", q(i))),
            ("<|im_end|>", &|_| String::new()),
            ("[/INST]", &|i| format!("<s>[INST] {} [/INST]", q(i))),
            ("<|assistant|>\n", &|i| format!("<|user|>\n{}</s>\n<|assistant|>\n", q(i))),
            ("<start_of_turn>model\n", &|i| {
                format!("<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n", q(i))
            }),
            ("TL;DR:", &|i| format!("TITLE: {i}\nPOST: {}\n\nTL;DR:", q(i))),
            ("A:", &|i| format!("Q: {}\nA:", q(i))),
            ("Pirate:", &|i| format!("Sailor: {}\nPirate:", q(i))),
        ];
        for (expected, format) in formats {
            let expected = (expected != "<|im_end|>").then(|| expected.to_owned());
            assert_eq!(marker(format), expected);
        }
        let chatml = marker(|i| format!("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", q(i)));
        assert_eq!(chatml.as_deref(), Some("<|im_start|>assistant\n"));
        let llama = marker(|i| {
            format!(
                "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
                q(i)
            )
        });
        assert!(llama.as_deref().is_some_and(|mark| mark.ends_with("assistant<|end_header_id|>\n\n")), "{llama:?}");
    }

    #[test]
    fn labels_of_the_answers_themselves_are_no_marker() {
        let formats: [(&str, &dyn Fn(usize) -> String); 9] = [
            ("Assistant:", &|i| format!("Human: what is {i}\nAssistant: Sure.\nStep 1: add")),
            ("Assistant:", &|i| format!("\n\nHuman: what is {i}\n\nAssistant: I think\nAnswer: 0")),
            ("Assistant:", &|i| format!("\n\nHuman: what is {i}\n\nAssistant: Summary: it is A: 0")),
            ("ASSISTANT:", &|i| format!("A chat. USER: what is {i} ASSISTANT: The Solution: it is")),
            ("### Response:\n", &|i| format!("### Instruction:\nwhat is {i}\n\n### Response:\nSummary: it is")),
            ("<|assistant|>\n", &|i| format!("<|user|>\nwhat is {i}</s>\n<|assistant|>\n# Answer\nIt is")),
            ("[/INST]", &|i| format!("[INST] what is {i} [/INST] Note: it is")),
            // the latest of two marks with the same rank
            ("Answer:", &|i| format!("Summary: {i} lakes\nAnswer: It")),
            ("Bot:", &|i| format!("Human: what\nBot: hm\nHuman: what is {i}\nBot: hm. Result: ")),
        ];
        for (expected, format) in formats {
            assert_eq!(marker(format).as_deref(), Some(expected), "{}", format(1));
        }
        // the user speaks last
        assert_eq!(marker(|i| format!("Human: {i}\nAssistant: ok\nHuman: why")), None);
    }

    #[test]
    fn what_opens_no_answer_is_no_marker() {
        for prompt in [
            |i: usize| format!("What is lake {i}? "),
            |i: usize| format!("Human: what is lake {i}? "),
            |i: usize| format!("### Instruction:\nSay what lake {i} is.\n\n### Input:\nlake {i} "),
            |_: usize| "The ".to_owned(),
            |_: usize| "Answer:".to_owned(),
            |i: usize| {
                format!(
                    "Write a poem: it has to be about lake number {i}, with rhymes, and of no more than seven lines. "
                )
            },
            |i: usize| {
                format!(
                    "Question {i}\nAnswer: the one word that is right. Lake {i} or sea {i}, with the reasons, in order. "
                )
            },
            |i: usize| format!("Lake {i}: a story of some length that both answers share. "),
            |_: usize| String::new(),
        ] {
            assert_eq!(marker(prompt), None, "{:?}", prompt(1));
        }
        // nine rows in ten are not enough
        assert_eq!(marker(|i| if i % 10 == 0 { format!("q{i}") } else { format!("q{i}\nAssistant:") }), None);
        assert_eq!(TurnMarker::of(&[]), None);
    }

    #[test]
    fn the_prompt_ends_with_the_last_mark() {
        let marker = TurnMarker { mark: "Bot:".to_owned(), newlines: "\n".to_owned() };
        assert_eq!(marker.end_in("a\nBot:\nhi\nBot:\nI"), Some("a\nBot:\nhi\nBot:\n".len()));
        assert_eq!(marker.end_in("a\nBot: I"), Some("a\nBot:".len()));
        assert_eq!(marker.end_in("a\nRobot: I"), None);
    }
}
