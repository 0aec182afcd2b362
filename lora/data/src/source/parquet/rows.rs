//! Makes rows from columns: reads the values of a row and their levels from every column, and writes a line of JSON.
//!
//! A level of definition says how much of a value's path is present. A level of repetition says which list the value continues.
//! Columns are read one row at a time, so no more than one row's values are decoded at a time.
//!
//! Source: the format's specification, "Nested Encoding"; LogicalTypes.md for lists and maps.

use std::io::Write;
use std::ops::Range;

use ::parquet::basic::{ConvertedType, Repetition};
use ::parquet::column::page::PageReader;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use ::parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArrayType, FloatType, Int32Type, Int64Type,
    Int96Type,
};
use ::parquet::errors::ParquetError;
use ::parquet::record::Field;
use ::parquet::schema::types::{ColumnDescPtr, ColumnDescriptor, Type};

use super::fault::ParquetFault;
use super::features::Feature;
use crate::caught::quietly;
use crate::json_text::key;
use crate::source::limits::MAX_ROW_BYTES;
use crate::source::strict_json::json_fault;

/// Longest decimal, in bytes. It holds 76 digits, and no reader has a number type with more.
const MAX_DECIMAL_BYTES: usize = 32;
/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// How columns make a value.
#[derive(Debug)]
pub(super) enum Node {
    /// The value of a column.
    Leaf(usize),
    /// A column of JSON texts. Each text is read as the value that it encodes.
    Json(usize),
    /// Null if the level of definition is below `def`.
    Optional { def: i16, columns: Range<usize>, inner: Box<Node> },
    /// An object: for each field, the key as JSON text (`"name":`) and the node of the value. Null fields are left out: all rows
    /// have the fields of the schema, so a field that a row lacked before it was written to Parquet is null.
    Group(Vec<(Vec<u8>, Node)>),
    /// A list. It is empty if the level of definition is below `def`, and goes on while the level of repetition is at least `rep`.
    List { def: i16, rep: i16, columns: Range<usize>, element: Box<Node> },
    /// An object whose keys are values of a column. `def` and `rep` are as for a list.
    Map { def: i16, rep: i16, columns: Range<usize>, key: Box<Node>, value: Box<Node> },
}

/// Where a field is in the schema.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// Number of its first column.
    pub first: usize,
    /// Largest levels of definition (`def`) and of repetition (`rep`) of the fields that enclose it.
    pub def: i16,
    pub rep: i16,
}

impl Node {
    /// Returns the node of a field, and the number of the column after its last.
    pub(super) fn of(field: &Type, feature: Feature<'_>, at: Place) -> Result<(Node, usize), ParquetFault> {
        let Place { first, mut def, mut rep } = at;
        let (node, end) = match field.get_basic_info().repetition() {
            Repetition::REQUIRED => return Node::body(field, feature, at),
            Repetition::OPTIONAL => {
                def += 1;
                let (inner, end) = Node::body(field, feature, Place { def, ..at })?;
                (Node::Optional { def, columns: first..end, inner: Box::new(inner) }, end)
            }
            Repetition::REPEATED => {
                (def, rep) = (def + 1, rep + 1);
                let (element, end) = Node::body(field, feature.element(), Place { first, def, rep })?;
                (Node::List { def, rep, columns: first..end, element: Box::new(element) }, end)
            }
        };
        if end == first {
            let message = "it has no columns in it".to_owned();
            return Err(ParquetFault::Column { column: field.name().to_owned(), message });
        }
        Ok((node, end))
    }

    /// Like [`Node::of`], but for one value of the field: the field's own repetition does not count.
    fn body(field: &Type, feature: Feature<'_>, at: Place) -> Result<(Node, usize), ParquetFault> {
        let first = at.first;
        let converted = field.get_basic_info().converted_type();
        if field.is_primitive() {
            let is_json = converted == ConvertedType::JSON || converted == ConvertedType::UTF8 && feature.is_json();
            return Ok((if is_json { Node::Json(first) } else { Node::Leaf(first) }, first + 1));
        }
        if let [repeated] = field.get_fields()
            && repeated.get_basic_info().has_repetition()
            && repeated.get_basic_info().repetition() == Repetition::REPEATED
        {
            let (def, rep) = (at.def + 1, at.rep + 1);
            let inside = Place { first, def, rep };
            let inner = if repeated.is_primitive() { &[][..] } else { repeated.get_fields() };
            match (converted, inner) {
                (ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE, [key, value]) => {
                    let (key, middle) = Node::of(key, Feature::default(), inside)?;
                    let (value, end) = Node::of(value, Feature::default(), Place { first: middle, ..inside })?;
                    let (key, value) = (Box::new(key), Box::new(value));
                    return Ok((Node::Map { def, rep, columns: first..end, key, value }, end));
                }
                // a map without values is the list of its keys
                (ConvertedType::LIST | ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE, inner) => {
                    let (element, end) = match inner {
                        [element] if !is_element(field, repeated) => Node::of(element, feature.element(), inside)?,
                        _ => Node::body(repeated, feature.element(), inside)?,
                    };
                    return Ok((Node::List { def, rep, columns: first..end, element: Box::new(element) }, end));
                }
                _ => {}
            }
        }
        let (mut fields, mut end) = (Vec::new(), first);
        for child in field.get_fields() {
            let (node, after) = Node::of(child, feature.field(child.name()), Place { first: end, ..at })?;
            fields.push((key(child.name()), node));
            end = after;
        }
        Ok((Node::Group(fields), end))
    }
}

/// Whether the repeated field of a list is the element itself and not a wrapper around it: old writers wrote lists of two levels
/// instead of three.
fn is_element(list: &Type, repeated: &Type) -> bool {
    repeated.name() == "array" || repeated.name() == format!("{}_tuple", list.name())
}

/// Why a row cannot be written as a line.
#[derive(Debug)]
pub(super) enum Stop {
    /// A value that JSON has no form for.
    Bad { column: String, message: String },
    /// More bytes than a row may have.
    TooLong,
    /// The column is broken.
    Broken(ParquetFault),
}

/// The reader of a column, and the column's values in one row.
struct Values<T: DataType> {
    reader: ColumnReaderImpl<T>,
    values: Vec<T::T>,
}

/// The reader and the values of a column, by physical type.
enum Typed {
    Bool(Values<BoolType>),
    Int32(Values<Int32Type>),
    Int64(Values<Int64Type>),
    Int96(Values<Int96Type>),
    Float(Values<FloatType>),
    Double(Values<DoubleType>),
    Bytes(Values<ByteArrayType>),
    Fixed(Values<FixedLenByteArrayType>),
}

/// A column of a row group, at one row.
pub(super) struct Column {
    descr: ColumnDescPtr,
    typed: Typed,
    /// The levels of each value or null of the row. Empty if the largest level is 0.
    def_levels: Vec<i16>,
    rep_levels: Vec<i16>,
    /// Number of values and nulls of the row.
    levels: usize,
    /// Index of the next value or null (`at`), and index of the next value in the values without nulls (`value_at`).
    at: usize,
    value_at: usize,
}

impl<T: DataType> Values<T> {
    fn new(reader: ColumnReaderImpl<T>) -> Values<T> {
        Values { reader, values: Vec::new() }
    }

    /// Reads the values of a row. Returns the number of values and nulls.
    fn load(&mut self, def: &mut Vec<i16>, rep: &mut Vec<i16>) -> Result<usize, ParquetError> {
        // drops the values of the previous row: each keeps its whole page in memory
        self.values.clear();
        def.clear();
        rep.clear();
        let mut total = 0;
        loop {
            let (rows, _, levels) = self.reader.read_records(1, Some(def), Some(rep), &mut self.values)?;
            total += levels;
            // the reader may find the end of a row only when the next row begins
            if (rows > 0 && total > 0) || (rows == 0 && levels == 0) {
                return Ok(total);
            }
        }
    }
}

impl Column {
    pub(super) fn new(descr: ColumnDescPtr, pages: Box<dyn PageReader>) -> Column {
        let typed = match get_column_reader(descr.clone(), pages) {
            ColumnReader::BoolColumnReader(reader) => Typed::Bool(Values::new(reader)),
            ColumnReader::Int32ColumnReader(reader) => Typed::Int32(Values::new(reader)),
            ColumnReader::Int64ColumnReader(reader) => Typed::Int64(Values::new(reader)),
            ColumnReader::Int96ColumnReader(reader) => Typed::Int96(Values::new(reader)),
            ColumnReader::FloatColumnReader(reader) => Typed::Float(Values::new(reader)),
            ColumnReader::DoubleColumnReader(reader) => Typed::Double(Values::new(reader)),
            ColumnReader::ByteArrayColumnReader(reader) => Typed::Bytes(Values::new(reader)),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => Typed::Fixed(Values::new(reader)),
        };
        Column { descr, typed, def_levels: Vec::new(), rep_levels: Vec::new(), levels: 0, at: 0, value_at: 0 }
    }

    /// Reads the next row.
    pub(super) fn load(&mut self) -> Result<(), ParquetFault> {
        match self.load_next()? {
            0 => Err(self.broken("it ends before its rows do")),
            _ => Ok(()),
        }
    }

    /// Checks that the row was the last one.
    pub(super) fn check_ended(&mut self) -> Result<(), ParquetFault> {
        match self.load_next()? {
            0 => Ok(()),
            _ => Err(self.broken("it has more rows than its row group")),
        }
    }

    fn load_next(&mut self) -> Result<usize, ParquetFault> {
        let (def, rep) = (&mut self.def_levels, &mut self.rep_levels);
        let levels = match &mut self.typed {
            Typed::Bool(values) => values.load(def, rep),
            Typed::Int32(values) => values.load(def, rep),
            Typed::Int64(values) => values.load(def, rep),
            Typed::Int96(values) => values.load(def, rep),
            Typed::Float(values) => values.load(def, rep),
            Typed::Double(values) => values.load(def, rep),
            Typed::Bytes(values) => values.load(def, rep),
            Typed::Fixed(values) => values.load(def, rep),
        };
        (self.at, self.value_at) = (0, 0);
        self.levels = levels.map_err(|error| match error {
            ParquetError::General(message) => self.broken(&message),
            other => self.broken(&other.to_string()),
        })?;
        Ok(self.levels)
    }

    /// Checks that [`Column::take`] has moved past all values and nulls of the row.
    pub(super) fn check_taken(&self) -> Result<(), ParquetFault> {
        if self.at == self.levels { Ok(()) } else { Err(self.unlike()) }
    }

    fn broken(&self, message: &str) -> ParquetFault {
        ParquetFault::Column { column: self.descr.path().string(), message: message.to_owned() }
    }

    fn unlike(&self) -> ParquetFault {
        self.broken("its lists are not as long as those of the columns beside it")
    }

    fn bad(&self, message: String) -> Stop {
        Stop::Bad { column: self.descr.path().string(), message }
    }

    /// Returns the levels of definition and of repetition of the next value or null, if there is one.
    fn next_levels(&self) -> Option<(i16, i16)> {
        (self.at < self.levels).then(|| {
            let def = self.def_levels.get(self.at).copied().unwrap_or(self.descr.max_def_level());
            (def, self.rep_levels.get(self.at).copied().unwrap_or(0))
        })
    }

    fn def_level(&self) -> Result<i16, Stop> {
        self.next_levels().map(|(def, _)| def).ok_or_else(|| Stop::Broken(self.unlike()))
    }

    /// Moves past the next value or null. Returns the index of the value, or `None` for a null.
    fn take(&mut self) -> Result<Option<usize>, Stop> {
        let is_value = self.def_level()? == self.descr.max_def_level();
        self.at += 1;
        self.value_at += usize::from(is_value);
        Ok(is_value.then(|| self.value_at - 1))
    }

    fn write_next(&mut self, line: &mut Line) -> Result<(), Stop> {
        let Some(i) = self.take()? else { return line.put(b"null") };
        let field = match &self.typed {
            Typed::Bool(all) => Field::Bool(all.values[i]),
            Typed::Int32(all) => Field::convert_int32(&self.descr, all.values[i]),
            Typed::Int64(all) => Field::convert_int64(&self.descr, all.values[i]),
            Typed::Int96(all) => Field::convert_int96(&self.descr, all.values[i]),
            Typed::Float(all) => Field::Float(all.values[i]),
            Typed::Double(all) => Field::Double(all.values[i]),
            Typed::Bytes(all) => return self.write_bytes(line, &all.values[i]),
            Typed::Fixed(all) => return self.write_bytes(line, &all.values[i].clone().into()),
        };
        self.write_scalar(line, &field)
    }

    fn write_bytes(&self, line: &mut Line, bytes: &ByteArray) -> Result<(), Stop> {
        if is_text(&self.descr) {
            // without the library's `Field`, which would copy the bytes
            return line.put_text(self.text(bytes)?);
        }
        if bytes.len() > MAX_DECIMAL_BYTES {
            return Err(self.bad(format!("a number of {} bytes, the limit is {MAX_DECIMAL_BYTES}", bytes.len())));
        }
        let field = Field::convert_byte_array(&self.descr, bytes.clone());
        self.write_scalar(line, &field.map_err(|error| self.bad(error.to_string()))?)
    }

    /// Writes the JSON value that the column's next text holds.
    fn write_json(&mut self, line: &mut Line) -> Result<(), Stop> {
        let Some(i) = self.take()? else { return line.put(b"null") };
        let Typed::Bytes(all) = &self.typed else {
            return Err(Stop::Broken(self.broken("its type is JSON, but it is not text")));
        };
        let text = self.text(&all.values[i])?;
        if let Some(message) = json_fault(text) {
            return Err(self.bad(format!("its text is not valid JSON: {message}")));
        }
        // line ends within strings are escaped, so these are between values; they become blanks, since a row is one line
        for (i, piece) in text.trim_ascii().split(['\n', '\r']).enumerate() {
            line.put(if i > 0 { b" " } else { b"" })?;
            line.put(piece.as_bytes())?;
        }
        Ok(())
    }

    fn text<'b>(&self, bytes: &'b ByteArray) -> Result<&'b str, Stop> {
        std::str::from_utf8(bytes.data()).map_err(|error| {
            self.bad(format!("its text is not valid UTF-8, from byte {} of it on", error.valid_up_to() + 1))
        })
    }

    fn write_scalar(&self, line: &mut Line, field: &Field) -> Result<(), Stop> {
        match field {
            Field::Float16(value) => self.put_number(line, f64::from(value.to_f32())),
            Field::Float(value) => self.put_number(line, f64::from(*value)),
            Field::Double(value) => self.put_number(line, *value),
            // the library writes `12.` if no digits come after the point
            Field::Decimal(_) => line.put(field.to_string().trim_end_matches('.').as_bytes()),
            Field::TimeMillis(ms) if !(0..DAY_MS).contains(&i64::from(*ms)) => {
                Err(self.bad(format!("{ms} milliseconds after midnight are no time of a day")))
            }
            Field::TimeMicros(us) if !(0..DAY_MS * 1000).contains(us) => {
                Err(self.bad(format!("{us} microseconds after midnight are no time of a day")))
            }
            Field::Date(n) => self.put_time(line, field, i64::from(*n)),
            Field::TimestampMillis(n) | Field::TimestampMicros(n) => self.put_time(line, field, *n),
            Field::TimeMillis(_) | Field::TimeMicros(_) => line.put_text(&field.to_string()),
            // booleans and whole numbers
            _ => line.put(field.to_string().as_bytes()),
        }
    }

    /// Writes a date or a time. The library panics on one that its calendar does not have.
    fn put_time(&self, line: &mut Line, field: &Field, number: i64) -> Result<(), Stop> {
        let text = quietly(|| field.to_string())
            .map_err(|_| self.bad(format!("the date or time {number} is outside of the calendar")))?;
        line.put_text(&text)
    }

    fn put_number(&self, line: &mut Line, value: f64) -> Result<(), Stop> {
        match serde_json::Number::from_f64(value) {
            Some(number) => line.put(number.to_string().as_bytes()),
            None => Err(self.bad(format!("{value} is a number that JSON has no form for"))),
        }
    }
}

/// Whether the bytes of a column are text.
pub(super) fn is_text(column: &ColumnDescriptor) -> bool {
    matches!(column.converted_type(), ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON)
}

/// The line of a row. A write fails if the line and its line end would be longer than [`MAX_ROW_BYTES`].
#[derive(Debug, Default)]
pub(super) struct Line {
    pub bytes: Vec<u8>,
}

impl Line {
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.write_all(bytes).map_err(|_| Stop::TooLong)
    }

    fn put_text(&mut self, text: &str) -> Result<(), Stop> {
        // an escaped byte takes at most six bytes: a text that fits even then needs no check of each piece
        let fits = (self.bytes.len() + 6 * text.len()) as u64 + 2 < MAX_ROW_BYTES;
        let written =
            if fits { serde_json::to_writer(&mut self.bytes, text) } else { serde_json::to_writer(self, text) };
        written.map_err(|_| Stop::TooLong)
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // one byte is left for the line end
        if self.bytes.len() as u64 + bytes.len() as u64 >= MAX_ROW_BYTES {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes the value of a node in the current row of the columns.
pub(super) fn write(node: &Node, columns: &mut [Column], line: &mut Line) -> Result<(), Stop> {
    let pass_over = |columns: &mut [Column], range: &Range<usize>| {
        columns[range.clone()].iter_mut().try_for_each(|column| column.take().map(drop))
    };
    // the range `columns` of a node is never empty: `Node::of` checks it
    let goes_on = |columns: &[Column], range: &Range<usize>, rep: i16| {
        columns[range.start].next_levels().is_some_and(|(_, next)| next >= rep)
    };
    match node {
        Node::Leaf(column) => columns[*column].write_next(line),
        Node::Json(column) => columns[*column].write_json(line),
        Node::Optional { def, columns: range, .. }
        | Node::List { def, columns: range, .. }
        | Node::Map { def, columns: range, .. }
            if columns[range.start].def_level()? < *def =>
        {
            pass_over(columns, range)?;
            match node {
                Node::List { .. } => line.put(b"[]"),
                Node::Map { .. } => line.put(b"{}"),
                _ => line.put(b"null"),
            }
        }
        Node::Optional { inner, .. } => write(inner, columns, line),
        Node::Group(fields) => {
            line.put(b"{")?;
            let mut is_first = true;
            for (key, value) in fields {
                if let Node::Optional { def, columns: range, .. } = value
                    && columns[range.start].def_level()? < *def
                {
                    pass_over(columns, range)?;
                    continue;
                }
                line.put(if is_first { b"" } else { b"," })?;
                is_first = false;
                line.put(key)?;
                write(value, columns, line)?;
            }
            line.put(b"}")
        }
        Node::List { rep, columns: range, element, .. } => {
            line.put(b"[")?;
            write(element, columns, line)?;
            while goes_on(columns, range, *rep) {
                line.put(b",")?;
                write(element, columns, line)?;
            }
            line.put(b"]")
        }
        Node::Map { rep, columns: range, key, value, .. } => {
            line.put(b"{")?;
            loop {
                let mut name = Line::default();
                write(key, columns, &mut name)?;
                match name.bytes.first() {
                    Some(b'"') => line.put(&name.bytes)?,
                    _ => line.put_text(&String::from_utf8_lossy(&name.bytes))?,
                }
                line.put(b":")?;
                write(value, columns, line)?;
                if !goes_on(columns, range, *rep) {
                    break;
                }
                line.put(b",")?;
            }
            line.put(b"}")
        }
    }
}
