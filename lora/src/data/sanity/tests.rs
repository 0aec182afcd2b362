//! What is found in rows, and what is not.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::SftPart;
use super::super::repeated_prompt::repeated_turns;
use super::super::{BadRow, DataError, Dataset, DropKind, Encoder, ImplicitPrompt, Needs, OnBadRow, Reading, Texts};
use super::{Finding, Notation, ReadAs, TurnPart, Warning};

fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens").join(name)
}

/// Prints roles and contents, nothing else.
const ANY: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                   {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
/// Cuts thoughts out of what the assistant says.
const NO_THOUGHTS: &str = "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c %}\
                           {% set c = c.split('</think>')[-1] %}{% endif %}<|im_start|>{{ m.role }}\n{{ c | trim }}<|im_end|>\n{% endfor %}";
/// Prints all there is, escaped and trimmed; thoughts of the last turn alone.
const ALL: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}: \
                   {% set c = m.content or '' %}{% if not loop.last and '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}\
                   {% if loop.last and m.reasoning_content %}<think>{{ m.reasoning_content | trim }}</think>{% endif %}{{ c | trim | tojson }}\
                   {% for call in m.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}\n{% endfor %}\
                   {% if enable_thinking %}think{% endif %}";

fn encoder(template: Option<&str>) -> Encoder {
    let file = template.map(|source| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(source.as_bytes()).unwrap();
        file
    });
    Encoder::from_model(&goldens("tiny-qwen2/model"), file.as_ref().map(|file| file.path()), 512, 4096).unwrap()
}

fn open(encoder: Encoder, rows: &[Value], needs: Needs) -> Result<Dataset, DataError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for row in rows {
        writeln!(file, "{row}").unwrap();
    }
    Dataset::open(&[file.path().to_owned()], encoder, needs, OnBadRow::Error)
}

fn warnings(template: Option<&str>, rows: &[Value]) -> Vec<Warning> {
    open(encoder(template), rows, Needs::Answers).unwrap().survey().warnings.clone()
}

/// Without that the answers do not end with a special token: the templates here are short.
fn findings(template: Option<&str>, row: Value) -> Vec<Finding> {
    let all = warnings(template, &[row]).into_iter().map(|warning| warning.finding);
    all.filter(|finding| *finding != Finding::NoStop).collect()
}

fn user(content: &str) -> Value {
    json!({"role": "user", "content": content})
}

fn says(content: &str) -> Value {
    json!({"role": "assistant", "content": content})
}

fn calls(content: &str, name: &str, arguments: Value) -> Value {
    json!({"role": "assistant", "content": content,
           "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]})
}

fn pair(chosen: Value) -> Value {
    json!({"prompt": [user("q")], "chosen": [chosen], "rejected": [says("r")]})
}

fn left_out(part: TurnPart) -> Finding {
    Finding::NotRendered { of_answer: true, part }
}

#[test]
fn parts_that_a_template_leaves_out_are_found() {
    let thoughts = json!({"role": "assistant", "content": "4", "reasoning_content": "two and two"});
    let arguments = json!({"city": "Rome"});
    for (template, answer, expected) in [
        (NO_THOUGHTS, says("<think>two and two</think>4"), vec![left_out(TurnPart::ContentStart)]),
        (NO_THOUGHTS, says("two and two</think>\n\n4"), vec![left_out(TurnPart::ContentStart)]),
        (ANY, thoughts.clone(), vec![left_out(TurnPart::Reasoning)]),
        (ANY, json!({"role": "assistant", "content": "4", "thinking": "two"}), vec![left_out(TurnPart::Reasoning)]),
        (
            ANY,
            calls("Let me see.", "weather", arguments.clone()),
            vec![left_out(TurnPart::CallName), left_out(TurnPart::CallArguments)],
        ),
        (
            ANY,
            calls("Let me see.", "weather", json!(r#"{"city": "Rome"}"#)),
            vec![left_out(TurnPart::CallName), left_out(TurnPart::CallArguments)],
        ),
        (
            "{% for m in messages %}{{ m.role }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}{{ m.content }}\n{% endfor %}",
            calls("Let me see.", "weather", arguments.clone()),
            vec![left_out(TurnPart::CallArguments)],
        ),
        (ALL, says(" \"4\"\n<b>"), vec![]),
        (ALL, thoughts, vec![]),
        (ALL, calls("", "weather", arguments), vec![]),
        (ALL, calls("", "now", json!({})), vec![]),
        (ANY, says("<think>two and two</think>4"), vec![]),
    ] {
        assert_eq!(findings(Some(template), pair(answer.clone())), expected, "{answer}");
    }
}

#[test]
fn an_example_says_where_and_what() {
    let long = format!("<think>{}\n</think>4", "two ".repeat(40));
    let rows = [pair(says("5")), pair(says(&long)), pair(says(&long.replace('4', "6")))];
    let [warning] = &warnings(Some(NO_THOUGHTS), &rows)[..] else { panic!("one warning") };
    assert_eq!((warning.rows, warning.line, &warning.at[..]), (2, 2, "chosen[0].content"));
    assert!(warning.excerpt.starts_with("<think>two two") && warning.excerpt.ends_with("..."), "{}", warning.excerpt);
}

/// Templates cut the thoughts of turns that are answered already.
#[test]
fn thoughts_of_earlier_turns_are_no_loss() {
    let earlier = json!({"prompt": [user("q"), says("<think>hm</think>a"), user("q2")], "chosen": [says("c")], "rejected": [says("r")]});
    assert_eq!(findings(Some(NO_THOUGHTS), earlier), []);
    let talk = json!({"messages": [user("q"), says("<think>hm</think>a"), user("q2"), says("<think>hm</think>b")]});
    assert_eq!(findings(Some(ALL), talk.clone()), []);
    assert_eq!(findings(Some(NO_THOUGHTS), talk), [left_out(TurnPart::ContentStart)]);
}

#[test]
fn prompts_tools_and_variables_that_change_nothing_are_found() {
    let no_system = "{% for m in messages if m.role != 'system' %}{{ m.role }}{{ m.content }}\n{% endfor %}";
    let system = json!({"role": "system", "content": "be brief"});
    let row = json!({"prompt": [system, user("q")], "chosen": [says("c")], "rejected": [says("r")]});
    assert_eq!(
        findings(Some(no_system), row.clone()),
        [Finding::NotRendered { of_answer: false, part: TurnPart::Content }]
    );
    assert_eq!(findings(Some(ANY), row), []);

    let mut row = pair(says("c"));
    row["tools"] = json!([{"type": "function", "function": {"name": "weather", "parameters": {}}}]);
    row["chat_template_kwargs"] = json!({"enable_thinking": true});
    let kwarg = Finding::KwargNotRead { name: "enable_thinking".to_owned() };
    assert_eq!(findings(Some(ANY), row.clone()), [Finding::ToolsNotRendered, kwarg]);
    assert_eq!(findings(Some(ALL), row), []);
}

/// The model would learn to say nothing: no warning, a bad row.
#[test]
fn an_answer_of_which_nothing_is_left_is_a_bad_row() {
    let without_content = json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]});
    let thoughts = json!({"role": "assistant", "content": " ", "reasoning": "hm"});
    for (template, answer, held) in [
        (ANY, calls("", "weather", json!({"city": "Rome"})), "`tool_calls`"),
        ("{% for m in messages %}{{ m.role }}{{ m.content or '' }}\n{% endfor %}", without_content, "`tool_calls`"),
        (NO_THOUGHTS, says("<think>hm</think>\n"), "`content`"),
        ("{% for m in messages %}{{ m.role }}{{ m.content | trim }}\n{% endfor %}", thoughts, "`reasoning`"),
    ] {
        for needs in [Needs::Pairs, Needs::Sequences] {
            match open(encoder(Some(template)), &[pair(answer.clone())], needs) {
                Err(DataError::Row { line: 1, reason: BadRow::AnswerNotRendered { field, parts }, .. }) => {
                    assert_eq!((&field[..], &parts[..]), ("chosen", held));
                }
                other => panic!("{answer}: {other:?}"),
            }
        }
    }
    let rejected = json!({"prompt": [user("q")], "chosen": [says("c")], "rejected": [calls("", "f", json!({"a": 1}))]});
    let error = open(encoder(Some(ANY)), &[rejected], Needs::Pairs).unwrap_err();
    assert!(error.to_string().contains("`rejected`: nothing of the answer reaches the text"), "{error}");
    let nothing =
        "{% for m in messages %}{{ m.role }}{% if m.role == 'user' %}{{ m.content }}{% endif %}\n{% endfor %}";
    let labelled = json!({"prompt": [user("q")], "completion": [says("c")], "label": true});
    let error = open(encoder(Some(nothing)), &[labelled], Needs::Labels).unwrap_err();
    assert!(matches!(error, DataError::NothingRendered { rows: 1, .. }), "{error}");
}

/// By names that nothing reads, unless the row says the same elsewhere.
#[test]
fn unread_columns_that_are_called_like_a_prompt_are_found() {
    let unread = |name: &str, value: Value| {
        let mut row = json!({"prompt": "What is a lake?", "chosen": " Water, still.", "rejected": " A fish."});
        row[name] = value;
        let found = findings(None, row).into_iter();
        found.filter(|finding| *finding != Finding::NoTemplateApplied).collect::<Vec<_>>()
    };
    for name in ["Instruction", "user_input", "prompt_text", "systemPrompt", "QUERY", "history", "messages"] {
        let value = json!("Speak as the pirate that you are.");
        let read_as = if name == "systemPrompt" { ReadAs::System } else { ReadAs::Prompt };
        assert_eq!(unread(name, value), [Finding::UnreadColumn { column: name.to_owned(), read_as }], "{name}");
    }
    let history = Finding::UnreadColumn { column: "history".to_owned(), read_as: ReadAs::Pairs };
    assert_eq!(unread("history", json!([["hi", "hello"]])), [history]);
    for (name, value) in [
        ("prompt_id", json!("ab12")),
        ("num_messages", json!(3)),
        ("source", json!("web")),
        ("labelling_prompt", json!("Which answer is the best one?")),
        ("query", json!("  What is a lake? ")),
        ("instruction", Value::Null),
        ("instruction", json!("")),
        ("user", json!("u17")),
        ("conversation_id", json!("Speak as the pirate that you are.")),
        ("messages", json!([user("What is a lake?"), says("Water, still.")])),
        ("num_history", json!([1, 2])),
        ("category", json!("questions about water in its many forms")),
        ("input_quality", json!("excellent")),
        ("system_fingerprint", json!("fp_123")),
        ("instruction_following", json!({"text": "It follows all of the instructions."})),
    ] {
        assert_eq!(unread(name, value.clone()), [], "{name} {value}");
    }
}

#[test]
fn an_empty_prompt_beside_a_column_of_prompts_is_refused() {
    let row = |i: usize, name: &str| json!({"prompt": "", "chosen": format!("c{i}"), "rejected": "r", name: "What is a lake?"});
    // a tokenizer with a BOS token trains on such rows, one without drops them
    for model in ["tiny-llama31", "tiny-qwen2"] {
        let encoder = || Encoder::from_model(&goldens(model).join("model"), None, 512, 4096).unwrap();
        let rows: Vec<Value> = (0..9).map(|i| row(i, "topic_question")).collect();
        let rows = [rows, vec![json!({"prompt": "p", "chosen": "c", "rejected": "r"})]].concat();
        assert!(open(encoder(), &rows, Needs::Pairs).is_ok(), "{model}: no column is called like a prompt");
        let rows: Vec<Value> = (0..9).map(|i| row(i, "the_question")).collect();
        match open(encoder(), &rows, Needs::Pairs) {
            Err(DataError::EmptyPrompts { line: 1, rows: 9, of: 9, column, .. }) => assert_eq!(column, "the_question"),
            other => panic!("{model}: {other:?}"),
        }
    }
}

#[test]
fn texts_that_are_values_written_as_text_are_found() {
    let rows = |text: &str| -> Vec<Value> {
        (0..4).map(|i| json!({"prompt": text.replace('1', &i.to_string()), "chosen": "c", "rejected": "r"})).collect()
    };
    let found = |text: &str| {
        let all = warnings(None, &rows(text)).into_iter().map(|warning| warning.finding);
        all.filter(|finding| *finding != Finding::NoTemplateApplied).collect::<Vec<_>>()
    };
    let is = |notation| vec![Finding::Serialised { column: "prompt".to_owned(), notation, turns: false }];
    assert_eq!(found(r#"{"task": "sum", "numbers": [1, 2]}"#), is(Notation::Json));
    assert_eq!(found(r#"["one 1", "two"]"#), is(Notation::Json));
    assert_eq!(found("{'task': 'sum 1', 'more': None}"), is(Notation::Python));
    assert_eq!(found("['What is 1?', \"What isn't?\"]"), is(Notation::Python));
    for text in ["[1, 2]", "{1}", "[INST] 1 [/INST]", "{x: 1} is a set", "[1] see below", "plain 1"] {
        assert_eq!(found(text), [], "{text}");
    }
    // one of several rows is no column full of it
    let mut few = rows("What is 1?");
    few[2]["prompt"] = json!(r#"{"a": 1}"#);
    assert!(warnings(None, &few).iter().all(|warning| warning.finding == Finding::NoTemplateApplied));
}

#[test]
fn null_arguments_that_no_tool_declares_are_found() {
    let tool = |properties: Value| json!([{"type": "function", "function": {"name": "add", "parameters": {"properties": properties}}}]);
    let row = |arguments: Value, tools: Value| json!({"prompt": [user("1+2?")], "chosen": [calls("", "add", arguments)], "rejected": [says("4")], "tools": tools});
    let two = json!({"a": 1, "b": null});
    assert_eq!(findings(Some(ALL), row(two.clone(), tool(json!({"a": {}})))), [Finding::NullArgument]);
    assert_eq!(findings(Some(ALL), row(two.clone(), tool(json!({"a": {}, "b": null})))), [Finding::NullArgument]);
    assert_eq!(findings(Some(ALL), row(two.clone(), Value::Null)), [Finding::NullArgument]);
    assert_eq!(findings(Some(ALL), row(two, tool(json!({"a": {}, "b": {"type": "number"}})))), []);
    assert_eq!(findings(Some(ALL), row(json!({"a": 1}), tool(json!({"a": {}})))), []);
}

/// Prompts that ask nothing, each with what is in them.
#[test]
fn prompts_that_ask_nothing_are_found() {
    let found = |row: Value, reading: Reading| {
        let data = open(encoder(Some(ANY)).with_reading(reading), &[pair(says("c")), row], Needs::Pairs);
        let warnings = data.unwrap().survey().warnings.clone();
        warnings.into_iter().map(|warning| (warning.finding, warning.line)).collect::<Vec<_>>()
    };
    let system = |content: &str| json!({"role": "system", "content": content});
    for prompt in [json!([system("Be brief.")]), json!([user(" ")]), json!([system("Be brief."), user("")])] {
        let row = json!({"prompt": prompt, "chosen": [says("c")], "rejected": [says("r")]});
        assert_eq!(found(row.clone(), Reading::default()), [(Finding::BlankPrompt, 2)], "{row}");
    }
    let row =
        json!({"prompt": [system("Be brief.")], "chosen": [says("c")], "rejected": [says("r")], "topic": "lakes"});
    assert_eq!(found(row, Reading::default()), [(Finding::EmptyPrompt { column: None }, 2)]);
    // whatever else is unread, it is one finding
    let row = |more: &str| json!({"prompt": " ", "completion": "c", more: "a", "the_task_query": "What is a lake?"});
    let mut rows: Vec<Value> = (0..5).map(|_| json!({"prompt": "p", "completion": "c"})).collect();
    rows.extend([row("x"), row("y")]);
    let warnings = warnings(None, &rows);
    let query = Finding::EmptyPrompt { column: Some("the_task_query".to_owned()) };
    let of_query = warnings.iter().find(|warning| warning.finding == query);
    assert_eq!(of_query.map(|warning| (warning.rows, warning.line)), Some((2, 6)));
    let shares = |text: &str| json!({"chosen": format!("{text} lake"), "rejected": format!("{text} sea")});
    let longest = Reading { implicit_prompt: ImplicitPrompt::Longest, ..Reading::default() };
    let data = |text: &str| {
        let data = open(encoder(None).with_reading(longest.clone()), &[shares(text)], Needs::Pairs).unwrap();
        let found = data.survey().warnings.iter().map(|warning| warning.finding.clone());
        found.filter(|finding| *finding != Finding::NoTemplateApplied).collect::<Vec<_>>()
    };
    assert_eq!(data("The"), [Finding::FewSharedLetters]);
    assert_eq!(data("What is water in the wild?"), []);
}

/// Who else speaks in what is scored, or right before it.
#[test]
fn turns_of_others_that_are_scored_are_found() {
    let tool = json!({"role": "tool", "content": "42"});
    let row = |turns: Value| json!({"prompt": [user("q")], "chosen": turns, "rejected": [says("r")]});
    let others = |role: &str| vec![Finding::TurnOfOthers { role: role.to_owned() }];
    assert_eq!(findings(Some(ANY), row(json!([says("a"), user("more"), says("b")]))), others("user"));
    assert_eq!(findings(Some(ANY), row(json!([says("a"), tool, says("b")]))), others("tool"));
    assert_eq!(findings(Some(ANY), row(json!([says("a"), says("b")]))), []);
    let prefilled = json!({"prompt": [user("q"), says("Well,")], "chosen": [says("a")], "rejected": [says("r")]});
    assert_eq!(findings(Some(ANY), prefilled), [Finding::AssistantBeforeAnswer]);
    let completion = json!({"prompt": [user("q")], "completion": [says("a"), user("more"), says("b")]});
    assert_eq!(findings(Some(ANY), completion.clone()), others("user"));
    let assistant = encoder(Some(ANY)).with_sft_on(Some(SftPart::Assistant));
    let data = open(assistant, &[completion], Needs::Sequences).unwrap();
    assert_eq!(data.survey().warnings, []);
    let alone = json!({"messages": [user("q"), user("and more")]});
    assert_eq!(findings(Some(ANY), alone), [Finding::NoAssistantTurn]);
    assert_eq!(findings(Some(ANY), json!({"messages": [user("q"), says("a")]})), []);
}

/// A prompt that the answers have in another way than at their very start.
#[test]
fn prompts_within_answers_are_cut_or_found() {
    let question = "What is a lake?";
    let text = |prompt: &str, start: &str| json!({"prompt": prompt, "chosen": format!("{start} Water."), "rejected": format!("{start} Fish.")});
    let asked = "Human: What is a lake?\n\nAssistant:";
    let read = |row: Value| {
        let data = open(encoder(None), &[row], Needs::Pairs).unwrap();
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

    // the system turn that the answers have comes before the column's
    let system = json!({"role": "system", "content": "Be brief."});
    let whole = |first: &[Value]| {
        let answer = |content: &str| [first, &[user("q"), says(content)]].concat();
        json!({"prompt": [user("q")], "chosen": answer("c"), "rejected": answer("r"), "system": "Be brief."})
    };
    let rows = |row: Value| open(encoder(Some(ANY)), &[row], Needs::Pairs).unwrap().rows(&[0]).unwrap();
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

/// A prompt of many turns that are all the same is compared in time.
#[test]
fn hostile_turns_are_compared_in_time() {
    let turns: Vec<Value> = (0..20_000).map(|_| user("a")).collect();
    let answer = [&turns[..19_999], &[says("b")]].concat();
    let started = std::time::Instant::now();
    assert_eq!(repeated_turns(&turns, &answer), 16);
    assert_eq!(repeated_turns(&turns[..9], &answer), 9);
    assert!(started.elapsed().as_secs() < 5);
}

#[test]
fn calls_and_middles_that_a_template_leaves_out_are_found() {
    let legacy = json!({"role": "assistant", "content": "Let me see.", "function_call": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}});
    assert_eq!(findings(Some(ANY), pair(legacy)), [left_out(TurnPart::CallName), left_out(TurnPart::CallArguments)]);
    let cuts = "{% for m in messages %}{{ m.role }}: {% if '<box>' in m.content %}{{ m.content.split('<box>')[0] }}\
                {{ m.content.split('</box>')[-1] }}{% else %}{{ m.content }}{% endif %}\n{% endfor %}";
    let middle = says("The answer to all that is the following: <box>forty-two</box> as you may have known.");
    assert_eq!(findings(Some(cuts), pair(middle.clone())), [left_out(TurnPart::ContentMiddle)]);
    assert_eq!(findings(Some(ANY), pair(middle)), []);
    assert_eq!(findings(Some(ANY), pair(says(&"ä ö ü > ß ".repeat(30)))), []);
    // parts of a long prompt do not keep those of the answer from being tried
    let prompt: Vec<Value> = (0..20).map(|i| calls("hm", "f", json!({"i": i}))).chain([user("q")]).collect();
    let row = json!({"prompt": prompt, "chosen": [calls("hm", "g", json!({"i": 1}))], "rejected": [says("r")]});
    let found = findings(Some(ANY), row);
    assert!(found.contains(&left_out(TurnPart::CallName)), "{found:?}");
}

#[test]
fn values_in_texts_are_told_from_answers_that_are_meant_to_be_json() {
    let rows = |prompt: &str, chosen: &str| -> Vec<Value> {
        (0..4)
            .map(|i| json!({"prompt": prompt.replace('7', &i.to_string()), "chosen": chosen, "rejected": "r"}))
            .collect()
    };
    let found = |rows: &[Value]| {
        let all = warnings(None, rows).into_iter().map(|warning| warning.finding);
        all.filter(|finding| *finding != Finding::NoTemplateApplied).collect::<Vec<_>>()
    };
    assert_eq!(found(&rows("Give me lake 7 as JSON.", r#"{"name": "lake", "area": 7}"#)), []);
    let twice = Value::from(r#"{"task": "sum", "of": 7}"#).to_string();
    let serialised = Finding::Serialised { column: "prompt".to_owned(), notation: Notation::Json, turns: false };
    assert_eq!(found(&rows(&twice, "c")), std::slice::from_ref(&serialised));
    for broken in [r#"[{"role": "user", "content": "What is 7"#, r#"{"from": "human", "value": "What is 7?"}, {"fr"#] {
        assert_eq!(found(&rows(broken, "c")), std::slice::from_ref(&serialised), "{broken}");
    }
    let parts = json!({"prompt": [user(r#"[{"type": "text", "text": "What is a lake?"}]"#)], "chosen": [says("c")], "rejected": [says("r")]});
    let serialised = Finding::Serialised { column: "prompt".to_owned(), notation: Notation::Json, turns: false };
    assert_eq!(findings(Some(ANY), parts), std::slice::from_ref(&serialised));
    // the answers are turns, so that the text becomes one
    let broken = json!({"prompt": r#"[{"role": "user", "content": "What is 7?"}"#, "chosen": [says("c")], "rejected": [says("r")]});
    assert_eq!(findings(Some(ANY), broken), [serialised]);
}

/// Values that stand in the answers: turns end the run, one object is meant, all else is worth a word.
#[test]
fn answers_that_are_values_written_as_text_are_told_apart() {
    let open_rows = |chosen: &str| {
        let row = |i: usize| json!({"prompt": format!("q{i}"), "chosen": chosen.replace('7', &i.to_string()), "rejected": "r"});
        open(encoder(None), &(0..4).map(row).collect::<Vec<_>>(), Needs::Pairs)
    };
    let found = |chosen: &str| {
        let all = open_rows(chosen).unwrap().survey().warnings.clone().into_iter().map(|warning| warning.finding);
        all.filter(|finding| *finding != Finding::NoTemplateApplied).collect::<Vec<_>>()
    };
    let is = |notation| vec![Finding::Serialised { column: "chosen".to_owned(), notation, turns: false }];
    for json in [
        r#"[{"speaker": "bot", "text": "a7"}]"#,
        r#"[{"foo": "bar"}]"#,
        r#"{"role": "engineer", "content": "x"}"#,
        r#"[{"role": "engineer", "content": "x"}]"#,
        r#""a7""#,
        r#"[["q", "a7"], ["q2", null]]"#,
        "```json\n[{\"role\": \"assistant\", \"content\": \"a7\"}]\n```",
        r#"{"filters": [{"from": "2020", "value": 1}]}"#,
        r#"{"model": "m", "messages": [{"role": "user", "content": "q"}]}"#,
    ] {
        assert_eq!(found(json), is(Notation::Json), "{json}");
    }
    for python in ["[Message(role='assistant', content='a7')]", "Message(content='a7', role='assistant')"] {
        assert_eq!(found(python), is(Notation::Python), "{python}");
    }
    let none = [
        r#"{"filters": [{"year": 2020}]}"#,
        "[[1, 2], [3]]",
        "```json\n{\"a\": 7}\n```",
        "[weather(city='Rome')]",
        "\"A\" is 7",
    ];
    for meant in none {
        assert_eq!(found(meant), [], "{meant}");
    }
    for turns in [r#"[{"role": "assistant", "content": "a7"}]"#, "{'from': 'gpt', 'value': 'a7'}"] {
        let error = open_rows(turns).unwrap_err();
        assert!(matches!(error, DataError::TurnsInText { rows: 4, .. }), "{turns}: {error}");
    }
}

/// What a template prints outside its `{% generation %}` marks is not learned, where these say what is.
#[test]
fn what_stands_outside_the_generation_marks_is_found() {
    let marks = |inside: &str, outside: &str| {
        format!(
            "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{outside}{{% if m.role == 'assistant' %}}{{% generation %}}{inside}\
             {{{{ m.content }}}}<|im_end|>{{% endgeneration %}}{{% else %}}{{{{ m.content }}}}<|im_end|>{{% endif %}}\n{{% endfor %}}"
        )
    };
    let more = "{{ m.reasoning_content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments }}{% endfor %}";
    let mut answer = calls("Let me see.", "weather", json!({"city": "Rome"}));
    answer["reasoning_content"] = "two and two".into();
    let found = |template: &str, row: &Value, part: Option<SftPart>| {
        let encoder = encoder(Some(template)).with_sft_on(part);
        let data = open(encoder, std::slice::from_ref(row), Needs::Sequences).unwrap();
        data.survey().warnings.iter().map(|warning| warning.finding.clone()).collect::<Vec<_>>()
    };
    let not_marked =
        [TurnPart::Reasoning, TurnPart::CallName, TurnPart::CallArguments].map(|part| Finding::NotMarked { part });
    for row in [json!({"messages": [user("q"), answer]}), json!({"prompt": [user("q")], "completion": [answer]})] {
        assert_eq!(found(&marks("", more), &row, Some(SftPart::Assistant)), not_marked, "{row}");
        assert_eq!(found(&marks(more, ""), &row, Some(SftPart::Assistant)), [], "{row}");
        assert_eq!(found(&marks("", more), &row, None), [], "{row}");
    }
    // what is not printed at all is another finding
    let row =
        json!({"messages": [user("q"), says("a"), user("q"), {"role": "assistant", "content": "b", "thinking": "hm"}]});
    assert_eq!(found(&marks("", ""), &row, Some(SftPart::Assistant)), [left_out(TurnPart::Reasoning)]);
}

#[test]
fn answers_without_a_special_token_at_their_end_are_found() {
    let bare = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    let found = warnings(Some(bare), &[pair(says("c"))]);
    assert_eq!(
        found.iter().map(|warning| (&warning.finding, &warning.at[..])).collect::<Vec<_>>(),
        [(&Finding::NoStop, "chosen")]
    );
    let others = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_start|>\n{% endfor %}";
    assert_eq!(warnings(Some(others), &[pair(says("c"))]), []);
}

/// The prompt is in the tokens once, whether the answers have it too or not.
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
        let data = open(encoder(None), std::slice::from_ref(row), Needs::Pairs).unwrap();
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

/// What stands in front of the prompt hides neither that the answers repeat it nor that it is empty.
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
        let data = open(encoder, std::slice::from_ref(row), Needs::Pairs).unwrap();
        let cut = data.survey().warnings.iter().any(|warning| warning.finding == Finding::RepeatedPromptCut);
        assert!(cut, "{row} {reading:?}");
    }
    let blank = json!({"prompt": " ", "chosen": "c", "rejected": "r", "instruction": "What?"});
    for reading in [flag, chat] {
        let error = open(encoder(Some(ANY)).with_reading(reading.clone()), std::slice::from_ref(&blank), Needs::Pairs);
        let message = error.unwrap_err().to_string();
        assert!(message.contains("--columns prompt=instruction"), "{reading:?}: {message}");
    }
}

/// Some rows of texts, or some answers of a row, that begin with the prompt are left as they are.
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

/// One answer with the prompt and one without differ in what no answer is about.
#[test]
fn a_prompt_in_one_of_the_answers_is_found() {
    let question = |i: usize| format!("What is lake number {i}?");
    let found = |row: &dyn Fn(usize) -> Value, needs: Needs| {
        let data = open(encoder(None), &(0..4).map(row).collect::<Vec<_>>(), needs).unwrap();
        let warnings = data.survey().warnings.iter().filter(|warning| warning.finding != Finding::NoTemplateApplied);
        warnings.map(|warning| (warning.finding.clone(), warning.at.clone(), warning.rows)).collect::<Vec<_>>()
    };
    let chosen = |i: usize| json!({"prompt": question(i), "chosen": question(i) + " Water.", "rejected": " A fish."});
    assert_eq!(found(&chosen, Needs::Pairs), [(Finding::RepeatedPrompt, "chosen".to_owned(), 4)]);
    let scored = |i: usize| json!({"prompt": question(i), "completions": [" A fish.", question(i) + " Water."], "rewards": [1, 2]});
    assert_eq!(found(&scored, Needs::Answers), [(Finding::RepeatedPrompt, "completions[1]".to_owned(), 4)]);
    let short = |i: usize| json!({"prompt": format!("Say {i}"), "chosen": format!("Say {i} {i}"), "rejected": " no"});
    assert_eq!(found(&short, Needs::Pairs), [(Finding::RepeatedShortPrompt, "chosen".to_owned(), 4)]);
}

/// Prompts of few letters decide nothing where there are others, and where they are alone several of them do.
#[test]
fn short_prompts_are_cut_where_no_chance_repeats_them() {
    let repeated =
        |prompt: String| json!({"prompt": prompt, "chosen": format!("{prompt} c"), "rejected": format!("{prompt} r")});
    let cut = |rows: &[Value]| {
        let survey = open(encoder(None), rows, Needs::Pairs).unwrap().survey().clone();
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

/// `--chat` on texts that are conversations already.
#[test]
fn turn_marks_within_a_turn_are_found() {
    let found = |prompt: &str| {
        let row = json!({"prompt": prompt, "chosen": " c", "rejected": " r"});
        let reading = Reading { texts: Texts::AsTurns, ..Reading::default() };
        let data = open(encoder(Some(ANY)).with_reading(reading), &[row], Needs::Pairs).unwrap();
        data.survey().warnings.iter().map(|warning| warning.finding.clone()).collect::<Vec<_>>()
    };
    for marked in
        ["\n\nHuman: q\n\nAssistant:", "[INST] q [/INST]", "Do it.\n\n### Response:\n", "<|im_start|>assistant\n"]
    {
        assert_eq!(found(marked), [Finding::MarksInTurn], "{marked}");
    }
    for plain in
        ["What is a lake?", "Question: What is a lake?\nAnswer:", "### Output\nA list.", "Put it in <answer></answer>."]
    {
        assert_eq!(found(plain), [], "{plain}");
    }
}

/// Many findings of one kind leave room for others.
#[test]
fn many_findings_of_one_kind_hide_no_other() {
    let mut rows: Vec<Value> = (0..40)
        .map(|i| {
            let mut row = pair(says("c"));
            row["chat_template_kwargs"] = json!({format!("name{i}"): true});
            row
        })
        .collect();
    rows.push(json!({"prompt": [user("q")], "chosen": [says("a"), user("more"), says("b")], "rejected": [says("r")]}));
    let found = warnings(Some(ANY), &rows);
    assert_eq!(found.len(), 33);
    assert_eq!(found[32].finding, Finding::TurnOfOthers { role: "user".to_owned() });
}

/// Columns are called as the file calls them, whoever found their names.
#[test]
fn findings_name_the_files_columns() {
    let row =
        |i: usize| json!({"question": format!("['What is lake {i}?', 'And why?']"), "chosen": "c", "rejected": "r"});
    let found = warnings(None, &(0..4).map(row).collect::<Vec<_>>());
    assert!(found.iter().any(|warning| warning.at == "question"), "{found:?}");
}

#[test]
fn texts_are_noted_where_the_model_has_a_template() {
    let row = |prompt: &str| json!({"prompt": prompt, "chosen": " c", "rejected": " r"});
    assert_eq!(findings(None, row("What is a lake?")), [Finding::NoTemplateApplied]);
    for marked in
        ["\n\nHuman: q\n\nAssistant:", "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", "### Response:\n"]
    {
        assert_eq!(findings(None, row(marked)), [], "{marked}");
    }
    assert_eq!(findings(None, json!({"text": "a book"})), []);
}

#[test]
fn goldens_and_data_warn_of_nothing() {
    let data = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").join(name);
    let mut files =
        vec![(data("data/pref_eval.jsonl"), Needs::Pairs), (data("data/pref_train_kto.jsonl"), Needs::Labels)];
    files.extend([(goldens("pairs.jsonl"), Needs::Pairs), (goldens("kto.jsonl"), Needs::Labels)]);
    for model in ["tiny-qwen2", "tiny-llama", "tiny-qwen3", "tiny-gemma2", "tiny-phi3"] {
        for (path, needs) in &files {
            let encoder = Encoder::from_model(&goldens(model).join("model"), None, 512, 4096).unwrap();
            let data = Dataset::open(std::slice::from_ref(path), encoder, *needs, OnBadRow::Skip).unwrap();
            let survey = data.survey();
            let warnings: Vec<_> =
                survey.warnings.iter().filter(|warning| warning.finding != Finding::NoTemplateApplied).collect();
            assert!(warnings.is_empty(), "{model} {}: {warnings:?}", path.display());
        }
    }
}

/// HH's rows: nothing but the two conversations as texts. Nothing is said, and the prompts end with the mark.
#[test]
fn rows_as_hh_has_them_are_read_without_a_word() {
    let rows = std::fs::read_to_string(goldens("pairs.jsonl")).unwrap();
    let (mut hh, mut named) = (Vec::new(), Vec::new());
    for row in rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let turn = |turn: &Value| {
            let speaker = if turn["role"] == "assistant" { "Assistant" } else { "Human" };
            format!("\n\n{speaker}: {}", turn["content"].as_str().unwrap())
        };
        let prompt: String = row["prompt"].as_array().unwrap().iter().map(turn).collect();
        let prompt = prompt + "\n\nAssistant:";
        let [chosen, rejected] =
            ["chosen", "rejected"].map(|side| format!(" {}", row[side][0]["content"].as_str().unwrap()));
        hh.push(json!({"chosen": format!("{prompt}{chosen}"), "rejected": format!("{prompt}{rejected}")}));
        named.push(json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}));
    }
    let data = open(encoder(None), &hh, Needs::Pairs).unwrap();
    assert_eq!(data.survey().warnings, []);
    assert_eq!(data.survey().decided.turn_marker.as_ref().unwrap().to_string(), "Assistant:");
    let named = open(encoder(None), &named, Needs::Pairs).unwrap();
    let all: Vec<u32> = (0..data.len() as u32).collect();
    assert_eq!(data.rows(&all).unwrap(), named.rows(&all).unwrap());
}

#[test]
fn texts_without_a_mark_are_refused_unless_the_user_insists() {
    let rows = [
        json!({"which_question": "What is a lake?", "chosen": "The lake is water.", "rejected": "The moon is a fish."}),
        json!({"which_question": "What is a sea?", "chosen": "Salt water.", "rejected": "A big fish."}),
    ];
    match open(encoder(None), &rows, Needs::Pairs) {
        Err(DataError::NoTurnMarker { line: 1, rows: 2, column, .. }) => assert_eq!(column, "which_question"),
        other => panic!("{other:?}"),
    }
    let insists = Reading { implicit_prompt: ImplicitPrompt::Longest, ..Reading::default() };
    // what they share is a prompt by TRL's rule, but the second row shares nothing
    let error = open(encoder(None).with_reading(insists.clone()), &rows, Needs::Pairs).unwrap_err();
    assert!(matches!(error, DataError::EmptyPrompts { rows: 1, line: 2, .. }), "{error}");
    let data = open(encoder(None).with_reading(insists), &rows[..1], Needs::Pairs).unwrap();
    let unread = Finding::UnreadColumn { column: "which_question".to_owned(), read_as: ReadAs::Prompt };
    let found = |finding: &Finding| data.survey().warnings.iter().any(|warning| warning.finding == *finding);
    assert!(found(&unread) && found(&Finding::FewSharedLetters));
}

/// One row that lacks the mark of the others is dropped and counted, whatever becomes of bad rows; one that has no prompt column,
/// or that restates its question, does not decide for the others.
#[test]
fn odd_rows_decide_nothing_for_the_others() {
    let row =
        |i: usize, mark: &str| json!({"chosen": format!("lake {i}{mark} c"), "rejected": format!("lake {i}{mark} r")});
    let mut rows: Vec<Value> = (0..40).map(|i| row(i, "\nBot:")).collect();
    rows[7] = row(7, " is");
    let survey = open(encoder(None), &rows, Needs::Pairs).unwrap().survey().clone();
    let [dropped] = &survey.dropped[..] else { panic!("{:?}", survey.dropped) };
    assert_eq!((survey.kept, dropped.rows, dropped.line, dropped.kind), (39, 1, 8, DropKind::Marker));
    assert!(dropped.first.contains("has no \"Bot:\""), "{}", dropped.first);
    (0..8).for_each(|i| rows[i] = row(i, " is"));
    assert!(matches!(open(encoder(None), &rows, Needs::Pairs), Err(DataError::NoTurnMarker { .. })));

    let asked = |i: usize, start: &str| {
        let question = format!("What is lake {i}?");
        json!({"chosen": format!("{start}Water {i}."), "rejected": format!("{start}A fish."), "question": question})
    };
    let mut rows: Vec<Value> = (0..40).map(|i| asked(i, "")).collect();
    let restated = "Question: What is lake 7?\nAnswer: ";
    rows[7] = asked(7, restated);
    let survey = open(encoder(None), &rows, Needs::Pairs).unwrap().survey().clone();
    assert_eq!((survey.kept, survey.by_name[0].records), (40, 40));
    // all of them do: then the column is in the answers
    let rows: Vec<Value> = (0..40).map(|i| asked(i, &restated.replace('7', &i.to_string()))).collect();
    let survey = open(encoder(None), &rows, Needs::Pairs).unwrap().survey().clone();
    assert_eq!((survey.decided.prompts_in_answers, survey.by_name.len()), (Some(true), 0));

    let mut rows: Vec<Value> =
        (0..40).map(|i| json!({"prompt": format!("q{i}"), "chosen": "c", "rejected": "r"})).collect();
    rows[7] = json!({"chosen": "a word", "rejected": "another"});
    match open(encoder(None), &rows, Needs::Pairs) {
        Err(DataError::Row { line: 8, reason: BadRow::NoTurnMarker { marker: None, .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
}
