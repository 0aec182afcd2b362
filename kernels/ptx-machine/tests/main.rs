//! Tests the machine on small kernels: what they compute, what the checkers find in them, and what is counted. Also tests the tool
//! `ptx`.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod atomics;
mod checkers;
mod collective;
mod compiled;
mod counts;
mod divergence;
mod kernel;
mod matrices;
mod memory;
mod model;
mod refusals;
mod tool;
