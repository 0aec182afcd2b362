//! Tests scored turns of other speakers, turn marks within a turn, and null arguments of calls.

use super::*;
use crate::record::reading::{Reading, Texts};
use crate::row::RowKind;
use crate::tokens::sft_part::SftPart;

/// Finds other speakers in the scored part, a turn of the assistant right before it, and conversations without the assistant.
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
    let data = open(assistant, &[completion], RowKind::Sequence).unwrap();
    assert_eq!(data.survey().warnings, []);
    let alone = json!({"messages": [user("q"), user("and more")]});
    assert_eq!(findings(Some(ANY), alone), [Finding::NoAssistantTurn]);
    assert_eq!(findings(Some(ANY), json!({"messages": [user("q"), says("a")]})), []);
}

/// With `--chat`, a text that is a conversation already is reported.
#[test]
fn turn_marks_within_a_turn_are_found() {
    let found = |prompt: &str| {
        let row = json!({"prompt": prompt, "chosen": " c", "rejected": " r"});
        let reading = Reading { texts: Texts::AsTurns, ..Reading::default() };
        let data = open(encoder(Some(ANY)).with_reading(reading), &[row], RowKind::Pair).unwrap();
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
    // a null within an object or a list is found only if the tool lists the properties there
    let inner = |property: &str| json!({"type": "object", "properties": {property: {}}});
    for (arguments, closed) in [
        (json!({"a": {"k": 1, "z": null}}), json!({"a": inner("k")})),
        (json!({"a": [{"k": 1}, {"k": 1, "z": null}]}), json!({"a": {"type": "array", "items": inner("k")}})),
    ] {
        assert_eq!(findings(Some(ALL), row(arguments.clone(), tool(closed))), [Finding::NullArgument], "{arguments}");
        assert_eq!(
            findings(Some(ALL), row(arguments.clone(), tool(json!({"a": {"type": "object"}})))),
            [],
            "{arguments}"
        );
    }
    assert_eq!(findings(Some(ALL), row(json!({"a": {"z": null}}), tool(json!({"a": inner("z")})))), []);
}
