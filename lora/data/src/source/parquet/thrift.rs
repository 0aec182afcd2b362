//! Walks Thrift's compact protocol without building anything. Parquet's footers and page headers are looked at before the
//! parquet library sees them, since it trusts the sizes in them.
//!
//! Source: the compact protocol's specification of Apache Thrift.

/// Maximum depth of nested structures. Parquet's own structures have six levels.
const MAX_DEPTH: usize = 32;

/// An event that [`Compact::walk`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A field of this wire type begins. The library reads some fields with the type that they should have, whatever the file
    /// gives.
    Field(u8),
    /// A whole number; a boolean is 0 or 1.
    Int(i64),
    /// The structure at the path has ended.
    End,
}

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ThriftFault {
    #[error("it ends in the middle of a value")]
    Ends,
    #[error("a size in it is larger than what follows")]
    Size,
    #[error("a number in it has too many bytes")]
    Number,
    #[error("it has no type {0}")]
    Type(u8),
    #[error("its structures are nested too deeply")]
    Depth,
}

/// Bytes of the compact protocol.
pub(crate) struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Compact<'a> {
    /// Begins at the first byte of a structure.
    pub(super) fn new(bytes: &'a [u8]) -> Compact<'a> {
        Compact { bytes, at: 0 }
    }

    /// Returns how many bytes were walked.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Walks a structure and calls `on` for each [`Event`]. The path holds the ids of the fields, the outermost first. All
    /// elements of a list have the list's path. A list or map within a list or map adds a 0 to the path.
    pub(super) fn walk(&mut self, on: &mut dyn FnMut(&[i16], Event)) -> Result<(), ThriftFault> {
        self.fields(&mut Vec::new(), on)
    }

    fn fields(&mut self, path: &mut Vec<i16>, on: &mut dyn FnMut(&[i16], Event)) -> Result<(), ThriftFault> {
        if path.len() >= MAX_DEPTH {
            return Err(ThriftFault::Depth);
        }
        let mut id = 0i16;
        loop {
            let head = self.byte()?;
            let (delta, kind) = (head >> 4, head & 0xF);
            if kind == 0 {
                on(path, Event::End);
                return Ok(());
            }
            id = match delta {
                0 => i16::try_from(self.zigzag()?).map_err(|_| ThriftFault::Number)?,
                delta => id.checked_add(i16::from(delta)).ok_or(ThriftFault::Number)?,
            };
            path.push(id);
            on(path, Event::Field(kind));
            match kind {
                1 => on(path, Event::Int(1)),
                2 => on(path, Event::Int(0)),
                kind => self.value(kind, path, on)?,
            }
            path.pop();
        }
    }

    fn value(&mut self, kind: u8, path: &mut Vec<i16>, on: &mut dyn FnMut(&[i16], Event)) -> Result<(), ThriftFault> {
        match kind {
            // in a list, a boolean takes a whole byte
            1..=3 => on(path, Event::Int(i64::from(self.byte()? as i8))),
            4..=6 => {
                let value = self.zigzag()?;
                on(path, Event::Int(value));
            }
            7 => self.skip(8)?,
            8 => {
                let bytes = self.varint()?;
                self.skip(bytes)?;
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                self.check_count(count)?;
                for _ in 0..count {
                    self.deeper(head & 0xF, path, on)?;
                }
            }
            11 => {
                let count = self.varint()?;
                self.check_count(count)?;
                if count > 0 {
                    let kinds = self.byte()?;
                    for _ in 0..count {
                        self.deeper(kinds >> 4, path, on)?;
                        self.deeper(kinds & 0xF, path, on)?;
                    }
                }
            }
            12 => self.fields(path, on)?,
            other => return Err(ThriftFault::Type(other)),
        }
        Ok(())
    }

    /// Walks a value in a list or a map. An inner list or map adds to the path here, so that the path's length counts the depth.
    fn deeper(&mut self, kind: u8, path: &mut Vec<i16>, on: &mut dyn FnMut(&[i16], Event)) -> Result<(), ThriftFault> {
        if !matches!(kind, 9..=11) {
            return self.value(kind, path, on);
        }
        if path.len() >= MAX_DEPTH {
            return Err(ThriftFault::Depth);
        }
        path.push(0);
        self.value(kind, path, on)?;
        path.pop();
        Ok(())
    }

    /// Checks a count: every element has at least one byte.
    fn check_count(&self, count: u64) -> Result<(), ThriftFault> {
        if count <= (self.bytes.len() - self.at) as u64 { Ok(()) } else { Err(ThriftFault::Size) }
    }

    fn byte(&mut self) -> Result<u8, ThriftFault> {
        let byte = *self.bytes.get(self.at).ok_or(ThriftFault::Ends)?;
        self.at += 1;
        Ok(byte)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), ThriftFault> {
        if bytes > (self.bytes.len() - self.at) as u64 {
            return Err(ThriftFault::Ends);
        }
        self.at += bytes as usize;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, ThriftFault> {
        let mut rest = &self.bytes[self.at..];
        let value = varint(&mut rest)?;
        self.at = self.bytes.len() - rest.len();
        Ok(value)
    }

    fn zigzag(&mut self) -> Result<i64, ThriftFault> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

/// Reads a number of seven bits per byte, the lowest bits first, and removes it from the front of `bytes`.
pub(super) fn varint(bytes: &mut &[u8]) -> Result<u64, ThriftFault> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(ThriftFault::Ends)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ThriftFault::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(bytes: &[u8]) -> Result<Vec<(Vec<i16>, Event)>, ThriftFault> {
        let mut events = Vec::new();
        let mut compact = Compact::new(bytes);
        compact.walk(&mut |path, event| events.push((path.to_vec(), event)))?;
        assert_eq!(compact.position(), bytes.len());
        Ok(events)
    }

    #[test]
    fn numbers_are_told_by_their_path() {
        // 1: i32 -3; 2: list of 2 structures {5: i32 7}, {}; 4: true; 5: "ab"; 21 (a long id): i64 300
        let bytes = [0x15, 5, 0x19, 0x2C, 0x55, 14, 0, 0, 0x21, 0x18, 2, b'a', b'b', 0x06, 42, 0xD8, 0x04, 0];
        let seen: Vec<_> = events(&bytes).unwrap();
        let fields: Vec<_> = seen.iter().filter(|(_, event)| matches!(event, Event::Field(_))).cloned().collect();
        let expected: [(&[i16], u8); 6] = [(&[1], 5), (&[2], 9), (&[2, 5], 5), (&[4], 1), (&[5], 8), (&[21], 6)];
        assert_eq!(fields, expected.map(|(path, kind)| (path.to_vec(), Event::Field(kind))));
        let expected: [(&[i16], Event); 7] = [
            (&[1], Event::Int(-3)),
            (&[2, 5], Event::Int(7)),
            (&[2], Event::End),
            (&[2], Event::End),
            (&[4], Event::Int(1)),
            (&[21], Event::Int(300)),
            (&[], Event::End),
        ];
        let others: Vec<_> = seen.into_iter().filter(|(_, event)| !matches!(event, Event::Field(_))).collect();
        assert_eq!(others, expected.map(|(path, event)| (path.to_vec(), event)));
    }

    #[test]
    fn faults_are_found_before_anything_is_allocated() {
        assert_eq!(events(&[]), Err(ThriftFault::Ends));
        assert_eq!(events(&[0x15]), Err(ThriftFault::Ends));
        // a list of 2^31 - 1 structures; a string of 2^31 - 1 bytes
        assert_eq!(events(&[0x19, 0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 0x07, 0]), Err(ThriftFault::Size));
        assert_eq!(events(&[0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0x07, 0]), Err(ThriftFault::Ends));
        assert_eq!(events(&[0x1D]), Err(ThriftFault::Type(13)));
        assert_eq!(
            events(&[0x15, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
            Err(ThriftFault::Number)
        );
        assert_eq!(events(&[0x1C; 100]), Err(ThriftFault::Depth));
        assert_eq!(events(&[&[0x19][..], &[0x19; 100]].concat()), Err(ThriftFault::Depth));
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut compact = Compact::new(&bytes);
            let _ = compact.walk(&mut |_, _| {});
            prop_assert!(compact.position() <= bytes.len());
        }
    }
}
