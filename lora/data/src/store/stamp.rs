//! Tells whether a file is unchanged, as far as the system knows without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// A stamp is settled if the last change is at least this old. Coarse clocks of file systems tick every two seconds, and clocks
/// of network file systems may differ a little from ours.
const SETTLED: Duration = Duration::from_secs(10);

/// Numbers that the system keeps about a file. Every write changes at least one of them once the stamp is settled
/// ([`Stamp::is_settled`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// The last write, in nanoseconds since 1970.
    modified: i128,
    /// The last change of any kind. No program can set this time: the system sets it at every write.
    changed: i128,
}

impl Stamp {
    /// Takes the stamp of a file.
    pub fn of(metadata: &Metadata) -> Stamp {
        let time = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: time(metadata.mtime(), metadata.mtime_nsec()),
            changed: time(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether both stamps belong to one file and have the same length and the same time of the last write. The time of the last
    /// change may differ: making a hard link changes nothing in the file.
    pub fn is_same_file(&self, other: &Stamp) -> bool {
        let known = |stamp: &Stamp| (stamp.device, stamp.inode, stamp.bytes, stamp.modified);
        known(self) == known(other)
    }

    /// Whether the last change was so long ago that every write from now on changes the stamp.
    pub fn is_settled(&self) -> bool {
        let newest = u64::try_from(self.changed.max(self.modified)).ok();
        let newest = newest.and_then(|time| SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(time)));
        let age = newest.and_then(|newest| SystemTime::now().duration_since(newest).ok());
        age.is_some_and(|age| age >= SETTLED)
    }

    /// Returns its numbers, for a hash: device, inode, bytes, and the times of the last write and the last change.
    pub fn numbers(&self) -> [i128; 5] {
        [self.device.into(), self.inode.into(), self.bytes.into(), self.modified, self.changed]
    }
}
