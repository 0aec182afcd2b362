//! Tests answers that begin with the prompt: the prompt is cut, or there is a warning.

use super::*;
use crate::record::reading::{Reading, Texts};
use crate::record::repeated_prompt::repeated_turns;
use crate::row::RowKind;

/// Finds answers that repeat the prompt after blanks, a label or a system turn, or whose first turn repeats the user's text.
#[test]
fn prompts_within_answers_are_cut_or_found() {
    let question = "What is a lake?";
    let text = |prompt: &str, start: &str| json!({"prompt": prompt, "chosen": format!("{start} Water."), "rejected": format!("{start} Fish.")});
    let asked = "Human: What is a lake?\n\nAssistant:";
    let read = |row: Value| {
        let data = open(encoder(None), &[row], RowKind::Pair).unwrap();
        let found: Vec<Finding> = data.survey().warnings.iter().map(|warning| warning.finding.clone()).collect();
        (found, data.rows(&[0]).unwrap())
    };
    let (_, expected) = read(text(asked, ""));
    let blanks = format!("\n\n{asked}");
    assert_eq!(read(text(asked, &blanks)), (vec![Finding::RepeatedPromptCut], expected));
    let (_, expected) = read(text(&blanks, ""));
    assert_eq!(read(text(&blanks, asked)), (vec![Finding::RepeatedPromptCut], expected));
    for start in ["\n\nHuman: What is a lake?\n\nAssistant:", "Question: What is a lake?\nAnswer:"] {
        let (found, _) = read(text(question, start));
        assert!(found.contains(&Finding::RepeatedBehindLabel), "{start}: {found:?}");
    }
    let (found, _) = read(text(question, "You ask what a lake is. What is a lake? It is"));
    assert!(!found.contains(&Finding::RepeatedPrompt), "{found:?}");

    // the same system text in the answers and in a column counts once
    let system = json!({"role": "system", "content": "Be brief."});
    let whole = |first: &[Value]| {
        let answer = |content: &str| [first, &[user("q"), says(content)]].concat();
        json!({"prompt": [user("q")], "chosen": answer("c"), "rejected": answer("r"), "system": "Be brief."})
    };
    let rows = |row: Value| open(encoder(Some(ANY)), &[row], RowKind::Pair).unwrap().rows(&[0]).unwrap();
    let plain = json!({"prompt": [user("q")], "chosen": [says("c")], "rejected": [says("r")], "system": "Be brief."});
    assert_eq!(rows(whole(std::slice::from_ref(&system))), rows(plain.clone()));
    assert_eq!(rows(whole(&[])), rows(plain));
    let one = json!({"prompt": [user("q")], "chosen": [system, user("q"), says("c")], "rejected": [says("r")]});
    assert!(findings(Some(ANY), one).contains(&Finding::RepeatedTurns));

    let again = |chosen: &str, rejected: &str| json!({"prompt": [user(question)], "chosen": [says(chosen)], "rejected": [says(rejected)]});
    let (whole, bare) = ("What is a lake? Water.", "What is a lake? A fish.");
    for (chosen, rejected) in [(whole, bare), (whole, "A fish."), ("Water.", bare)] {
        assert_eq!(findings(Some(ANY), again(chosen, rejected)), [Finding::RepeatedContent]);
    }
    assert_eq!(findings(Some(ANY), again("Water.", "A fish.")), []);
}

/// Comparing a prompt of many equal turns with an answer takes little time.
#[test]
fn hostile_turns_are_compared_in_time() {
    let turns: Vec<Value> = (0..20_000).map(|_| user("a")).collect();
    let answer = [&turns[..19_999], &[says("b")]].concat();
    let started = std::time::Instant::now();
    assert_eq!(repeated_turns(&turns, &answer), 16);
    assert_eq!(repeated_turns(&turns[..9], &answer), 9);
    assert!(started.elapsed().as_secs() < 5);
}

/// The prompt's tokens occur once in a row, whether or not the answers repeat the prompt.
#[test]
fn a_repeated_prompt_is_cut_from_the_answers() {
    let system = json!({"role": "system", "content": "be brief"});
    let (c, r) = (says("c"), says("r"));
    let plain = json!({"prompt": [system, user("q")], "chosen": [c], "rejected": [r]});
    let whole =
        json!({"prompt": [system, user("q")], "chosen": [system, user("q"), c], "rejected": [system, user(" q"), r]});
    let last = json!({"prompt": [system, user("q")], "chosen": [user("q"), c], "rejected": [user("q"), r]});
    let texts = |start: &str| json!({"prompt": "Human: What?\n\nAssistant:", "chosen": format!("{start} c"), "rejected": format!("{start} r")});
    let rows = |row: &Value| {
        let data = open(encoder(None), std::slice::from_ref(row), RowKind::Pair).unwrap();
        let cut = data.survey().warnings.iter().filter(|warning| warning.finding == Finding::RepeatedPromptCut);
        (cut.map(|warning| warning.rows).sum::<usize>(), data.rows(&[0]).unwrap())
    };
    let (none, expected) = rows(&plain);
    assert_eq!(none, 0);
    for row in [whole, last] {
        assert_eq!(rows(&row), (1, expected.clone()), "{row}");
    }
    let (none, expected) = rows(&texts(""));
    assert_eq!((none, rows(&texts("Human: What?\n\nAssistant:"))), (0, (1, expected)));
}

/// A system text before the prompt does not hide that the answers repeat the prompt, or that the prompt is empty.
#[test]
fn a_prompt_is_judged_without_what_stands_in_front_of_it() {
    let repeated = json!({"prompt": "Tell me of the number two.", "chosen": "Tell me of the number two. It is even.",
                          "rejected": "Tell me of the number two. No."});
    let mut under_system = repeated.clone();
    under_system["system"] = "Be brief.".into();
    let flag = Reading { system: Some("Be brief.".to_owned()), ..Reading::default() };
    let chat = Reading { texts: Texts::AsTurns, ..Reading::default() };
    for (row, reading) in [
        (&repeated, flag.clone()),
        (&under_system, Reading::default()),
        (&repeated, chat.clone()),
        (&under_system, chat.clone()),
    ] {
        let encoder = encoder(Some(ANY)).with_reading(reading.clone());
        let data = open(encoder, std::slice::from_ref(row), RowKind::Pair).unwrap();
        let cut = data.survey().warnings.iter().any(|warning| warning.finding == Finding::RepeatedPromptCut);
        assert!(cut, "{row} {reading:?}");
    }
    let blank = json!({"prompt": " ", "chosen": "c", "rejected": "r", "instruction": "What?"});
    for reading in [flag, chat] {
        let error = open(encoder(Some(ANY)).with_reading(reading.clone()), std::slice::from_ref(&blank), RowKind::Pair);
        let message = error.unwrap_err().to_string();
        assert!(message.contains("--columns prompt=instruction"), "{reading:?}: {message}");
    }
}

/// If only some rows repeat the prompt in their answers, or only some answers of a row do, nothing is cut and a warning is given.
#[test]
fn what_few_rows_do_is_only_said() {
    let row = |i: usize, start: &str| json!({"prompt": format!("What is lake {i}?"), "chosen": format!("{start} c"), "rejected": format!("{start} r")});
    let mut rows: Vec<Value> = (0..9).map(|i| row(i, "")).collect();
    rows.push(row(9, "What is lake 9?"));
    let found = warnings(None, &rows);
    let said: Vec<_> = found.iter().filter(|warning| warning.finding == Finding::RepeatedPrompt).collect();
    assert_eq!(said.iter().map(|warning| (warning.rows, warning.line)).collect::<Vec<_>>(), [(1, 10)]);
    let one = json!({"prompt": [user("q")], "chosen": [user("q"), says("c")], "rejected": [says("r")]});
    let others = Finding::TurnOfOthers { role: "user".to_owned() };
    assert_eq!(findings(Some(ANY), one), [others, Finding::RepeatedTurns]);
}

/// If one answer repeats the prompt and the other does not, there is a warning: the repetition is a difference between the answers
/// that has nothing to do with the preference.
#[test]
fn a_prompt_in_one_of_the_answers_is_found() {
    let question = |i: usize| format!("What is lake number {i}?");
    let found = |row: &dyn Fn(usize) -> Value, kind: Option<RowKind>| {
        let data = open(encoder(None), &(0..4).map(row).collect::<Vec<_>>(), kind).unwrap();
        let warnings = data.survey().warnings.iter().filter(|warning| warning.finding != Finding::NoTemplateApplied);
        warnings.map(|warning| (warning.finding.clone(), warning.at.clone(), warning.rows)).collect::<Vec<_>>()
    };
    let chosen = |i: usize| json!({"prompt": question(i), "chosen": question(i) + " Water.", "rejected": " A fish."});
    assert_eq!(found(&chosen, Some(RowKind::Pair)), [(Finding::RepeatedPrompt, "chosen".to_owned(), 4)]);
    let scored = |i: usize| json!({"prompt": question(i), "completions": [" A fish.", question(i) + " Water."], "rewards": [1, 2]});
    assert_eq!(found(&scored, None), [(Finding::RepeatedPrompt, "completions[1]".to_owned(), 4)]);
    let short = |i: usize| json!({"prompt": format!("Say {i}"), "chosen": format!("Say {i} {i}"), "rejected": " no"});
    assert_eq!(found(&short, Some(RowKind::Pair)), [(Finding::RepeatedShortPrompt, "chosen".to_owned(), 4)]);
}

/// Prompts of few letters decide nothing if there are longer prompts. Without longer prompts, several short ones decide.
#[test]
fn short_prompts_are_cut_where_no_chance_repeats_them() {
    let repeated =
        |prompt: String| json!({"prompt": prompt, "chosen": format!("{prompt} c"), "rejected": format!("{prompt} r")});
    let cut = |rows: &[Value]| {
        let survey = open(encoder(None), rows, RowKind::Pair).unwrap().survey().clone();
        let cut = survey.warnings.iter().find(|warning| warning.finding == Finding::RepeatedPromptCut);
        cut.map_or(0, |warning| warning.rows)
    };
    let short: Vec<Value> = (0..5).map(|i| repeated(format!("Say {i}"))).collect();
    assert_eq!((cut(&short), cut(&short[..3])), (5, 0));
    let plain = |i: usize| json!({"prompt": format!("Tell {i}"), "chosen": "c", "rejected": "r"});
    let mixed: Vec<Value> =
        (0..9).map(|i| repeated(format!("Tell me of the lake {i}"))).chain((0..3).map(plain)).collect();
    assert_eq!(cut(&mixed), 9);
}
