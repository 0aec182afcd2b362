//! What a long walk over data tells its caller: its progress, and notes for the user.

/// What is being done to the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Comparing the files with those that cached tokens were made from. Measured in the bytes read from them.
    Comparing,
    /// Finding the rows of the files. The rows of a file that is not plain JSONL are also written to a temporary file, as lines.
    /// Measured in bytes of the files.
    Reading,
    /// Tokenising the rows. Measured in records.
    Tokenising,
    /// Checking tokens of an earlier run. Measured in bytes of the cache.
    Checking,
}

/// How far a stage has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataProgress {
    /// What is being done.
    pub stage: Stage,
    /// How much of it is done, in the stage's unit.
    pub done: u64,
    /// How much there is to do in all, in the stage's unit.
    pub total: u64,
}

/// Receives the progress of a long walk over data.
pub trait DataObserver {
    /// Receives progress. It is called often: do not print a line for each call.
    fn progress(&mut self, _progress: DataProgress) {}

    /// Receives a message that every user should see.
    fn note(&mut self, _text: String) {}

    /// Receives a message that only some users want, for example that a cache was used.
    fn detail(&mut self, _text: String) {}
}

/// Ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl DataObserver for Unobserved {}
