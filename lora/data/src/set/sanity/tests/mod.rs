//! Tests which faults are found in rows, and which rows cause no warning.

mod prompts;
mod rendered;
mod repeated;
mod texts;
mod turns;
mod warnings;

use serde_json::{Value, json};

use super::{Finding, TurnPart, Warning};
use crate::row::RowKind;
use crate::set::dataset::Dataset;
use crate::set::error::DataError;
use crate::set::options::OnBadRow;
use crate::tests::{ROWS, file, tiny, written};
use crate::tokens::encode::Encoder;

/// A chat template that prints only roles and contents.
const ANY: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                   {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
/// A chat template that cuts thoughts out of the assistant's turns.
const NO_THOUGHTS: &str = "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c %}\
                           {% set c = c.split('</think>')[-1] %}{% endif %}<|im_start|>{{ m.role }}\n{{ c | trim }}<|im_end|>\n{% endfor %}";
/// A chat template that prints everything, escaped and trimmed, except thoughts of turns before the last one.
const ALL: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}: \
                   {% set c = m.content or '' %}{% if not loop.last and '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}\
                   {% if loop.last and m.reasoning_content %}<think>{{ m.reasoning_content | trim }}</think>{% endif %}{{ c | trim | tojson }}\
                   {% for call in m.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}\n{% endfor %}\
                   {% if enable_thinking %}think{% endif %}";

fn encoder(template: Option<&str>) -> Encoder {
    let file = template.map(|source| written(source.as_bytes()));
    Encoder::from_model(&tiny("tiny-qwen2"), file.as_ref().map(|file| file.path()), 512, ROWS).unwrap()
}

fn open(encoder: Encoder, rows: &[Value], kind: impl Into<Option<RowKind>>) -> Result<Dataset, DataError> {
    let file = file(rows);
    Dataset::open(&[file.path().to_owned()], encoder, kind, OnBadRow::Error)
}

fn warnings(template: Option<&str>, rows: &[Value]) -> Vec<Warning> {
    open(encoder(template), rows, None).unwrap().survey().warnings.clone()
}

/// Returns the findings for one row without [`Finding::NoStop`], which the short templates here cause.
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
