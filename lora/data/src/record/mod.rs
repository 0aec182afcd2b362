//! From the bytes of a row to a [`Record`](records::Record): columns, shape, turns, numbers.

pub(crate) mod bad_row;
pub(crate) mod column_search;
pub(crate) mod columns;
pub(crate) mod decided;
pub(crate) mod numbers;
pub(crate) mod python_literal;
pub(crate) mod reading;
pub(crate) mod records;
pub(crate) mod repeated_prompt;
pub(crate) mod row_layout;
pub(crate) mod shape;
pub(crate) mod template_inputs;
pub(crate) mod text;
pub(crate) mod tool_schemas;
pub(crate) mod turn;
pub(crate) mod turn_marker;
pub(crate) mod turns;
