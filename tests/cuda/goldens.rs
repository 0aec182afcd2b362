//! Compares a card with the goldens of TRL, PEFT and torch, within the tolerances of the processor: with the short goldens always,
//! and with all if `ALIGN_GOLDENS_CUDA` is `all`.

use super::{Driver, LATE, on_a_card};
use crate::align::Run;
use crate::goldens::{Chosen, Golden, Goldens, all, check_generation, check_kto, check_logps, check_trajectories};
use crate::gradients::{WITH_GRADIENT, World};

/// Checks goldens through runs of `align-cli` on a card.
fn through_runs(goldens: Goldens<'_>, check: impl Fn(&Goldens<'_>)) {
    let driver = Driver::new();
    let run = |arguments: &[&str]| -> Run { driver.run(LATE, &[arguments, &["--device", "cuda"]].concat()) };
    check(&Goldens { run: &run, ..goldens });
}

/// Checks losses, which take one pass of a model, and gradients on a card of this process.
fn check_losses_and_gradients(goldens: Goldens<'_>, chosen: Chosen) {
    goldens.for_each("losses.json", |golden, losses| {
        on_a_card(|device| {
            let world = World::open(golden, device);
            world.check_losses(&losses);
            world.check_gradients(chosen(golden, &WITH_GRADIENT));
        });
    });
}

/// Returns one loss of the list. The models take them in turn: a pass over pairs is the same for all losses, and the machine is
/// slow.
fn in_turn(golden: &Golden<'_>, losses: &'static [&'static str]) -> &'static [&'static str] {
    let nth = golden.nth % losses.len();
    &losses[nth..=nth]
}

/// Returns these goldens if `ALIGN_GOLDENS_CUDA` is `all`, otherwise `None`: the machine takes hours for them.
fn if_all(goldens: Goldens<'static>) -> Option<Goldens<'static>> {
    match std::env::var("ALIGN_GOLDENS_CUDA") {
        Ok(which) => {
            assert_eq!(which, "all", "ALIGN_GOLDENS_CUDA");
            Some(goldens)
        }
        Err(_) => {
            eprintln!("skipped: ALIGN_GOLDENS_CUDA is not `all`");
            None
        }
    }
}

#[test]
fn short_logps_are_those_of_torch() {
    through_runs(Goldens::short(), check_logps);
}

#[test]
fn short_losses_and_gradients_are_those_of_torch() {
    check_losses_and_gradients(Goldens::short(), in_turn);
}

#[test]
fn short_trajectories_are_those_of_trl() {
    through_runs(Goldens::short(), |goldens| check_trajectories(goldens, in_turn));
}

#[test]
fn all_short_goldens_agree() {
    if let Some(goldens) = if_all(Goldens::short()) {
        check_losses_and_gradients(goldens, all);
        through_runs(goldens, |goldens| check_trajectories(goldens, all));
        through_runs(goldens, check_kto);
    }
}

#[test]
fn long_logps_are_those_of_torch() {
    if let Some(goldens) = if_all(Goldens::tiny()) {
        through_runs(goldens, check_logps);
    }
}

#[test]
fn long_losses_and_gradients_are_those_of_torch() {
    if let Some(goldens) = if_all(Goldens::tiny()) {
        check_losses_and_gradients(goldens, all);
    }
}

#[test]
fn long_kto_is_that_of_trl() {
    if let Some(goldens) = if_all(Goldens::tiny()) {
        through_runs(goldens, check_kto);
    }
}

#[test]
fn long_generation_is_that_of_transformers() {
    if let Some(goldens) = if_all(Goldens::tiny()) {
        through_runs(goldens, check_generation);
    }
}

#[test]
fn long_trajectories_are_those_of_trl() {
    if let Some(goldens) = if_all(Goldens::tiny()) {
        through_runs(goldens, |goldens| check_trajectories(goldens, all));
    }
}
