//! A turn of a conversation: who speaks, and what is said.

use serde_json::Value;

/// The roles that templates know, each with the names that data sets use for it.
const SPEAKERS: [(&str, &[&str]); 4] = [
    ("user", &["human", "user", "prompter"]),
    (ASSISTANT, &["assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "chatbot", "ai"]),
    ("system", &["system"]),
    ("tool", &["tool", "observation", "function"]),
];

/// Names that stay as they are if they are a turn's `role`, since some templates treat them specially.
pub(crate) const OF_TEMPLATES: [&str; 2] = ["observation", "function"];

/// Further roles that templates know.
pub(crate) const TEMPLATE_ROLES: [&str; 3] = ["developer", "ipython", "environment"];

/// Returns the role that templates know for a speaker with this name. `None` if the name is unknown. Case and blanks around the
/// name do not matter.
pub(crate) fn speaker(name: &str) -> Option<&'static str> {
    let name = name.trim();
    let has_name = |(_, names): &(&str, &[&str])| names.iter().any(|theirs| theirs.eq_ignore_ascii_case(name));
    SPEAKERS.into_iter().find(has_name).map(|(role, _)| role)
}

/// The role of the turns that a model writes.
pub(crate) const ASSISTANT: &str = "assistant";

/// Makes a turn in which `role` says `content`.
pub(crate) fn said_by(role: &str, content: &str) -> Value {
    serde_json::json!({"role": role, "content": content})
}

/// Returns the content of a turn if it is a text.
pub(crate) fn content_of(turn: &Value) -> Option<&str> {
    turn.get("content").and_then(Value::as_str)
}

/// Returns the function of a call or a tool: its field `function`, or the value itself.
pub(crate) fn function(call: &Value) -> &Value {
    call.get("function").unwrap_or(call)
}

/// Returns what [`function`] returns, but mutable. Also returns the value itself if its field `function` is not an object.
pub(crate) fn function_mut(call: &mut Value) -> &mut Value {
    if call.get("function").is_some_and(Value::is_object) { &mut call["function"] } else { call }
}

/// Returns the turns before the assistant's last turns. Returns all turns if no turn is before them, or if the assistant has no
/// turn.
pub(crate) fn before_last_said(turns: &[Value]) -> &[Value] {
    let end = turns.iter().rposition(is_assistant).map_or(0, |last| last + 1);
    let start = turns[..end].iter().rposition(|turn| !is_assistant(turn)).map_or(0, |before| before + 1);
    if start == 0 { turns } else { &turns[..start] }
}

/// Returns the role of a turn. Empty if it has none.
pub(crate) fn role_of(turn: &Value) -> &str {
    turn.get("role").and_then(Value::as_str).unwrap_or_default()
}

/// Whether turns may have this role once they are read.
pub(crate) fn is_known_role(role: &str) -> bool {
    let is_own = SPEAKERS.iter().any(|(own, _)| *own == role);
    is_own || OF_TEMPLATES.contains(&role) || TEMPLATE_ROLES.contains(&role)
}

/// Whether a value has a role: it is then a turn, and not a part of one.
pub(crate) fn has_role(value: &Value) -> bool {
    value.get("role").is_some() || value.get("from").is_some()
}

/// Whether the turn is one of the system. The role `developer` counts as such.
pub(crate) fn is_system(turn: &Value) -> bool {
    matches!(role_of(turn), "system" | "developer")
}

/// Whether the turn is one of the assistant.
pub(crate) fn is_assistant(turn: &Value) -> bool {
    role_of(turn) == ASSISTANT
}

/// Returns the roles that ShareGPT's `from` may name, for messages.
pub(crate) fn known_roles() -> String {
    SPEAKERS.map(|(_, names)| names.join(", ")).join(", ")
}
