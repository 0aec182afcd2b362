//! Tests of the whole: the binary against numbers from other software, equalities, hostile files, the command line.

mod align;
mod architecture;
mod cases_adapters;
mod cases_losses;
mod cases_models;
mod cases_run;
mod cases_sanity;
mod cases_sources;
mod cases_tokens;
mod cli;
mod equalities;
mod every_loss;
mod extra_goldens;
mod golden_rows;
mod goldens;
mod gradients;
mod hostile;
mod memory;
mod readme;
mod reference_cache;
mod reward_model;
mod rows;
mod sources;
mod train_runs;
mod watched_run;
