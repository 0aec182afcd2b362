//! Errors of the command line and their exit codes.

use crate::advice::{self, with_advice};
use crate::report::say;
use align_data::{BadRow, DataError, DropReason, EncoderError, RowKind, SourceError, TemplateError};
use align_engine::EngineError;
use align_engine::model::{ConfigError, LocateError};
use align_engine::weights::{BASE_WEIGHTS, LoadError};
use align_kernels::KernelError;
use align_lora::adapter::{AdapterError, MergeError};
use align_lora::objective::ObjectiveError;
use align_lora::train::TrainError;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Why a command ended without its result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line or an environment variable is wrong. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A file, or what it holds, cannot be used. Exit code 3.
    #[error("{0}")]
    Input(String),
    /// The data lacks the columns that are to be read. Exit code 3.
    #[error("{0}")]
    Columns(String),
    /// Rows lack the part that --sft-on names. Exit code 3.
    #[error("{text}")]
    SftPart { is_sequence: bool, text: String },
    /// Any other failure, for example a file that cannot be written. Exit code 1.
    #[error("{0}")]
    Runtime(String),
    /// There is not enough memory. Exit code 4.
    #[error("{0}")]
    OutOfMemory(String),
    /// The computation met a number that is not finite. Exit code 5.
    #[error("{0}")]
    NonFinite(String),
    /// The reader of stdout has gone away, for example a `| head` that has finished. No message is printed. Exit code 0.
    #[error("the output was closed")]
    ClosedOutput,
}

impl CliError {
    /// Makes the error for a file that could not be read or written.
    pub(crate) fn file(path: &Path, error: &io::Error) -> CliError {
        CliError::Runtime(format!("{}: {error}", path.display()))
    }

    /// Prints the message and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let code = match self {
            CliError::ClosedOutput => return ExitCode::SUCCESS,
            CliError::Runtime(_) => 1,
            CliError::Usage(_) => 2,
            CliError::Input(_) | CliError::Columns(_) | CliError::SftPart { .. } => 3,
            CliError::OutOfMemory(_) => 4,
            CliError::NonFinite(_) => 5,
        };
        say!("error: {self}");
        ExitCode::from(code)
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> CliError {
        match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::ClosedOutput,
            _ => CliError::Runtime(error.to_string()),
        }
    }
}

impl From<KernelError> for CliError {
    fn from(error: KernelError) -> CliError {
        let text = error.to_string();
        match error {
            KernelError::OutOfMemory { name: BASE_WEIGHTS, .. } => {
                CliError::OutOfMemory(format!("{text}: the model does not fit; --device cpu needs no copy of it"))
            }
            KernelError::OutOfMemory { .. } => {
                CliError::OutOfMemory(format!("{text}; lower --micro-batch-tokens, --batch-size or --max-length"))
            }
            KernelError::InstructionSet { .. } => CliError::Usage(text),
            KernelError::TokenId { .. } => CliError::Input(text),
            KernelError::NoDevice { .. } => {
                CliError::Runtime(format!("{text}; --device cpu computes on the processor"))
            }
            KernelError::Shape { .. }
            | KernelError::Size { .. }
            | KernelError::Format { .. }
            | KernelError::RowIndex { .. }
            | KernelError::Driver { .. }
            | KernelError::Threads { .. } => CliError::Runtime(text),
        }
    }
}

impl From<EngineError> for CliError {
    fn from(error: EngineError) -> CliError {
        match error {
            EngineError::Config(error) => error.into(),
            EngineError::Load(error) => error.into(),
            EngineError::Kernel(error) => error.into(),
            EngineError::NonFiniteLogits { .. } => CliError::NonFinite(error.to_string()),
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> CliError {
        CliError::Input(with_advice(&error, advice::of_config(&error)))
    }
}

impl From<LoadError> for CliError {
    fn from(error: LoadError) -> CliError {
        match error {
            LoadError::Kernel(error) => error.into(),
            LoadError::Io { .. }
            | LoadError::NotAFile { .. }
            | LoadError::NoWeights { .. }
            | LoadError::Header { .. }
            | LoadError::Index { .. }
            | LoadError::Json(_)
            | LoadError::Missing { .. }
            | LoadError::MissingInShards { .. }
            | LoadError::NoHead { .. }
            | LoadError::Wrapped { .. }
            | LoadError::OtherPrefix { .. }
            | LoadError::Quantised { .. }
            | LoadError::Shape { .. }
            | LoadError::Dtype { .. }
            | LoadError::NonFinite { .. } => CliError::Input(error.to_string()),
        }
    }
}

impl From<LocateError> for CliError {
    fn from(error: LocateError) -> CliError {
        CliError::Usage(error.to_string())
    }
}

impl From<SourceError> for CliError {
    fn from(error: SourceError) -> CliError {
        match error {
            SourceError::Spool { .. } => CliError::Runtime(error.to_string()),
            SourceError::Io { .. }
            | SourceError::Misspelt { .. }
            | SourceError::NotAFile { .. }
            | SourceError::Folder { .. }
            | SourceError::NoMatch { .. }
            | SourceError::NotText { .. }
            | SourceError::Pattern { .. }
            | SourceError::Hub { .. }
            | SourceError::Format { .. }
            | SourceError::Broken { .. }
            | SourceError::SeveralLines { .. }
            | SourceError::Yaml { .. }
            | SourceError::AroundRows { .. }
            | SourceError::ByColumn { .. }
            | SourceError::Nested { .. }
            | SourceError::Unpack { .. }
            | SourceError::Parquet { .. }
            | SourceError::Expansion { .. }
            | SourceError::ManyLines { .. }
            | SourceError::TooManyFiles { .. }
            | SourceError::Empty { .. }
            | SourceError::TooManyRows { .. }
            | SourceError::Changed { .. } => CliError::Input(error.to_string()),
        }
    }
}

impl From<EncoderError> for CliError {
    fn from(error: EncoderError) -> CliError {
        CliError::Input(error.to_string())
    }
}

impl From<TemplateError> for CliError {
    fn from(error: TemplateError) -> CliError {
        CliError::Input(error.to_string())
    }
}

impl From<DataError> for CliError {
    fn from(error: DataError) -> CliError {
        let text = with_advice(&error, advice::of_data(&error));
        match error {
            DataError::Source(error) => error.into(),
            DataError::Encoder(error) => error.into(),
            DataError::Rejects(_) | DataError::Cache { .. } => CliError::Runtime(text),
            DataError::NoSuchColumn { .. } | DataError::WrongShape { .. } => CliError::Columns(text),
            DataError::WrongPart { found, .. } => {
                CliError::SftPart { is_sequence: found.shape.kind() == Some(RowKind::Sequence), text }
            }
            DataError::Row { reason: BadRow::UnknownShape { .. } | BadRow::Missing { .. }, .. }
            | DataError::NothingLeft {
                reason: DropReason::Bad(BadRow::UnknownShape { .. } | BadRow::Missing { .. }),
                ..
            } => CliError::Columns(text),
            DataError::Row { .. }
            | DataError::NothingLeft { .. }
            | DataError::ManyDropped { .. }
            | DataError::NoTurnMarker { .. }
            | DataError::EmptyPrompts { .. }
            | DataError::NothingRendered { .. }
            | DataError::TurnsInText { .. }
            | DataError::NoTemplate { .. }
            | DataError::BrokenTemplate { .. }
            | DataError::NoEos { .. }
            | DataError::OnePrompt { .. } => CliError::Input(text),
        }
    }
}

impl From<ObjectiveError> for CliError {
    fn from(error: ObjectiveError) -> CliError {
        CliError::Usage(error.to_string())
    }
}

impl From<AdapterError> for CliError {
    fn from(error: AdapterError) -> CliError {
        let text = with_advice(&error, advice::of_adapter(&error));
        match error {
            AdapterError::Kernel(error) => error.into(),
            AdapterError::Options(fault) => CliError::Usage(fault.to_string()),
            AdapterError::Write(_) | AdapterError::Io { .. } => CliError::Runtime(text),
            AdapterError::Config { .. }
            | AdapterError::Json(_)
            | AdapterError::NoFile { .. }
            | AdapterError::Load(_)
            | AdapterError::Unsupported { .. }
            | AdapterError::Partner { .. }
            | AdapterError::Unmatched { .. }
            | AdapterError::Misnamed { .. }
            | AdapterError::AdapterName { .. }
            | AdapterError::Twice { .. }
            | AdapterError::NotTargeted { .. }
            | AdapterError::NotInFile { .. }
            | AdapterError::Rank { .. }
            | AdapterError::Shape { .. }
            | AdapterError::Task { .. }
            | AdapterError::NoScoreHead { .. }
            | AdapterError::ScoreHead { .. }
            | AdapterError::NonFinite { .. } => CliError::Input(text),
        }
    }
}

impl From<MergeError> for CliError {
    fn from(error: MergeError) -> CliError {
        let text = with_advice(&error, advice::of_merge(&error));
        match error {
            MergeError::Adapter(error) => error.into(),
            MergeError::Kernel(error) => error.into(),
            MergeError::Load(error) => error.into(),
            MergeError::Config(error) => error.into(),
            MergeError::NotEmpty { .. } | MergeError::NotAFolder { .. } | MergeError::Overlap { .. } => {
                CliError::Usage(text)
            }
            MergeError::Io { .. } | MergeError::Write { .. } => CliError::Runtime(text),
            MergeError::NonFinite { .. } | MergeError::NotRun { .. } => CliError::Input(text),
        }
    }
}

impl From<TrainError> for CliError {
    fn from(error: TrainError) -> CliError {
        let text = with_advice(&error, advice::of_training(&error));
        match error {
            TrainError::Kernel(error) => error.into(),
            TrainError::Data(error) => error.into(),
            TrainError::Adapter(error) => error.into(),
            TrainError::NonFinite { .. } | TrainError::NonFiniteEvaluation { .. } => CliError::NonFinite(text),
            TrainError::BatchOfOne { .. }
            | TrainError::NoReferenceData { .. }
            | TrainError::NoCompletions { .. }
            | TrainError::NoSteps { .. } => CliError::Usage(text),
            TrainError::MissingColumn { .. } | TrainError::OneRow { .. } => CliError::Input(text),
            TrainError::Memory { .. } => CliError::OutOfMemory(text),
            TrainError::NoScoreHead { .. } | TrainError::ScoreHead { .. } | TrainError::Write { .. } => {
                CliError::Runtime(text)
            }
        }
    }
}
