//! Adapters that are read, written and made, and those that are refused.

mod faults;
pub(super) mod fixtures;
mod goldens;
mod options;
mod rewards;

use super::*;
use fixtures::*;
