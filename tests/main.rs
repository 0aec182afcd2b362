//! Tests of the whole program: comparison with numbers from other software, equalities, hostile files, the command line.

mod align;
mod architecture;
mod cases_adapters;
mod cases_foreign;
mod cases_longrope;
mod cases_losses;
mod cases_models;
mod cases_records;
mod cases_run;
mod cases_sanity;
mod cases_sources;
mod cases_tokens;
mod cli;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda;
mod equalities;
mod estimate;
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
mod shapes;
mod sources;
mod train_runs;
mod watched_run;
