//! What can be wrong with a Parquet file.

/// What is wrong with a Parquet file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParquetFault {
    /// The file does not end as a Parquet file does.
    #[error("it does not end as a Parquet file does; is it complete?")]
    Truncated,
    /// The footer's size exceeds the file or the limit.
    #[error("its footer is said to have {bytes} bytes, of at most {limit}")]
    FooterSize {
        /// The size according to the file.
        bytes: u64,
        /// The largest possible size.
        limit: u64,
    },
    /// A damaged footer, or a damaged list of features in it.
    #[error("its {part} is damaged: {message}")]
    Damaged {
        /// The damaged part.
        part: &'static str,
        /// What is wrong.
        message: String,
    },
    /// Columns that are nested too deeply.
    #[error("its columns are nested more than {limit} deep")]
    Nesting {
        /// The limit.
        limit: usize,
    },
    /// A column whose data is outside the file, is damaged, or does not fit the other columns.
    #[error("column `{column}`: {message}")]
    Column {
        /// Path of the column.
        column: String,
        /// What is wrong.
        message: String,
    },
    /// Pages and dictionaries that together are too large.
    #[error(
        "the columns that are read need {bytes} bytes at a time for their pages and dictionaries, the limit is {limit}; write it with \
         smaller pages"
    )]
    Memory {
        /// Bytes that they need at a time.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A decimal with more digits after the point than any number type has.
    #[error(
        "column `{column}` is a decimal with {scale} digits after the point, the limit is {limit}; convert it to a number"
    )]
    Scale {
        /// Path of the column.
        column: String,
        /// Digits after the point.
        scale: i32,
        /// The limit.
        limit: i32,
    },
    /// A type of value that has no form in JSON.
    #[error(
        "column `{column}` is {found}, which has no form in JSON; leave the column out or convert it (text is `string`, that is \
         BYTE_ARRAY with the UTF8 annotation; JSON text has the annotation JSON)"
    )]
    Type {
        /// Path of the column.
        column: String,
        /// Its type.
        found: String,
    },
    /// The parquet library refuses the file or fails on it.
    #[error("{0}")]
    Library(String),
}

pub(super) type Outcome<T> = Result<T, ParquetFault>;
