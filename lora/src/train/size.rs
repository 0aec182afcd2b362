//! Amounts of memory: parsing and display.

use std::fmt;
use std::str::FromStr;

/// A number of bytes. It is displayed in binary units, and parsed from decimal or binary ones: `3GB` is 3e9 bytes, `3GiB` is 3 *
/// 2^30.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Units that parsing accepts, in upper or lower case, and their bytes.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// The string is not an amount of memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an amount of memory like 8GiB, 3GB, 500MB or a number of bytes")]
pub struct NotASize;

impl Size {
    /// Returns the unit in which the size is displayed: its bytes, its name, and the number of digits after the decimal point.
    fn unit(self) -> (f64, &'static str, usize) {
        match self.0 {
            0..0x400 => (1.0, "bytes", 0),
            0x400..0x10_0000 => (f64::from(1 << 10), "KiB", 1),
            0x10_0000..0x4000_0000 => (f64::from(1 << 20), "MiB", 1),
            _ => (f64::from(1 << 30), "GiB", 2),
        }
    }

    /// Rounds the size to a number that is displayed exactly. If a need is rounded with [`f64::ceil`] and a limit with
    /// [`f64::floor`], a need above the limit also looks larger.
    pub fn rounded(self, round: fn(f64) -> f64) -> Size {
        let (unit, _, digits) = self.unit();
        let shown = unit / 10f64.powi(digits as i32);
        Size((round(self.0 as f64 / shown) * shown).round() as u64)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name, digits) = self.unit();
        write!(f, "{:.digits$} {name}", self.0 as f64 / unit)
    }
}

impl FromStr for Size {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Size, NotASize> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (text[..digits].parse::<f64>().map_err(|_| NotASize)?, text[digits..].trim_start());
        let known = UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or(NotASize)?;
        let bytes = number * known.1 as f64;
        // 2^63 bytes are more than any machine has
        if (1.0..9.2e18).contains(&bytes) { Ok(Size(bytes as u64)) } else { Err(NotASize) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("8GiB", 8 << 30, "8.00 GiB"),
            ("3GB", 3_000_000_000, "2.79 GiB"),
            ("500MB", 500_000_000, "476.8 MiB"),
            ("1.5 gib", 3 << 29, "1.50 GiB"),
            ("2048", 2048, "2.0 KiB"),
            ("7B", 7, "7 bytes"),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string(), shown);
        }
        // a need one byte above the limit
        for limit in [1023, 7_130_316, (1 << 30) - 1, 3_000_000_000] {
            let [need, limit] = [Size(limit + 1).rounded(f64::ceil), Size(limit).rounded(f64::floor)];
            assert!(need.to_string() != limit.to_string() && need > limit, "{need}, {limit}");
        }
        for text in ["", "GiB", "-1GiB", "0", "1e9", "8 G", "1.2.3", "9e99GiB", "inf", "99999999999999999999TB"] {
            assert_eq!(text.parse::<Size>(), Err(NotASize), "{text}");
        }
    }
}
