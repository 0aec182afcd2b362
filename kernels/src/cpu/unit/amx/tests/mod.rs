//! What stands in for the unit in the tests of all that uses it.

pub(super) mod emulator;
