//! Tests of sequences: which tokens are scored (cases by hand, and properties), columns under other names, and texts of every
//! kind through the tokenizers.

use std::time::Instant;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ROWS, file, tiny, turns, written};
use crate::record::bad_row::BadRow;
use crate::record::records::Record;
use crate::record::text::Text;
use crate::row::{EncodedRow, RowKind, Target};
use crate::set::dataset::Dataset;
use crate::set::error::DataError;
use crate::set::options::OnBadRow;
use crate::set::options::Shuffle;
use crate::set::prompts::prompts;
use crate::source::column_map::ColumnMap;
use crate::tokens::encode::{DropReason, Encoded, Encoder};
use crate::tokens::sft_part::SftPart;
use crate::tokens::spans::SpanSource;
use crate::tokens::tokenizer::SpecialTokens;

const CHATML_WITH_MARKS: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}\
     {% generation %}{{ m.content + '<|im_end|>\\n' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>\\n' }}{% endif %}\
     {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

fn encoder(name: &str) -> Encoder {
    Encoder::from_model(&tiny(name), None, 1 << 20, ROWS).unwrap()
}

fn with_template(name: &str, template: &str) -> Encoder {
    let file = written(template.as_bytes());
    Encoder::from_model(&tiny(name), Some(file.path()), 1 << 20, ROWS).unwrap()
}

fn encode(encoder: &Encoder, row: &Value) -> Result<Encoded, BadRow> {
    let record = encoder.parse(0, row.to_string().as_bytes())?.record;
    encoder.encode(&record).map(|(encoded, _)| encoded)
}

fn kept(encoder: &Encoder, row: &Value) -> EncodedRow {
    match encode(encoder, row) {
        Ok(Encoded::Kept(row)) => row,
        other => panic!("{row}: {other:?}"),
    }
}

/// Returns the scored parts of a row's answer, as text.
fn scored(encoder: &Encoder, row: &EncodedRow) -> Vec<String> {
    let answer = &row.answers[0];
    let ends = answer.unscored.iter().map(|gap| gap.start).chain([answer.kept]);
    let starts = [0].into_iter().chain(answer.unscored.iter().map(|gap| gap.end));
    let text = |(start, end): (usize, usize)| {
        encoder.tokenizer().decode(&answer.ids[start..end], SpecialTokens::Keep).unwrap()
    };
    starts.zip(ends).map(text).collect()
}

fn talk() -> Value {
    let talk = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"), ("user", "five")];
    json!({"messages": turns(&talk)})
}

#[test]
fn the_assistants_turns_are_found_turn_by_turn() {
    let cases: [(&str, [&str; 2]); 7] = [
        ("tiny-qwen2", ["two<|im_end|>\n", "four<|im_end|>\n"]),
        // its template leaves the empty reasoning out of turns that are not the last
        ("tiny-qwen3", ["two<|im_end|>\n", "four<|im_end|>\n"]),
        ("tiny-llama", ["two<|eot_id|>", "four<|eot_id|>"]),
        // its template ends every conversation with EOS
        ("tiny-phi3", ["two<|end|>\n", "four<|end|>\n"]),
        ("tiny-gemma2", ["two<end_of_turn>\n", "four<end_of_turn>\n"]),
        ("tiny-gemma3", ["two<end_of_turn>\n", "four<end_of_turn>\n"]),
        ("tiny-mistral", [" two</s>", " four</s>"]),
    ];
    for (name, expected) in cases {
        let encoder = encoder(name).with_sft_on(Some(SftPart::Assistant));
        let row = kept(&encoder, &talk());
        let found = scored(&encoder, &row);
        let trimmed = |text: &str| text.trim().to_owned();
        assert_eq!(found.iter().map(|t| trimmed(t)).collect::<Vec<_>>(), expected.map(trimmed), "{name}");
        assert_eq!(row.answers[0].scored_tokens(), row.answers[0].scored_ids().count(), "{name}");
        assert_eq!(row.target, Target::Sequence);

        let all = kept(&encoder.with_sft_on(None), &talk());
        assert_eq!((all.prompt.len(), all.answers[0].unscored.len()), (1, 0), "{name}");
        let ids = |row: &EncodedRow| [&row.prompt[..], &row.answers[0].ids].concat();
        assert!(ids(&all).starts_with(&ids(&row)), "{name}");
    }
}

/// A template with marks and a copy of it without marks find the same tokens.
#[test]
fn marks_and_turns_agree() {
    let unmarked = CHATML_WITH_MARKS.replace("{% generation %}", "").replace("{% endgeneration %}", "");
    for name in ["tiny-qwen2", "tiny-llama", "tiny-mistral"] {
        let [marks, turn_by_turn] =
            [CHATML_WITH_MARKS, &unmarked].map(|t| with_template(name, t).with_sft_on(Some(SftPart::Assistant)));
        assert!(marks.template().unwrap().marks_generation() && !turn_by_turn.template().unwrap().marks_generation());
        let pair = json!({"prompt": talk()["messages"], "completion": turns(&[("assistant", "  six ")])});
        for row in [talk(), pair] {
            assert_eq!(kept(&marks, &row), kept(&turn_by_turn, &row), "{name}");
        }
        // letters of several bytes do not shift the marks
        let row = json!({"messages": turns(&[("user", "é🙂"), ("assistant", "ß\u{301}🙂")])});
        assert_eq!(scored(&marks, &kept(&marks, &row)).concat(), "ß\u{301}🙂<|im_end|>\n", "{name}");
    }
}

#[test]
fn marks_that_change_what_they_mark_are_refused() {
    let counted =
        "{% set text %}{% generation %}{{ messages[0].content }}{% endgeneration %}{% endset %}{{ text | length }}";
    let encoder = with_template("tiny-llama", counted).with_sft_on(Some(SftPart::Assistant));
    let error = encode(&encoder, &talk()).unwrap_err();
    assert!(error.to_string().contains("changes with the marks"), "{error}");
    let every: String = ('\u{fdd0}'..='\u{fdef}').collect();
    let row = json!({"messages": turns(&[("user", &every), ("assistant", "a")])});
    let marks = with_template("tiny-llama", CHATML_WITH_MARKS);
    let error = encode(&marks.with_sft_on(Some(SftPart::Assistant)), &row).unwrap_err();
    assert!(error.to_string().contains("every character that could mark"), "{error}");
    let none = "{% generation %}{% endgeneration %}{{ messages[0].content }}";
    let encoder = with_template("tiny-llama", none).with_sft_on(Some(SftPart::Assistant));
    assert_eq!(encode(&encoder, &talk()), Err(BadRow::NoAssistantTurn));
}

#[test]
fn turns_that_cannot_be_told_apart_are_refused() {
    let assistant = Some(SftPart::Assistant);
    let other_end = "{% for m in messages %}{{ m.content }}{% if loop.last %}END{% else %}/{% endif %}{% endfor %}";
    let encoder = with_template("tiny-llama", other_end).with_sft_on(assistant);
    assert_eq!(encode(&encoder, &talk()), Err(BadRow::TurnChanges { turn: 1 }));
    let silent = json!({"messages": turns(&[("user", "a")])});
    let qwen = self::encoder("tiny-qwen2").with_sft_on(assistant);
    assert_eq!(encode(&qwen, &silent), Err(BadRow::NoAssistantTurn));
}

/// The template of Mistral 7B Instruct v0.3 prints the system's text in the last turn of the user. If the turns before an earlier
/// answer are rendered alone, the system's text is in another place. The answer would seem to begin inside the user's first turn,
/// and the user's words would be scored.
#[test]
fn the_text_of_others_is_never_scored() {
    let late_system = "{{ '<s>' }}{% set system = messages[0].content if messages[0].role == 'system' else '' %}\
         {% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' }}{% if system and loop.index > messages | length - 2 %}\
         {{ system + '\\n\\n' }}{% endif %}{{ m.content + '[/INST]' }}{% elif m.role == 'assistant' %}\
         {{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}";
    let encoder = with_template("tiny-mistral", late_system).with_sft_on(Some(SftPart::Assistant));
    let system = ("system", "be brief");
    let talk = [system, ("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")];
    let row = json!({"messages": turns(&talk)});
    assert_eq!(encode(&encoder, &row), Err(BadRow::TurnChanges { turn: 2 }));
    // with one turn of the user, the system's text stays in its place
    let row = kept(&encoder, &json!({"messages": turns(&talk[..3])}));
    assert_eq!(scored(&encoder, &row).iter().map(|text| text.trim()).collect::<Vec<_>>(), ["two</s>"]);
}

/// The generation prompt opens a block of reasoning, but no turn begins with such a block.
#[test]
fn a_generation_prompt_that_is_not_how_a_turn_begins_is_passed_over() {
    let thinking = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}";
    let encoder = with_template("tiny-qwen2", thinking).with_sft_on(Some(SftPart::Assistant));
    let row = kept(&encoder, &talk());
    assert_eq!(scored(&encoder, &row), ["two<|im_end|>\n", "four<|im_end|>\n"]);
}

/// Half of the turns are the assistant's, and each of those needs a rendering of all turns before it.
#[test]
fn turns_without_end_are_refused_in_time() {
    let encoder = encoder("tiny-qwen2").with_sft_on(Some(SftPart::Assistant));
    let many: Vec<(&str, &str)> = (0..20_000).map(|i| (["user", "assistant"][i % 2], "a")).collect();
    let started = Instant::now();
    match encode(&encoder, &json!({"messages": turns(&many)})) {
        Err(BadRow::TooManyTurns { turns: 20_000, .. }) => {}
        other => panic!("{:?}", other.map(|_| ())),
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    // a long conversation that is accepted takes little time, even with the template that needs most renderings
    let most: Vec<(&str, &str)> = many[..1_000].to_vec();
    let started = Instant::now();
    kept(&self::encoder("tiny-qwen3").with_sft_on(Some(SftPart::Assistant)), &json!({"messages": turns(&most)}));
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
    // marks need only two renderings of the whole conversation
    let marks = with_template("tiny-qwen2", CHATML_WITH_MARKS).with_sft_on(Some(SftPart::Assistant));
    kept(&marks, &json!({"messages": turns(&many[..4_000])}));
}

#[test]
fn a_cut_ends_after_a_scored_token() {
    let whole = kept(&encoder("tiny-qwen2").with_sft_on(Some(SftPart::Assistant)), &talk());
    let (prompt, answer) = (whole.prompt.len(), &whole.answers[0]);
    let [gap] = &answer.unscored[..] else { panic!("{answer:?}") };
    for max_length in 1..prompt + answer.ids.len() + 3 {
        let short = Encoder::from_model(&tiny("tiny-qwen2"), None, max_length, ROWS).unwrap();
        match encode(&short.with_sft_on(Some(SftPart::Assistant)), &talk()).unwrap() {
            Encoded::Dropped { reason, .. } => {
                assert_eq!(reason, DropReason::NoRoom { prompt_tokens: prompt, max_length });
                assert!(max_length <= prompt);
            }
            Encoded::Kept(row) => {
                let room = (max_length - prompt).min(answer.ids.len());
                let expected = if gap.start < room && room <= gap.end { gap.start } else { room };
                assert_eq!((row.answers[0].kept, &row.answers[0].ids), (expected, &answer.ids));
                let scored = (0..expected).filter(|i| !gap.contains(i)).count();
                assert_eq!(row.answers[0].scored_tokens(), scored);
            }
        }
    }
}

#[test]
fn texts_end_with_eos_and_begin_with_what_predicts() {
    let encoder = encoder("tiny-llama");
    let row = kept(&encoder, &json!({"text": "one two"}));
    let (_, eos) = encoder.tokenizer().eos().unwrap();
    assert_eq!((row.prompt.len(), row.answers[0].ids.last()), (1, Some(&eos)));
    let already = kept(&encoder, &json!({"text": "one two<|end_of_text|>"}));
    let named = encoder.tokenizer().eos().unwrap().0 == "<|end_of_text|>";
    assert_eq!(already.answers == row.answers, named);

    // a BOS token would predict EOS; without one, EOS is alone, and nothing is scored
    let without_bos = self::encoder("tiny-qwen2");
    match encode(&without_bos, &json!({"text": ""})).unwrap() {
        Encoded::Dropped { reason: DropReason::NothingScored, .. } => {}
        other => panic!("{other:?}"),
    }
    // a completion without a prompt is scored from its second token, as a text
    let completion = kept(&without_bos, &json!({"prompt": "", "completion": "one two"}));
    let text = kept(&without_bos, &json!({"text": "one two"}));
    assert_eq!((completion.prompt, completion.answers), (text.prompt, text.answers));
}

fn open(rows: &[Value], encoder: Encoder, kind: impl Into<Option<RowKind>>) -> Result<Dataset, DataError> {
    let file = file(rows);
    Dataset::open(&[file.path().to_owned()], encoder, kind, OnBadRow::Error)
}

#[test]
fn a_part_that_the_rows_have_not_is_refused() {
    let refused = |row: Value, kind: Option<RowKind>, part| match open(
        &[row],
        encoder("tiny-llama").with_sft_on(Some(part)),
        kind,
    ) {
        Err(DataError::WrongPart { line: 1, needs, .. }) => needs,
        other => panic!("{other:?}"),
    };
    let pair = json!({"prompt": "p", "chosen": "c", "rejected": "r"});
    assert!(refused(pair.clone(), Some(RowKind::Pair), SftPart::All).contains("is for sequences"));
    assert!(refused(pair, Some(RowKind::Sequence), SftPart::Assistant).contains("conversations"));
    assert!(refused(talk(), Some(RowKind::Sequence), SftPart::Completion).contains("a prompt and a completion"));
    assert!(refused(json!({"text": "t"}), None, SftPart::Assistant).contains("conversations"));
    match open(&[json!({"prompt": "p", "completion": "c", "label": true})], encoder("tiny-llama"), RowKind::Sequence) {
        Err(DataError::WrongShape { needs, .. }) => assert!(needs.contains("{messages}")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_survey_says_what_is_scored() {
    let sequences = |row: Value, part, kind: Option<RowKind>| {
        let data = open(&[row], encoder("tiny-qwen2").with_sft_on(part), kind).unwrap();
        let survey = data.survey();
        (survey.sequences.unwrap(), survey.scored_tokens, survey.answer_tokens)
    };
    let (found, scored, read) = sequences(talk(), Some(SftPart::Assistant), Some(RowKind::Sequence));
    assert_eq!((found.part, found.spans), (SftPart::Assistant, Some(SpanSource::TurnByTurn)));
    assert!(scored < read);
    let (found, scored, read) = sequences(talk(), None, None);
    assert_eq!((found.part, found.spans, found.chosen_alone, scored), (SftPart::All, None, false, read));
    let pair = json!({"prompt": "p", "chosen": " c", "rejected": " r"});
    let (found, ..) = sequences(pair.clone(), None, Some(RowKind::Sequence));
    assert_eq!((found.part, found.chosen_alone), (SftPart::Completion, true));
    let data = open(&[pair], encoder("tiny-qwen2"), RowKind::Sequence).unwrap();
    let row = &data.rows(&data.order(Shuffle::Off, 0)).unwrap()[0];
    let alone = kept(&encoder("tiny-qwen2"), &json!({"prompt": "p", "completion": " c"}));
    assert_eq!((&row.prompt, &row.answers), (&alone.prompt, &alone.answers));
}

#[test]
fn numbers_stand_beside_a_pair_and_are_counted() {
    let row = |more: Value| {
        let mut row = json!({"prompt": "p", "chosen": " c", "rejected": " r"});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let rows = [
        row(json!({"weight": 0, "margin": -1.5})),
        row(json!({"weight": null, "prob_win_chosen": 0.75, "prob_win_rejected": 1})),
    ];
    let data = open(&rows, encoder("tiny-llama"), RowKind::Pair).unwrap();
    let numbers = data.survey().numbers;
    assert_eq!((numbers.weight, numbers.margin, numbers.win_probability), (1, 1, 1));
    assert!(data.survey().ignored_columns.is_empty());
    let encoded = data.rows(&[0, 1]).unwrap();
    assert_eq!((encoded[0].numbers.weight, encoded[0].numbers.margin), (Some(0.0), Some(-1.5)));
    let second = encoded[1].numbers;
    assert_eq!((second.weight_or_one(), second.margin_or_zero()), (1.0, 0.0));
    assert_eq!(second.win_probability, Some([0.75, 1.0]));
    // labelled rows do not read these numbers
    let labelled = json!({"prompt": "p", "completion": " c", "label": true, "weight": "heavy"});
    let data = open(&[labelled], encoder("tiny-llama"), RowKind::Labelled).unwrap();
    assert_eq!(data.survey().ignored_columns.get("weight"), Some(&1));
}

#[test]
fn columns_may_have_other_names() {
    let map = |text: &str| text.parse::<ColumnMap>().unwrap();
    let mapped = |text: &str| encoder("tiny-llama").with_reading(map(text).into());
    let rows =
        [json!({"question": "p", "a": " c", "b": " r", "prompt": 3}), json!({"a": "p\n\nBot: c", "b": "p\n\nBot: r"})];
    let data = open(&rows, mapped("prompt=question,chosen=a,rejected=b"), RowKind::Pair).unwrap();
    assert_eq!(data.len(), 2);
    assert_eq!(data.survey().ignored_columns.iter().collect::<Vec<_>>(), [(&"prompt".to_owned(), &1)]);
    let named = open(&[json!({"prompt": "p", "chosen": " c", "rejected": " r"})], encoder("tiny-llama"), RowKind::Pair);
    let ids = |data: &Dataset| data.rows(&[0]).unwrap();
    assert_eq!(ids(&data), ids(&named.unwrap()));

    match open(&rows, mapped("prompt=qestion,chosen=a,rejected=b"), RowKind::Pair) {
        Err(DataError::NoSuchColumn { name: "prompt", column, .. }) => assert_eq!(column, "qestion"),
        other => panic!("{other:?}"),
    }
    let said = |row: Value, text: &str| match open(&[row], mapped(text), None) {
        Err(DataError::Row { reason, .. }) => reason.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(said(json!({"q": 3, "completion": "c"}), "prompt=q").contains("`q` is a number"));
    assert!(said(json!({"completion": "c"}), "prompt=q").contains("`q` is missing"));
    assert!(said(json!({"question": "c"}), "prompt=q").contains("columns {question}"));
    assert!(said(json!({"t": ["x"]}), "text=t").contains("`t` is a list"));

    let file = file(&rows[..1]);
    let paths = [file.path().to_owned()];
    assert_eq!(prompts(&paths, &mapped("prompt=question"), None).unwrap().len(), 1);
    let unseen = prompts(&paths, &mapped("prompt=question,tools=x"), None);
    assert!(matches!(unseen, Err(DataError::NoSuchColumn { name: "tools", .. })), "{unseen:?}");
}

#[test]
fn conversations_are_brought_to_one_form() {
    let parse = |row: Value| Record::parse(0, row.to_string().as_bytes()).unwrap().record;
    let turns_of = |text: &Text| match text {
        Text::Turns(turns) => Value::from(turns.clone()),
        Text::Plain(text) => panic!("{text}"),
    };
    let share = |from: &str, value: &str| json!({"from": from, "value": value, "weight": 1});
    let roles = ["human", "user", "gpt", "assistant", "chatgpt", "bing", "system", "tool", "observation", "function"];
    let all: Value = roles.iter().map(|role| share(role, "x")).collect();
    let record = parse(json!({"conversations": all}));
    let became = ["user", "user", "assistant", "assistant", "assistant", "assistant", "system", "tool", "tool", "tool"];
    let expected: Value = became.iter().map(|role| json!({"role": role, "content": "x", "weight": 1})).collect();
    assert_eq!(turns_of(&record.answers[0]), expected);

    let parts = json!([{"type": "text", "text": "a"}, {"text": "b"}, "c", {"type": "text", "text": ""}]);
    let record = parse(json!({
        "prompt": [{"role": "user", "content": parts, "name": null}],
        "chosen": {"from": "gpt", "value": "one turn alone"},
        "rejected": [{"role": "assistant", "content": null, "tool_calls": [], "from": "kept"}],
    }));
    assert_eq!(turns_of(&record.prompt), json!([{"role": "user", "content": "abc"}]));
    assert_eq!(turns_of(&record.answers[0]), json!([{"role": "assistant", "content": "one turn alone"}]));
    assert_eq!(turns_of(&record.answers[1]), json!([{"role": "assistant", "tool_calls": [], "from": "kept"}]));
    // `messages` is read, and `conversations` is reported as unread
    let both = json!({"messages": turns(&[("user", "a")]), "conversations": []});
    let parsed = Record::parse(0, both.to_string().as_bytes()).unwrap();
    assert_eq!(parsed.ignored_columns, ["conversations"]);
}

#[test]
fn tools_choose_the_template_made_for_them() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(tiny("tiny-llama").join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let list = json!([
        {"name": "default", "template": "default {{ tools is none }} {{ think }}"},
        {"name": "tool_use", "template": "tools {{ tools | length }} {{ bos_token }}"},
    ]);
    let config = json!({"chat_template": list, "bos_token": "<b>"});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let said = |more: Value| {
        let mut row = json!({"messages": turns(&[("user", "a"), ("assistant", "b")])});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let encoder = Encoder::from_model(dir.path(), None, 64, ROWS).unwrap();
        let record = encoder.parse(0, row.to_string().as_bytes()).unwrap().record;
        let Text::Turns(turns) = &record.answers[0] else { panic!("turns") };
        encoder
            .template()
            .unwrap()
            .render_with(turns, crate::tokens::template::GenerationPrompt::Omit, &record.inputs)
            .unwrap()
    };
    assert_eq!(said(json!({})), "default True ");
    assert_eq!(said(json!({"tools": null, "chat_template_kwargs": {"think": "deep"}})), "default True deep");
    assert_eq!(said(json!({"tools": "[{}, {}]", "chat_template_kwargs": {"bos_token": "<own>"}})), "tools 2 <own>");
    std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), "beside").unwrap();
    std::fs::write(dir.path().join("additional_chat_templates/tool_use.jinja"), "tools beside").unwrap();
    assert_eq!(said(json!({"tools": []})), "tools beside");
    assert_eq!(said(json!({})), "beside");
}

#[test]
fn what_is_continued_of_a_row() {
    let said = |row: Value| {
        let record = Record::parse(0, row.to_string().as_bytes()).unwrap().record;
        record.to_continue().map(|text| match text {
            Text::Turns(turns) => turns.len(),
            Text::Plain(text) => text.len(),
        })
    };
    assert_eq!(said(json!({"messages": turns(&[("user", "a"), ("assistant", "b"), ("assistant", "c")])})), Ok(1));
    assert_eq!(said(talk()), Ok(5));
    assert_eq!(said(json!({"prompt": "pp", "completion": "c"})), Ok(2));
    let nothing = |shape| Err(BadRow::NothingToContinue { shape });
    assert_eq!(said(json!({"messages": turns(&[("assistant", "b")])})), nothing("{messages}"));
    assert_eq!(said(json!({"text": "t"})), nothing("{text}"));
}

/// Eight times the text must take less than 32 times as long. If the time grew with the square of the length, it would take 64
/// times as long.
#[test]
fn long_rows_take_time_in_proportion() {
    for name in ["tiny-qwen2", "tiny-llama", "tiny-mistral"] {
        let encoder = encoder(name);
        let marked = with_template(name, CHATML_WITH_MARKS).with_sft_on(Some(SftPart::Assistant));
        let time = |characters: usize| {
            let text = "Ünï 🙂 text, ".repeat(characters / 13);
            let say = |i: usize| if i.is_multiple_of(2) { ("user", &text[..]) } else { ("assistant", &text[..]) };
            let started = Instant::now();
            kept(&encoder, &json!({"prompt": &text, "completion": &text}));
            kept(&encoder, &json!({"text": &text}));
            kept(&marked, &json!({"messages": turns(&[say(0), say(1), say(0), say(1)])}));
            started.elapsed().as_secs_f64()
        };
        time(1_000);
        // the best of three, since other programs may slow a run down
        let best = |characters| (0..3).map(|_| time(characters)).fold(f64::INFINITY, f64::min);
        let (short, long) = (best(12_500), best(100_000));
        assert!(long < 8.0 * 4.0 * short, "{name}: {short} s for an eighth, {long} s for the whole");
    }
}

/// Whether decoding gives the text back. Some tokenizers compose letters, and some have no token for a control character.
fn reversible(encoder: &Encoder, text: &str) -> bool {
    let ids = encoder.tokenizer().encode_rendered(text).unwrap();
    encoder.tokenizer().decode(&ids, SpecialTokens::Keep).unwrap() == text
}

/// Letters that tokenizers and templates are known to stumble over: combining, right to left, zero width, beyond the first plane
/// of Unicode.
fn letters() -> impl Strategy<Value = String> {
    let one = prop_oneof![
        4 => "[a-z ]{1,8}",
        1 => prop::sample::select(vec!["é", "e\u{301}", "שלום", "مرحبا", "\u{200b}", "\u{200d}", "👩\u{200d}🚀", "𝔘", "\u{fffd}", "\n\n",
            "\t", "ß", "\u{202e}", "한", "\u{feff}", "\u{fdd0}", "\r\n", "x\u{0}y"]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(one, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Prompt and answer together are the tokens of the row's whole text, with BOS before them (if the tokenizer adds it) and EOS
    /// after them.
    #[test]
    fn a_row_of_strings_is_the_tokens_of_its_text(prompt in letters(), completion in letters(), model in 0usize..4) {
        let name = ["tiny-qwen2", "tiny-llama", "tiny-gemma2", "tiny-mistral"][model];
        let encoder = encoder(name);
        let (eos, eos_id) = encoder.tokenizer().eos().unwrap();
        let (eos, special) = (eos.to_owned(), encoder.tokenizer().special_tokens().to_vec());
        let holds_special = |text: &str| special.iter().any(|(_, token)| text.contains(token.as_str()));
        prop_assume!(!holds_special(&prompt) && !holds_special(&completion));
        let whole = encoder.tokenizer().encode_plain(&format!("{prompt}{completion}{eos}")).unwrap();
        let bos = encoder.tokenizer().encode_plain("").unwrap();
        for row in [json!({"prompt": &prompt, "completion": &completion}), json!({"text": format!("{prompt}{completion}")})] {
            match encode(&encoder, &row).unwrap() {
                Encoded::Kept(row) => {
                    let ids = [&row.prompt[..], &row.answers[0].ids].concat();
                    prop_assert_eq!(&ids, &whole);
                    prop_assert!(ids.starts_with(&bos) && ids.last() == Some(&eos_id));
                    prop_assert!(!row.prompt.is_empty() && row.answers[0].unscored.is_empty());
                    prop_assert!(!row.answers[0].is_cut());
                    if reversible(&encoder, &format!("{prompt}{completion}")) {
                        let text = encoder.tokenizer().decode(&ids[bos.len()..ids.len() - 1], SpecialTokens::Keep).unwrap();
                        prop_assert_eq!(text, format!("{prompt}{completion}"));
                    }
                }
                Encoded::Dropped { reason, .. } => {
                    prop_assert_eq!(reason, DropReason::NothingScored);
                    prop_assert_eq!(whole.len(), 1);
                }
            }
        }
    }

    /// Whatever is scored, the ids are those of the whole conversation, up to the last scored token. If the assistant's turns are
    /// scored, the scored text is what the assistant says.
    #[test]
    fn a_conversation_is_its_template(contents in prop::collection::vec(letters(), 2..7)) {
        let unmarked = CHATML_WITH_MARKS.replace("{% generation %}", "").replace("{% endgeneration %}", "");
        let encoders = [CHATML_WITH_MARKS, &unmarked].map(|t| with_template("tiny-qwen2", t));
        let special = encoders[0].tokenizer().special_tokens().to_vec();
        prop_assume!(!contents.iter().any(|text| special.iter().any(|(_, token)| text.contains(token.as_str()))));
        let said: Vec<(&str, &str)> =
            contents.iter().enumerate().map(|(i, text)| (["user", "assistant"][i % 2], &text[..])).collect();
        // blanks at the start of a text could form one token with the line break before it
        prop_assume!(contents.iter().all(|text| !text.starts_with(char::is_whitespace) && reversible(&encoders[0], text)));
        let row = json!({"messages": turns(&said)});
        let text: String = said.iter().map(|(role, text)| format!("<|im_start|>{role}\n{text}<|im_end|>\n")).collect();
        let whole = encoders[0].tokenizer().encode_rendered(&text).unwrap();
        let all = kept(&encoders[0], &row);
        prop_assert_eq!([&all.prompt[..], &all.answers[0].ids].concat(), whole.clone());
        let [marks, by_turns] = encoders.map(|encoder| encoder.with_sft_on(Some(SftPart::Assistant)));
        let found = kept(&marks, &row);
        prop_assert_eq!(&found, &kept(&by_turns, &row));
        prop_assert!(whole.starts_with(&[&found.prompt[..], &found.answers[0].ids].concat()));
        let words: Vec<String> = said.iter().skip(1).step_by(2).map(|(_, text)| format!("{text}<|im_end|>\n")).collect();
        prop_assert_eq!(scored(&marks, &found), words);
    }

    /// Whatever names a map gives to the columns, the row is read as with the usual names.
    #[test]
    fn other_names_change_nothing(prompt in letters(), completion in letters(), names in prop::array::uniform2("[a-zé_. ]{1,9}[0-9]")) {
        prop_assume!(names[0].trim() != names[1].trim() && !names.iter().any(|name| name.trim() != name));
        let map: ColumnMap = format!("prompt={},completion={}", names[0], names[1]).parse().unwrap();
        let mut row = serde_json::Map::new();
        row.insert(names[0].clone(), prompt.clone().into());
        row.insert(names[1].clone(), completion.clone().into());
        let mapped = Record::parse_with(0, Value::from(row).to_string().as_bytes(), &map.into()).unwrap();
        let own = Record::parse(0, json!({"prompt": prompt, "completion": completion}).to_string().as_bytes()).unwrap();
        prop_assert_eq!(&mapped.record.answer_columns[0], &names[1]);
        prop_assert_eq!(Record { answer_columns: own.record.answer_columns.clone(), prompt_column: own.record.prompt_column.clone(), ..mapped.record }, own.record);
        prop_assert!(mapped.ignored_columns.is_empty());
    }
}
