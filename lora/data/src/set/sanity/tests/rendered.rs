//! Tests that parts of a row that the chat template leaves out are found.

use super::*;
use crate::record::bad_row::BadRow;
use crate::row::RowKind;
use crate::tokens::sft_part::SftPart;

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
fn calls_and_middles_that_a_template_leaves_out_are_found() {
    let legacy = json!({"role": "assistant", "content": "Let me see.", "function_call": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}});
    assert_eq!(findings(Some(ANY), pair(legacy)), [left_out(TurnPart::CallName), left_out(TurnPart::CallArguments)]);
    let cuts = "{% for m in messages %}{{ m.role }}: {% if '<box>' in m.content %}{{ m.content.split('<box>')[0] }}\
                {{ m.content.split('</box>')[-1] }}{% else %}{{ m.content }}{% endif %}\n{% endfor %}";
    let middle = says("The answer to all that is the following: <box>forty-two</box> as you may have known.");
    assert_eq!(findings(Some(cuts), pair(middle.clone())), [left_out(TurnPart::ContentMiddle)]);
    assert_eq!(findings(Some(ANY), pair(middle)), []);
    assert_eq!(findings(Some(ANY), pair(says(&"ä ö ü > ß ".repeat(30)))), []);
    // parts of the answer are tried first, so a prompt with many parts does not use up the tries
    let prompt: Vec<Value> = (0..20).map(|i| calls("hm", "f", json!({"i": i}))).chain([user("q")]).collect();
    let row = json!({"prompt": prompt, "chosen": [calls("hm", "g", json!({"i": 1}))], "rejected": [says("r")]});
    let found = findings(Some(ANY), row);
    assert!(found.contains(&left_out(TurnPart::CallName)), "{found:?}");
}

/// Templates may cut the thoughts of earlier turns, unless these turns are scored.
#[test]
fn thoughts_of_earlier_turns_are_no_loss() {
    let earlier = json!({"prompt": [user("q"), says("<think>hm</think>a"), user("q2")], "chosen": [says("c")], "rejected": [says("r")]});
    assert_eq!(findings(Some(NO_THOUGHTS), earlier), []);
    let talk = json!({"messages": [user("q"), says("<think>hm</think>a"), user("q2"), says("<think>hm</think>b")]});
    // all turns of a conversation are scored, and the first answer would be learned without its thoughts
    assert_eq!(findings(Some(ALL), talk.clone()), [left_out(TurnPart::ContentStart)]);
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

/// An answer that the template leaves out entirely makes the row bad: the model would learn to say nothing.
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
        for kind in [RowKind::Pair, RowKind::Sequence] {
            match open(encoder(Some(template)), &[pair(answer.clone())], kind) {
                Err(DataError::Row { line: 1, reason: BadRow::AnswerNotRendered { field, parts }, .. }) => {
                    assert_eq!((&field[..], &parts[..]), ("chosen", held));
                }
                other => panic!("{answer}: {other:?}"),
            }
        }
    }
    let rejected = json!({"prompt": [user("q")], "chosen": [says("c")], "rejected": [calls("", "f", json!({"a": 1}))]});
    let error = open(encoder(Some(ANY)), &[rejected], RowKind::Pair).unwrap_err();
    assert!(error.to_string().contains("`rejected`: the chat template renders nothing of the answer"), "{error}");
    let nothing =
        "{% for m in messages %}{{ m.role }}{% if m.role == 'user' %}{{ m.content }}{% endif %}\n{% endfor %}";
    let labelled = json!({"prompt": [user("q")], "completion": [says("c")], "label": true});
    let error = open(encoder(Some(nothing)), &[labelled], RowKind::Labelled).unwrap_err();
    assert!(matches!(error, DataError::NothingRendered { rows: 1, .. }), "{error}");
}

/// If only the assistant's part is scored, text outside the template's `{% generation %}` marks is not learned.
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
        let data = open(encoder, std::slice::from_ref(row), RowKind::Sequence).unwrap();
        data.survey().warnings.iter().map(|warning| warning.finding.clone()).collect::<Vec<_>>()
    };
    let not_marked =
        [TurnPart::Reasoning, TurnPart::CallName, TurnPart::CallArguments].map(|part| Finding::NotMarked { part });
    for row in [json!({"messages": [user("q"), answer]}), json!({"prompt": [user("q")], "completion": [answer]})] {
        assert_eq!(found(&marks("", more), &row, Some(SftPart::Assistant)), not_marked, "{row}");
        assert_eq!(found(&marks(more, ""), &row, Some(SftPart::Assistant)), [], "{row}");
        assert_eq!(found(&marks("", more), &row, None), [], "{row}");
    }
    // text that is not printed at all is another finding
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
