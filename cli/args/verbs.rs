//! Commands that people type but this program does not have, and the commands to give instead.

use align_lora::objective;

/// Words that people type, and the command to give instead of them.
const VERBS: [(&[&str], &str); 6] = [
    (&["finetune", "fine-tune", "tune", "fit", "align"], "align-cli train --model DIR --data FILE"),
    (&["chat", "infer", "inference", "predict", "complete"], "align-cli generate --model DIR (a chat, on a terminal)"),
    (&["export", "fuse", "save"], "align-cli merge --model DIR --adapter DIR --output DIR"),
    (&["evaluate", "test", "validate"], "align-cli eval --model DIR --adapter DIR --data FILE"),
    (&["logps", "rank"], "align-cli score --model DIR --data FILE"),
    (&["info", "show", "tokenize", "stats"], "align-cli inspect --model DIR --data FILE"),
];

/// Returns the command to give instead of `verb`. If `verb` is the name of a loss, the command trains with that loss.
pub(crate) fn instead_of(verb: &str) -> Option<String> {
    if objective::find(verb).is_ok() || objective::mix(verb).is_some() {
        return Some(format!("align-cli train --loss {verb} --model DIR --data FILE"));
    }
    let known = VERBS.iter().find(|(verbs, _)| verbs.contains(&verb.to_lowercase().as_str()));
    known.map(|(_, command)| (*command).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_verb_is_a_command_and_every_answer_is_one() {
        let cli = crate::args::command();
        for (verbs, command) in VERBS {
            assert!(verbs.iter().all(|verb| cli.find_subcommand(verb).is_none()), "{verbs:?}");
            let name = command.split(' ').nth(1).unwrap();
            assert!(cli.find_subcommand(name).is_some(), "{command}");
        }
        assert!(objective::names().all(|name| cli.find_subcommand(name).is_none()), "the name of a loss is free");
    }
}
