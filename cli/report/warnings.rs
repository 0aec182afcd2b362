//! Prints warnings about the data: one line each, with the file, the line and what to do.

use super::say;
use crate::args::ReadingArgs;
use align_data::{Finding, ReadAs, Survey, TurnPart, Warning};

/// Prints the findings about the rows that were looked at, except one that follows from a flag of the user (`--no-chat`).
pub(crate) fn warnings(survey: &Survey, asked: &ReadingArgs) {
    let is_asked = |warning: &Warning| asked.no_chat && warning.finding == Finding::NoTemplateApplied;
    for warning in survey.warnings.iter().filter(|warning| !is_asked(warning)) {
        say!("{}", line(warning, survey.looked_at));
    }
}

/// Whether a finding is probably a fault. If not, it is only worth a note.
pub(crate) fn is_warning(warning: &Warning) -> bool {
    warning.finding != Finding::NoTemplateApplied
}

/// Returns the line that reports a finding.
pub(crate) fn line(warning: &Warning, looked_at: usize) -> String {
    let Warning { path, line, .. } = warning;
    let word = if is_warning(warning) { "warning" } else { "note" };
    format!("{word}: {}:{line}: {}", path.display(), words(warning, looked_at))
}

fn words(warning: &Warning, looked_at: usize) -> String {
    let Warning { at, excerpt, rows, .. } = warning;
    let rows = match (rows, warning.of_all()) {
        (1, true) => "in 1 row".to_owned(),
        (rows, true) => format!("in {rows} rows"),
        (rows, false) => format!("in {rows} of the {looked_at} rows looked at"),
    };
    let template = "give a template that prints it (--chat-template FILE)";
    let twice = |what: &str| {
        format!(
            "`{at}` {what} ({excerpt:?}), {rows}: the tokens have the prompt twice, and the second copy is scored; cut it from \
             the answers"
        )
    };
    match &warning.finding {
        Finding::NotRendered { of_answer, part } => {
            let what = turn_part(*part);
            let (whose, so) = match of_answer {
                true => ("answers", "the model does not learn it"),
                false => ("prompts", "the model does not see it"),
            };
            format!(
                "the chat template leaves {what} out of the {whose}, {rows}: `{at}` ({excerpt:?}); {so}; {template}, or take it out of \
                 the rows"
            )
        }
        Finding::NotMarked { part } => format!(
            "{} stands outside the {{% generation %}} marks of the chat template, {rows}: `{at}` ({excerpt:?}); the model does not \
             learn it; give a template whose marks enclose it (--chat-template FILE), or take it out of the rows",
            turn_part(*part)
        ),
        Finding::ToolsNotRendered => format!(
            "the chat template does not print the column `{at}` ({excerpt:?}), {rows}: the prompt is the same without its tools; \
             {template}"
        ),
        Finding::KwargNotRead { name } => format!(
            "the chat template does not read `{name}`, which `{at}` sets to {excerpt}, {rows}; give a template that reads it \
             (--chat-template FILE)"
        ),
        Finding::UnreadColumn { column, read_as } => {
            let mend = match read_as {
                ReadAs::Prompt => {
                    format!("give --columns prompt={column} to read it instead, or write both into one column")
                }
                ReadAs::System => format!("give --columns system={column}"),
                ReadAs::Pairs => {
                    "write it as turns of the prompt, [{\"role\": \"user\", \"content\": ...}, ...]".to_owned()
                }
            };
            format!(
                "the column `{column}` is not read, and its text ({excerpt:?}) is not in the prompt, {rows}; if it belongs \
                 there, {mend}"
            )
        }
        Finding::EmptyPrompt { column } => format!(
            "the prompt is empty, {rows}, and other columns with text are not read ({excerpt}); if the prompt is one of them, give \
             --columns prompt={}",
            column.as_deref().unwrap_or("NAME")
        ),
        Finding::BlankPrompt if excerpt.is_empty() => format!(
            "the prompt `{at}` is empty, {rows}: nothing is asked; name the column of the prompt (--columns prompt=NAME), or \
             remove such rows"
        ),
        Finding::BlankPrompt => format!(
            "the prompt `{at}` has only a system text ({excerpt:?}), {rows}: no user asks anything; name the column of the prompt \
             (--columns prompt=NAME), or remove such rows"
        ),
        Finding::FewSharedLetters => format!(
            "the prompt is only the few letters that both answers begin with ({excerpt:?}), {rows}, because of --implicit-prompt; \
             name the column of the prompt (--columns prompt=NAME), or leave the flag out"
        ),
        Finding::AssistantBeforeAnswer => format!(
            "`{at}` ends with a turn of the assistant ({excerpt:?}), {rows}: the chat template closes it, and the answers \
             follow as another turn; end the prompt with a turn of the user"
        ),
        Finding::TurnOfOthers { role } => format!(
            "`{at}` is a turn of the role `{role}` within an answer ({excerpt:?}), {rows}: what it says is scored as if the model had said \
             it; end the answers before it (or learn conversations with --loss sft --sft-on assistant)"
        ),
        Finding::TextOfOthers { mark } => format!(
            "`{at}` goes on with a turn that {mark:?} opens ({excerpt:?}), {rows}: what others say is scored as if the model had said it; \
             end the answers before it"
        ),
        Finding::UnknownRole { role } => format!(
            "`{at}` is `{role}` ({excerpt:?}), {rows}, a role that the chat template does not name; write `user`, `assistant`, `system` or \
             `tool`, or give a template that knows it (--chat-template FILE)"
        ),
        Finding::MarkIsNoToken { mark } => format!(
            "{mark:?} is no token of this model and is cut into pieces, {rows}: `{at}` ({excerpt:?}); use the marks of the model's own \
             chat template, in the rows and in --chat-template"
        ),
        Finding::SecondStart { token } => format!(
            "`{at}` begins with {token:?} ({excerpt:?}), {rows}: the tokenizer puts it before every text, so it stands there twice; take it \
             out of the rows"
        ),
        Finding::MarkInContent { mark } => format!(
            "`{at}` has {mark:?} ({excerpt:?}), {rows}: it is a token of the model, and the chat template writes its own marks around the \
             turn; take it out of the rows"
        ),
        Finding::NoAssistantTurn => format!(
            "`{at}` has no turn of the assistant ({excerpt:?}), {rows}, and all of it is learned; --sft-on assistant scores \
             only what the assistant says"
        ),
        Finding::NoStop => format!(
            "`{at}` does not end with a stop token, {rows}: a model that is trained on such answers does not learn to stop; give a template \
             that ends the turns (--chat-template FILE)"
        ),
        Finding::RepeatedContent => format!(
            "`{at}` begins with what the user says last ({excerpt:?}), {rows}: if that is a copy of the prompt, cut it from \
             the answers, or it is learned as part of them"
        ),
        Finding::RepeatedPromptCut => format!(
            "the answers begin with the prompt ({excerpt:?}), {rows}: it is cut from them, so the tokens have it once"
        ),
        Finding::RepeatedPrompt | Finding::RepeatedShortPrompt => twice("begins with the prompt"),
        Finding::RepeatedBehindLabel => twice("begins with a label and the prompt"),
        Finding::RepeatedTurns => twice("begins with turns of the prompt"),
        Finding::Serialised { column, notation, .. } => format!(
            "the texts of `{column}` are {} ({excerpt:?}), {rows}, and are learned with brackets and quotes; if that is not meant, write \
             them as plain text",
            notation.name()
        ),
        Finding::MarksInTurn => format!(
            "`{at}` has turns of its own ({excerpt:?}), {rows}, and --chat puts their marks into the user's turn; leave --chat out, or \
             take the marks out of the rows"
        ),
        Finding::LowerScoreChosen { chosen, rejected } => format!(
            "`{chosen}` is below `{rejected}` ({excerpt}), {rows}; these columns are not read, but if more is better, the rejected answer is the better \
             one; swap the answers, or take such rows out"
        ),
        Finding::UnreadVerdict { column, .. } => format!(
            "the column `{column}` is not read and does not say the same of all rows ({excerpt}, {rows}); if it says which answer is better, \
             order the answers by it first: --columns takes the same column as chosen in every row"
        ),
        Finding::NullArgument => format!(
            "a tool is called with a null argument that it does not declare (`{at}`, {excerpt}), {rows}: tables with one type for all rows \
             add such nulls, and the model learns to write them; remove them from the file"
        ),
        Finding::NoTemplateApplied => {
            "the rows are texts, and the chat template of the model is not applied to them; --chat makes turns of them"
                .to_owned()
        }
    }
}

fn turn_part(part: TurnPart) -> &'static str {
    match part {
        TurnPart::Content => "the content of a turn",
        TurnPart::ContentStart => "the beginning of a turn's content (its thoughts?)",
        TurnPart::ContentMiddle => "something within a turn's content",
        TurnPart::ContentEnd => "the end of a turn's content",
        TurnPart::Reasoning => "the reasoning of a turn",
        TurnPart::CallName => "the name of a called tool",
        TurnPart::CallArguments => "the arguments of a tool call",
    }
}
