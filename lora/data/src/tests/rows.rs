//! Tests of good and hostile rows: every shape round-trips, every fault has its own error, and no bytes cause a panic.

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{turns, written};
use crate::record::bad_row::BadRow;
use crate::record::reading::{ImplicitPrompt, Reading};
use crate::record::records::Record;
use crate::record::shape::Shape;
use crate::record::text::Text;
use crate::row::RowNumbers;
use crate::row::Target;
use crate::source::bad_line::BadLine;
use crate::source::column_map::ColumnMap;
use crate::source::error::SourceError;
use crate::source::limits::MAX_ROW_BYTES;
use crate::source::reader::Rows;

/// Parses a row. Splits a pair of texts without a prompt by TRL's rule.
fn parse(line: &str) -> Result<Record, BadRow> {
    let reading = Reading { implicit_prompt: ImplicitPrompt::Longest, ..Reading::default() };
    Record::parse_with(0, line.as_bytes(), &reading).map(|parsed| parsed.record)
}

fn plain(text: &str) -> Text {
    Text::Plain(text.to_owned())
}

#[test]
fn every_shape_is_read() {
    let pair = parse(r#"{"prompt": "p", "chosen": "c", "rejected": "r", "id": 7}"#).unwrap();
    assert_eq!((pair.shape, &pair.target, pair.id), (Shape::Pair, &Some(Target::Pair), Some(json!(7))));
    assert_eq!(pair.answers, [plain("c"), plain("r")]);

    let labelled = parse(r#"{"prompt": "p", "completion": "c", "label": false}"#).unwrap();
    assert_eq!((labelled.shape, labelled.target, labelled.id), (Shape::Labelled, Some(Target::Label(false)), None));

    let scored = parse(r#"{"prompt": "p", "completions": ["a", "b", ""], "rewards": [1, -0.5, 2e3]}"#).unwrap();
    assert_eq!(scored.target, Some(Target::Rewards(vec![1.0, -0.5, 2000.0])));
    assert_eq!(scored.answers, [plain("a"), plain("b"), plain("")]);

    let prompt = parse(r#"{"prompt": [{"role": "user", "content": "hi"}]}"#).unwrap();
    assert_eq!((prompt.shape, prompt.target), (Shape::Prompt, None));

    let parsed =
        Record::parse(3, br#"{"source": {"a": 1}, "prompt": "p", "chosen": "c", "rejected": "r", "label": 1}"#)
            .unwrap();
    assert_eq!((parsed.record.row, parsed.ignored_columns), (3, vec!["label".to_owned(), "source".to_owned()]));
}

#[test]
fn implicit_prompts_are_what_the_answers_share() {
    let split = |chosen: &str, rejected: &str| {
        let record = parse(&json!({"chosen": chosen, "rejected": rejected}).to_string()).unwrap();
        let text = |t: &Text| match t {
            Text::Plain(text) => text.clone(),
            Text::Turns(_) => unreachable!("strings only"),
        };
        [text(&record.prompt), text(&record.answers[0]), text(&record.answers[1])]
    };
    assert_eq!(split("two is four", "two is five"), ["two is f", "our", "ive"]);
    assert_eq!(split("say yes", "say no"), ["say", " yes", " no"]); // the space goes with the answer
    assert_eq!(split("é1", "é2"), ["é", "1", "2"]);
    assert_eq!(split("yes", "no"), ["", "yes", "no"]);
    // TRL moves the last shared character into the answers in both cases; here, only a blank moves
    assert_eq!(split("Yes", "Yes, it is"), ["Yes", "", ", it is"]);
    assert_eq!(split("Yes ", "Yes it is"), ["Yes", " ", " it is"]);

    let shared = [("user", "q")];
    let chosen = [shared[0], ("assistant", "a")];
    let rejected = [shared[0], ("assistant", "b"), ("user", "c"), ("assistant", "d")];
    let record = parse(&json!({"chosen": turns(&chosen), "rejected": turns(&rejected)}).to_string()).unwrap();
    assert_eq!(record.shape, Shape::PairImplicitPrompt);
    let Text::Turns(prompt) = &record.prompt else { panic!("turns expected") };
    assert_eq!(Value::from(prompt.clone()), turns(&shared));
    let Text::Turns(rest) = &record.answers[1] else { panic!("turns expected") };
    assert_eq!(rest.len(), 3);

    let none = json!({"chosen": turns(&[("user", "a"), ("assistant", "x")]), "rejected": turns(&[("user", "b"), ("assistant", "x")])});
    assert_eq!(
        parse(&none.to_string()),
        Err(BadRow::NoCommonTurn { chosen: "chosen".to_owned(), rejected: "rejected".to_owned() })
    );
    let prefix = json!({"chosen": turns(&chosen), "rejected": turns(&shared)});
    assert_eq!(parse(&prefix.to_string()), Err(BadRow::NoOwnTurn { field: "rejected".to_owned() }));
}

/// UltraFeedback's rows have the prompt as a string, and conversations that begin with it. TRL takes the prompt from the
/// conversations.
#[test]
fn a_prompt_that_the_answers_repeat_is_passed_over() {
    let conversation = |answer: &str| turns(&[("system", "be brief"), ("user", " q "), ("assistant", answer)]);
    let row = |prompt: &str| json!({"prompt": prompt, "chosen": conversation("a"), "rejected": conversation("b"), "margin": 2});
    let parsed = Record::parse(0, row("q").to_string().as_bytes()).unwrap();
    assert_eq!(
        (parsed.record.shape, &parsed.ignored_columns[..]),
        (Shape::PairImplicitPrompt, &["prompt".to_owned()][..])
    );
    let without = json!({"chosen": conversation("a"), "rejected": conversation("b"), "margin": 2});
    assert_eq!(parsed.record, parse(&without.to_string()).unwrap());
    let error = parse(&row("another").to_string()).unwrap_err();
    assert!(matches!(error, BadRow::MixedForms { .. }) && error.to_string().contains("is passed over"), "{error}");
}

/// Errors name columns as the file does, since a user looks for those names in the file.
#[test]
fn faults_are_told_by_the_files_names() {
    let map: ColumnMap = "prompt=q,chosen=better,rejected=worse,completions=all,rewards=points".parse().unwrap();
    let said =
        |row: Value| Record::parse_with(0, row.to_string().as_bytes(), &map.clone().into()).unwrap_err().to_string();
    let talk = |first: &str, answer: &str| turns(&[("user", first), ("assistant", answer)]);
    for (row, expected) in [
        (json!({"q": "p", "better": "c", "worse": "c"}), "`better` and `worse` are equal"),
        (json!({"better": "c", "worse": "c"}), "`better` and `worse` are equal"),
        (json!({"better": talk("a", "x"), "worse": talk("b", "x")}), "`better` and `worse` have no first turn"),
        (json!({"better": talk("a", "x"), "worse": turns(&[("user", "a")])}), "`worse` has no turn of its own"),
        (json!({"better": "c", "worse": talk("a", "x")}), "`worse` is lists of"),
        (json!({"q": "p", "better": talk("a", "x"), "worse": "r"}), "`better` is lists of"),
        (json!({"q": "p", "better": talk("a", "x"), "worse": "r"}), "`q` is strings"),
        (json!({"q": "p", "all": ["a", talk("a", "x")], "points": [1, 2]}), "`all[1]` is lists of"),
    ] {
        let said = said(row.clone());
        assert!(said.contains(expected), "{row}: {said}");
        assert!(!["chosen", "rejected", "completions"].iter().any(|ours| said.contains(ours)), "{said}");
    }
}

/// One row for each fault, with a part of the error's message.
#[test]
fn every_fault_has_its_error() {
    let long = format!(r#"{{"prompt": "p", "chosen": "c", "rejected": {}1{}}}"#, "[".repeat(200), "]".repeat(200));
    let deep_unread = format!(
        r#"{{"prompt": "p", "chosen": "c", "rejected": "r", "x": {}{}}}"#,
        "[".repeat(90_000),
        "]".repeat(90_000)
    );
    let cases: &[(&str, &str)] = &[
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        (r#"{"prompt": "p", "chosen": "c"#, "it ends within a string (column 28); write rows with json.dumps"),
        (
            r#"{"prompt": "a "p"", "chosen": "c"}"#,
            "expected `,` or `}`, found `p` (column 16); write rows with json.dumps",
        ),
        (r#"{"prompt": "p", "chosen": "c", "rejected": "r"} x"#, "trailing characters (column 49)"),
        (r#"{"prompt": "p", "chosen": "c", "rejected": "\ud800"}"#, "hex escape"),
        (r#"{"prompt": "p", "chosen": "c", "rejected": "\ud800\u0041"}"#, "surrogate"),
        ("{\"prompt\": \"p\u{0}\", \"chosen\": \"c\", \"rejected\": \"r\"}", "control character"),
        (r#"{"prompt": "p", "chosen": "c", "rejected": NaN}"#, "column `rejected` is NaN, which is not valid JSON"),
        (r#"{"prompt": "p", "completions": ["a"], "rewards": [1e999]}"#, "number out of range"),
        (&long, "recursion limit"),
        (r#"{"prompt": "p", "chosen": "c", "rejected": "r", "chosen": "d"}"#, "the key `chosen` stands twice"),
        (r#"{"prompt": "p", "chosen": "c", "rejected": "r", "x": 1, "x": 2}"#, "the key `x` stands twice"),
        (r#"{"prompt": [{"role": "user", "role": "user", "content": "x"}]}"#, "the key `role` stands twice"),
        ("[1, 2]", "this is a list"),
        ("null", "this is null"),
        ("\"text\"", "this is a string"),
        ("12", "this is a number"),
        ("-1.5", "this is a number"),
        ("true", "this is a boolean"),
        ("{}", "columns {} are no known shape"),
        (r#"{"body": "x", "score": 1}"#, "columns {body, score} are no known shape"),
        (r#"{"prompt": "p", "chosen": "c"}"#, "`rejected` is missing"),
        (r#"{"rejected": "c"}"#, "`chosen` is missing"),
        (r#"{"completion": "c"}"#, "`prompt` is missing; the other columns are those of {prompt, completion}"),
        (r#"{"prompt": "p", "label": true}"#, "`completion` is missing"),
        (r#"{"completion": "c", "label": true}"#, "`prompt` is missing"),
        (r#"{"prompt": "p", "completions": ["c"]}"#, "`rewards` is missing"),
        (r#"{"prompt": "p", "chosen": null, "rejected": "r"}"#, "`chosen` is null"),
        (r#"{"prompt": null, "chosen": "c", "rejected": "r"}"#, "`prompt` is null"),
        (r#"{"prompt": "p", "chosen": 3, "rejected": "r"}"#, "`chosen` is a number, expected a string or a list"),
        (
            r#"{"prompt": "p", "completion": "c", "label": "yes"}"#,
            r#"`label` is "yes", expected true or false, or 1 or 0"#,
        ),
        (r#"{"prompt": "p", "completion": "c", "label": -1}"#, "`label` is -1, expected true or false, or 1 or 0"),
        (r#"{"prompt": "p", "completion": "c", "label": [1]}"#, "`label` is a list, expected true or false"),
        (r#"{"prompt": "p", "completion": "c", "label": null}"#, "`label` is null"),
        (r#"{"prompt": "p", "completions": "c", "rewards": [1]}"#, "`completions` is a string, expected a list"),
        (r#"{"prompt": "p", "completions": [], "rewards": []}"#, "`completions` is an empty list"),
        (r#"{"prompt": "p", "completions": ["a"], "rewards": [1, 2]}"#, "`completions` has 1, but `rewards` has 2"),
        (r#"{"prompt": "p", "completions": ["a"], "rewards": ["1"]}"#, "`rewards[0]` is a string"),
        (r#"{"prompt": "p", "completions": ["a", null], "rewards": [1, 2]}"#, "`completions[1]` is null"),
        (r#"{"prompt": "p", "chosen": "c", "rejected": "c"}"#, "`chosen` and `rejected` are equal"),
        (r#"{"chosen": "c", "rejected": "c"}"#, "`chosen` and `rejected` are equal"),
        (r#"{"prompt": [], "chosen": "c", "rejected": "r"}"#, "`prompt` is an empty list"),
        (r#"{"prompt": ["x"]}"#, "`prompt[0]` is a string, expected an object"),
        (r#"{"prompt": [{"content": "x"}]}"#, "`prompt[0].role` is null"),
        (r#"{"prompt": [{"role": 1, "content": "x"}]}"#, "`prompt[0].role` is a number"),
        (r#"{"prompt": [{"role": "user"}]}"#, "`prompt[0].content` is null"),
        (r#"{"prompt": [{"role": "user", "content": {"a": 1}}]}"#, "`prompt[0].content` is an object"),
        (
            r#"{"prompt": "p", "chosen": [{"role": "assistant", "content": "x"}], "rejected": "r"}"#,
            "`chosen` is lists of",
        ),
        (r#"{"prompt": "p", "chosen": "c", "rejected": "r", "id": [1]}"#, "`id` is a list"),
        (
            r#"{"prompt": "p", "chosen": "c", "rejected": "r", "weight": -1}"#,
            "`weight` is -1, expected a finite number, not negative",
        ),
        (
            r#"{"prompt": "p", "chosen": "c", "rejected": "r", "weight": "1"}"#,
            "`weight` is a string, expected a finite number",
        ),
        (r#"{"chosen": "c", "rejected": "r", "margin": true}"#, "`margin` is a boolean, expected a finite number"),
        (
            r#"{"chosen": "c", "rejected": "r", "prob_win_chosen": 1.5}"#,
            "`prob_win_chosen` is 1.5, expected a probability",
        ),
        (r#"{"chosen": "c", "rejected": "r", "prob_win_chosen": 0.5}"#, "`prob_win_rejected` is missing or null"),
        (
            r#"{"chosen": "c", "rejected": "r", "prob_win_chosen": null, "prob_win_rejected": 0}"#,
            "`prob_win_chosen` is missing or null",
        ),
        (r#"{"messages": "x"}"#, "`messages` is a string, expected a list"),
        (r#"{"messages": []}"#, "`messages` is an empty list"),
        (r#"{"text": 3}"#, "`text` is a number, expected a string"),
        (r#"{"text": null}"#, "`text` is null"),
        (
            r#"{"messages": [{"from": "function_call", "value": "x"}]}"#,
            "`messages[0].from` is `function_call`, which is no role; known: human",
        ),
        (r#"{"messages": [{"from": 3, "value": "x"}]}"#, "`messages[0].from` is a number"),
        (r#"{"messages": [{"from": "gpt"}]}"#, "`messages[0].content` is null"),
        (
            r#"{"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": "u"}]}]}"#,
            "`prompt[0].content[1]` is a part of type `image_url`; only text is read",
        ),
        (r#"{"prompt": [{"role": "user", "content": []}]}"#, "`prompt[0].content` is an empty list"),
        (r#"{"prompt": [{"role": "user", "content": [3]}]}"#, "`prompt[0].content[0]` is a number"),
        (r#"{"prompt": [{"role": "user", "content": [{"type": "text"}]}]}"#, "`prompt[0].content[0].text` is null"),
        (r#"{"prompt": [{"role": "user", "content": [{"type": 1}]}]}"#, "`prompt[0].content[0].type` is a number"),
        (r#"{"prompt": [{"role": "user", "content": "x"}], "tools": "[{]"}"#, "`tools` is text that is not valid JSON"),
        (
            r#"{"prompt": [{"role": "user", "content": "x"}], "tools": {"a": 1}}"#,
            "`tools` is an object, expected a list of tools",
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "x"}], "tools": ["f"]}"#,
            "`tools[0]` is a string, expected an object",
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "x"}], "chat_template_kwargs": []}"#,
            "`chat_template_kwargs` is a list",
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"messages": []}}"#,
            "`chat_template_kwargs` sets `messages`",
        ),
    ];
    for (line, expected) in cases {
        let error = parse(line).map(|_| ()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(expected), "{line:.100}: {message:?} does not say {expected:?}");
        assert!(!message.contains(" at line "), "the parser's line is not the file's: {message}");
        assert!(!error.label().is_empty());
    }
    // unread columns may hold anything that is JSON
    assert!(parse(&deep_unread).is_ok());
    assert!(
        parse(r#"{"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": []}]}"#).is_ok()
    );
    let bytes = Record::parse(0, b"{\"prompt\": \"\xff\"}").unwrap_err();
    assert_eq!(bytes, BadRow::Utf8 { at: 13 });
}

fn read_all(rows: &Rows) -> Vec<String> {
    (0..rows.len()).map(|row| String::from_utf8(rows.read(row).unwrap().unwrap()).unwrap()).collect()
}

#[test]
fn lines_are_found_whatever_their_ends() {
    let text = written(b"\xEF\xBB\xBFone\r\n\r\n  \ntwo\n\n\nthree");
    let rows = Rows::open(&[text.path().to_owned()], &ColumnMap::default()).unwrap();
    assert_eq!(read_all(&rows), ["one", "two", "three"]);
    assert_eq!(rows.blank_lines(), 4);
    assert_eq!([0, 1, 2].map(|row| rows.place(row).1), [1, 4, 7]);
}

#[test]
fn rows_are_numbered_over_all_files() {
    let (a, empty, b) = (written(b"a1\na2\n"), written(b"\n"), written(b"b1\n"));
    let paths: Vec<PathBuf> = [&a, &empty, &b].map(|f| f.path().to_owned()).to_vec();
    let rows = Rows::open(&paths, &ColumnMap::default()).unwrap();
    assert_eq!(read_all(&rows), ["a1", "a2", "b1"]);
    assert_eq!(rows.place(2), (paths[2].clone(), 1));
    assert_eq!(String::from_utf8(rows.read(1).unwrap().unwrap()).unwrap(), "a2");
}

/// A row that is longer than the pieces in which a file is read.
#[test]
fn a_row_of_three_megabytes_is_read_whole() {
    let long = "x".repeat(3 << 20);
    let text = written(format!("a\n{long}\nb\n").as_bytes());
    let rows = Rows::open(&[text.path().to_owned()], &ColumnMap::default()).unwrap();
    assert_eq!(read_all(&rows), ["a", &long, "b"]);
    assert_eq!(rows.place(2).1, 3);
}

#[test]
fn a_row_over_the_limit_is_not_read() {
    let text = written(b"a\n");
    text.as_file().set_len(MAX_ROW_BYTES + 100).unwrap(); // zero bytes: no whitespace, so one row
    let rows = Rows::open(&[text.path().to_owned()], &ColumnMap::default()).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows.read(1).unwrap(), Err(BadLine::TooLong { bytes: MAX_ROW_BYTES + 98, limit: MAX_ROW_BYTES }));
}

#[test]
#[expect(unsafe_code, reason = "only the C library makes a pipe with a name")]
fn what_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: PathBuf| Rows::open(&[path], &ColumnMap::default()).map(|_| ());
    assert!(matches!(open(dir.path().to_owned()), Err(SourceError::Folder { .. })));
    assert!(matches!(open(dir.path().join("none.jsonl")), Err(SourceError::Io { .. })));
    assert!(matches!(open(written(b"\xEF\xBB\xBF\n \r\n").path().to_owned()), Err(SourceError::Empty { .. })));
    assert!(matches!(Rows::open(&[], &ColumnMap::default()), Err(SourceError::Empty { .. })));
    let pipe = dir.path().join("pipe");
    let c_path = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    // SAFETY: `c_path` ends with NUL and outlives the call; mkfifo keeps no pointer.
    assert_eq!(unsafe { libc::mkfifo(c_path.as_ptr(), 0o600) }, 0);
    assert!(matches!(open(pipe), Err(SourceError::NotAFile { .. })));
}

#[test]
fn a_file_that_changes_is_noticed() {
    let text = written(b"one\ntwo\n");
    let rows = Rows::open(&[text.path().to_owned()], &ColumnMap::default()).unwrap();
    rows.check_unchanged().unwrap();
    text.as_file().set_len(5).unwrap();
    assert!(matches!(rows.check_unchanged(), Err(SourceError::Changed { .. })));
    assert!(matches!(rows.read(1), Err(SourceError::Changed { .. })));
}

fn text_strategy() -> impl Strategy<Value = Value> {
    let turn = (any::<String>(), any::<String>()).prop_map(|(role, content)| json!({"role": role, "content": content}));
    let said = any::<String>().prop_map(|content| json!({"role": "assistant", "content": content}));
    let turns = (prop::collection::vec(turn, 0..3), said).prop_map(|(mut turns, said)| {
        turns.push(said);
        Value::from(turns)
    });
    prop_oneof![any::<String>().prop_map(Value::from), turns]
}

fn as_json(text: &Text) -> Value {
    match text {
        Text::Plain(text) => json!(text),
        Text::Turns(turns) => json!(turns),
    }
}

proptest! {
    /// For rows of every shape, what is read is what was written.
    #[test]
    fn a_valid_row_round_trips(prompt in text_strategy(), answers in prop::collection::vec(text_strategy(), 1..5), label: bool,
                               rewards in prop::collection::vec(-1e9f64..1e9, 5), id in prop::option::of(any::<i64>()),
                               weight in 0f64..1e9, margin in -1e9f64..1e9, wins in prop::array::uniform2(0f64..=1.0)) {
        let answers: Vec<Value> = answers.into_iter().filter(|a| a.is_array() == prompt.is_array()).collect();
        prop_assume!(!answers.is_empty());
        let n = answers.len();
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let numbers = json!({"weight": weight, "margin": margin, "prob_win_chosen": wins[0], "prob_win_rejected": wins[1]});
        let whole = if prompt.is_array() { json!({"messages": &prompt}) } else { json!({"text": &prompt}) };
        let rows = [
            (Shape::Labelled, json!({"prompt": &prompt, "completion": &answers[0], "label": label})),
            (Shape::Scored, json!({"prompt": &prompt, "completions": &answers, "rewards": &rewards[..n]})),
            (Shape::Pair, json!({"prompt": &prompt, "chosen": &answers[0], "rejected": &answers[n - 1]})),
            (Shape::Completion, json!({"prompt": &prompt, "completion": &answers[0]})),
            (if prompt.is_array() { Shape::Messages } else { Shape::Text }, whole),
            (Shape::Prompt, json!({"prompt": &prompt})),
        ];
        for (shape, mut row) in rows {
            let fields = row.as_object_mut().unwrap();
            fields.insert("id".to_owned(), id.into());
            if shape == Shape::Pair {
                fields.extend(numbers.as_object().unwrap().clone());
            }
            if prompt.is_array() {
                fields.insert("tools".to_owned(), tools.clone());
                fields.insert("chat_template_kwargs".to_owned(), json!({"enable_thinking": label}));
            }
            let parsed = match Record::parse(9, row.to_string().as_bytes()) {
                Err(BadRow::SameAnswers { .. }) => { prop_assert_eq!(&answers[0], &answers[n - 1]); continue; }
                parsed => parsed.unwrap(),
            };
            prop_assert!(parsed.ignored_columns.is_empty(), "{:?}", parsed.ignored_columns);
            let read = parsed.record;
            prop_assert_eq!((read.row, read.shape, &read.id), (9, shape, &id.map(Value::from)));
            let is_whole = matches!(shape, Shape::Messages | Shape::Text);
            let nothing = if prompt.is_array() { json!([]) } else { json!("") };
            prop_assert_eq!(&as_json(&read.prompt), if is_whole { &nothing } else { &prompt });
            let given = match shape {
                Shape::Pair => vec![answers[0].clone(), answers[n - 1].clone()],
                Shape::Scored => answers.clone(),
                Shape::Messages | Shape::Text => vec![prompt.clone()],
                Shape::Prompt => Vec::new(),
                _ => vec![answers[0].clone()],
            };
            prop_assert_eq!(read.answers.iter().map(as_json).collect::<Vec<_>>(), given);
            let target = match shape {
                Shape::Pair => Some(Target::Pair),
                Shape::Labelled => Some(Target::Label(label)),
                Shape::Scored => Some(Target::Rewards(rewards[..n].to_vec())),
                Shape::Prompt => None,
                _ => Some(Target::Sequence),
            };
            prop_assert_eq!(read.target, target);
            let with_inputs = prompt.is_array();
            prop_assert_eq!(read.inputs.tools.map(Value::from), with_inputs.then(|| tools.clone()));
            let thinking = read.inputs.kwargs.get("enable_thinking").and_then(Value::as_bool);
            prop_assert_eq!(thinking, with_inputs.then_some(label));
            let expected = match shape {
                Shape::Pair => RowNumbers {
                    weight: Some(weight), margin: Some(margin), win_probability: Some(wins), beats_probability: None,
                },
                _ => RowNumbers::default(),
            };
            prop_assert_eq!(read.numbers, expected);
        }
    }

    /// The prompt of an implicit pair, joined with an answer, is the whole string that the row has for that answer.
    #[test]
    fn an_implicit_prompt_loses_nothing(shared in "[a b]{0,6}", a in "[ab é]{0,4}", b in "[ab é]{0,4}") {
        let (chosen, rejected) = (format!("{shared}{a}"), format!("{shared}{b}"));
        prop_assume!(chosen != rejected);
        let record = parse(&json!({"chosen": &chosen, "rejected": &rejected}).to_string()).unwrap();
        let [Text::Plain(c), Text::Plain(r)] = &record.answers[..] else { panic!("two strings") };
        let Text::Plain(prompt) = &record.prompt else { panic!("a string") };
        prop_assert_eq!(format!("{prompt}{c}"), chosen);
        prop_assert_eq!(format!("{prompt}{r}"), rejected);
        prop_assert!(!prompt.ends_with("  ") || c.starts_with(' ') && r.starts_with(' '));
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Record::parse(0, &bytes);
        let text = written(&bytes);
        if let Ok(rows) = Rows::open(&[text.path().to_owned()], &ColumnMap::default()) {
            for row in 0..rows.len() {
                let _ = rows.read(row).unwrap().map(|line| Record::parse(row, &line));
                prop_assert!(rows.place(row).1 > 0);
            }
        }
    }

    /// Single-byte faults in valid rows.
    #[test]
    fn damaged_rows_never_panic(at in 0usize..200, byte: u8, conversational: bool) {
        let answer = |text: &str| if conversational { turns(&[("assistant", text)]) } else { json!(text) };
        let prompt = if conversational { turns(&[("user", "2 + 2?")]) } else { json!("2 + 2?") };
        let mut line = json!({"prompt": prompt, "chosen": answer("4"), "rejected": answer("5"), "id": "x"}).to_string().into_bytes();
        let at = at % line.len();
        line[at] = byte;
        let _ = Record::parse(0, &line);
    }
}
