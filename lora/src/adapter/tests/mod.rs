//! Tests that adapters are made, read and written, and that broken ones are refused.

mod faults;
pub(super) mod fixtures;
mod goldens;
mod options;
mod rewards;

use super::*;
use fixtures::*;
