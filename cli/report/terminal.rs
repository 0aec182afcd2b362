//! Messages on stderr. On a terminal a message is wrapped and coloured; elsewhere it is one plain line.

use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{Style, Styles};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Width of the widest line on a terminal, in columns.
pub(crate) const WIDEST: usize = 110;

static IS_VERBOSE: AtomicBool = AtomicBool::new(false);

/// The bars on screen. Messages are written above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));

/// Turns on the messages of `--verbose`.
pub(crate) fn be_verbose() {
    IS_VERBOSE.store(true, Ordering::Relaxed);
}

/// Whether the messages of `--verbose` are printed.
pub(crate) fn is_verbose() -> bool {
    IS_VERBOSE.load(Ordering::Relaxed)
}

/// What is remembered of the messages of a command that may be tried again.
enum Said {
    Forgotten,
    /// The messages of the first try so far.
    Remembered(Vec<String>),
    /// Messages that the second try need not print again.
    Skipped(Vec<String>),
}

/// Maximum number of messages that are remembered. A first try that fails prints fewer.
const REMEMBERED: usize = 100;

static SAID: Mutex<Said> = Mutex::new(Said::Forgotten);

/// Begins to remember messages, for a command that may be tried again.
pub(crate) fn remember_messages() {
    *said() = Said::Remembered(Vec::new());
}

/// Begins the second try of the command. Messages that the first try printed are not printed again.
pub(crate) fn skip_remembered_messages() {
    let mut said = said();
    if let Said::Remembered(messages) = &mut *said {
        *said = Said::Skipped(std::mem::take(messages));
    }
}

fn said() -> MutexGuard<'static, Said> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether the command's first try printed this message. Then forgets the message, so that it is skipped only once.
/// During the first try, returns `false` and remembers the message.
fn was_said(message: &str) -> bool {
    match &mut *said() {
        Said::Forgotten => false,
        Said::Remembered(messages) => {
            if messages.len() < REMEMBERED {
                messages.push(message.to_owned());
            }
            false
        }
        Said::Skipped(messages) => {
            let place = messages.iter().position(|said| said == message);
            place.map(|place| messages.remove(place)).is_some()
        }
    }
}

/// Writes a message to stderr. A run goes on even if stderr is closed or full.
pub(crate) fn say_line(message: &str) {
    if was_said(message) {
        return;
    }
    let text = laid_out(message, width());
    let write = || drop(writeln!(anstream::stderr(), "{text}"));
    if std::io::stderr().is_terminal() { BARS.suspend(write) } else { write() }
}

/// Returns the width of the terminal in columns, at most [`WIDEST`]. `None` if stderr is no terminal.
fn width() -> Option<usize> {
    let stderr = std::io::stderr();
    let columns = terminal_size::terminal_size_of(&stderr).map_or(WIDEST, |(columns, _)| columns.0.into());
    stderr.is_terminal().then(|| columns.min(WIDEST))
}

/// Wraps a message at `width` columns, and colours its label. Text of several lines is not wrapped.
fn laid_out(message: &str, width: Option<usize>) -> String {
    let text = match width.filter(|_| !message.contains('\n')) {
        None => Cow::Borrowed(message),
        Some(width) => {
            let text = message.trim_start();
            let indent = &message[..message.len() - text.len()];
            let deeper = format!("{indent}  ");
            // words are not broken, so that paths can be copied
            let options = textwrap::Options::new(width).initial_indent(indent).subsequent_indent(&deeper);
            textwrap::fill(text, options.break_words(false)).into()
        }
    };
    for (label, style) in labels() {
        if let Some(rest) = text.strip_prefix(label) {
            return format!("{style}{label}{style:#}{rest}");
        }
    }
    text.into_owned()
}

/// Returns the labels that have a colour, with the colours of clap's messages.
fn labels() -> [(&'static str, Style); 2] {
    let styles = Styles::styled();
    [("error:", *styles.get_error()), ("warning:", *styles.get_invalid())]
}

/// Shows a bar of length `len` on a terminal. `template` is the text after the bar, which indicatif fills in. `None` if stderr
/// is no terminal.
pub(super) fn bar(len: u64, template: &str) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let has_colours = AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
    let bar = if has_colours { "{bar:24.cyan}" } else { "{bar:24}" };
    let style = ProgressStyle::with_template(&format!("{bar} {template}")).expect("the template is valid");
    Some(BARS.add(ProgressBar::new(len).with_style(style)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_unless_a_terminal_wraps_it() {
        let long = format!("  dropped 3 rows: {}", ["the prompt fills it"; 5].join(", "));
        assert_eq!(laid_out(&long, None), long);
        let wrapped = laid_out(&long, Some(40));
        assert!(wrapped.lines().all(|line| line.len() <= 40 && line.starts_with("  ")), "{wrapped}");
        assert!(wrapped.lines().skip(1).all(|line| line.starts_with("    ")), "{wrapped}");
        let path = format!("{}/data.jsonl", "/a/folder".repeat(9));
        assert!(laid_out(&format!("the rows of {path}"), Some(40)).contains(&path), "words are whole");
        let several = "run.toml: expected a value\n  |\n1 | loss =                                  \n  |";
        assert_eq!(laid_out(several, Some(20)), several);
    }

    #[test]
    fn the_word_that_says_what_a_message_is_has_a_colour() {
        let error = laid_out("error: no such file: warning: x", None);
        assert!(error.starts_with('\u{1b}') && error.ends_with("no such file: warning: x"), "{error:?}");
        assert_eq!(anstream::adapter::strip_str(&error).to_string(), "error: no such file: warning: x");
        assert_eq!(laid_out("note: nothing", None), "note: nothing");
    }
}
