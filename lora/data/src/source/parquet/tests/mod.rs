//! Tests of Parquet files that a writer makes, and of files that no writer makes.

mod by_hand;
mod json;
mod round_trip;
