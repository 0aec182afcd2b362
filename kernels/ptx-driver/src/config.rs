//! The description of a card, of its driver, and of how both behave, parsed from a string such as
//! `memory=16777216;mode=late;race=1`.

use ptx_machine::{Arrival, Checks, Schedule, Settings};

/// A card, and how it behaves.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub name: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Compute capability, e.g. 89 for 8.9.
    pub capability: i32,
    pub multiprocessors: i32,
    /// Maximum number of bytes of shared memory of a block, declared and dynamic together.
    pub shared: u32,
    /// The driver's version as it reports it, e.g. 12040.
    pub driver: i32,
    pub mode: Mode,
    pub settings: Settings,
    /// Whether launches run. If they do not, a program gets through all its requests for memory in milliseconds.
    pub launches: bool,
    /// How many blocks of each launch run: the last ones. `None` if all run.
    pub last: Option<u32>,
    /// Whether new memory holds zeros that count as written. The host then has pages only for what is written, so a card can have
    /// more memory than the host.
    pub sparse: bool,
    /// The number, from 0, of the request for memory that fails, even if enough memory is free.
    pub fails: Option<u64>,
    /// The number, from 0, of the launch at which the card is lost.
    pub lost: Option<u64>,
}

/// When queued work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// At once.
    Eager,
    /// When something waits for it, which is as late as possible. If a wait is missing between two streams, or between a stream
    /// and the host, the numbers are then wrong.
    Late,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            name: "PTX machine".to_owned(),
            memory: 1 << 30,
            capability: 89,
            multiprocessors: 128,
            shared: 99 << 10,
            driver: 12040,
            mode: Mode::Late,
            settings: Settings { limit: 1_000_000_000, ..Settings::default() },
            launches: true,
            last: None,
            sparse: false,
            fails: None,
            lost: None,
        }
    }
}

impl Config {
    /// Parses a description such as `memory=16777216;mode=late`.
    ///
    /// # Errors
    /// The part that is not understood.
    pub(crate) fn parse(text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            config.set(part).ok_or_else(|| format!("`{part}` is not understood"))?;
        }
        Ok(config)
    }

    /// Returns the settings of a launch with this grid.
    pub(crate) fn settings_of(&self, grid: [u32; 3]) -> Settings {
        let all = grid.iter().fold(1u32, |all, n| all.saturating_mul(*n));
        let blocks = self.last.map(|last| (all.saturating_sub(last)..all).collect());
        Settings { blocks, ..self.settings.clone() }
    }

    fn set(&mut self, part: &str) -> Option<()> {
        let (key, value) = part.split_once('=')?;
        let flag = || match value {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        };
        match key {
            "name" => self.name = value.to_owned(),
            "memory" => self.memory = value.parse().ok()?,
            "capability" => self.capability = value.parse().ok()?,
            "multiprocessors" => self.multiprocessors = value.parse().ok()?,
            "shared" => self.shared = value.parse().ok()?,
            "driver" => self.driver = value.parse().ok()?,
            "mode" => {
                self.mode = match value {
                    "eager" => Mode::Eager,
                    "late" => Mode::Late,
                    _ => return None,
                }
            }
            "init" => self.settings.checks = Checks { init: flag()?, ..self.settings.checks },
            "race" => self.settings.checks = Checks { race: flag()?, ..self.settings.checks },
            "counts" => self.settings.counts = flag()?,
            "schedule" => {
                self.settings.schedule = match value {
                    "forward" => Schedule::Forward,
                    "reverse" => Schedule::Reverse,
                    seed => Schedule::Seeded(seed.parse().ok()?),
                }
            }
            "arrival" => {
                self.settings.arrival = match value {
                    "early" => Arrival::Early,
                    "late" => Arrival::Late,
                    _ => return None,
                }
            }
            "limit" => self.settings.limit = value.parse().ok()?,
            "launches" => self.launches = flag()?,
            "last" => self.last = Some(value.parse().ok()?),
            "sparse" => self.sparse = flag()?,
            "fails" => self.fails = Some(value.parse().ok()?),
            "lost" => self.lost = Some(value.parse().ok()?),
            _ => return None,
        }
        Some(())
    }
}
