//! An emulator of the unit, for the tests of all code that uses the unit.

pub(super) mod emulator;
