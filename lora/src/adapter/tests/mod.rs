//! Adapters that are read, written and made, and those that are refused.

mod faults;
mod goldens;
mod options;
mod rewards;

use super::fixtures::*;
use super::*;
