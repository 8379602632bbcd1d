//! Which messages or files were here and are gone, so that a late repetition does not bring one
//! back.
//!
//! Of a sender that numbers its messages (the outbox of this program does) this is a few ranges
//! of numbers however many they are; of one with random ids the newest [`SEEN_MAX`] ids are
//! remembered, over all senders. All of it is in one file, to which lines are appended and
//! which is rewritten when it has grown to twice what it has to say:
//!
//! ```text
//! ADDRESS ID                          a message
//! ADDRESS INCARNATION FIRST LAST      a range of numbers
//! latest MICROSECONDS                 when the latest of them has arrived
//! ```

use super::disk;
use pilot_core::addr::Address;
use pilot_core::service::exchange::{NumberSet, TransferId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Write as _};
use std::path::PathBuf;

/// Deleted messages with random ids that are remembered, over all senders; the oldest is
/// forgotten for one more.
pub(super) const SEEN_MAX: usize = 16_384;
/// Incarnations of one sender whose numbers are remembered. A sender takes a new one when it
/// starts, and sends what is left of older ones before: the last two are what matters.
const INCARNATIONS_OF_SENDER: usize = 16;
/// The same over all senders. The one that was not heard of for longest is forgotten.
const INCARNATIONS: usize = 8_192;
/// Lines by which the file may outgrow what it has to say.
const SLACK: usize = 2 * SEEN_MAX;

/// Begins the line of the time: no address, and to earlier versions a line that says nothing.
const LATEST: &str = "latest ";

/// A message: sender, on the backbone, and id.
pub(super) type MessageKey = (Address, TransferId);

struct Numbers {
    set: NumberSet,
    /// Rises: when it was last added to.
    used: u64,
}

/// The memory of deleted messages.
pub(super) struct Seen {
    path: PathBuf,
    random: BTreeSet<MessageKey>,
    /// The same, oldest first.
    random_order: VecDeque<MessageKey>,
    numbered: BTreeMap<(Address, [u8; 8]), Numbers>,
    used: u64,
    latest_us: u64,
    /// Lines in the file.
    lines: usize,
    /// Beyond so many it is rewritten.
    rewrite_at: usize,
}

impl Seen {
    /// Reads the file, if there is one. Lines that say nothing are passed over: the last may be
    /// cut by a crash, and its messages were not deleted then.
    pub(super) fn load(path: PathBuf) -> io::Result<Seen> {
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e),
        };
        let mut seen = Seen {
            path,
            random: BTreeSet::new(),
            random_order: VecDeque::new(),
            numbered: BTreeMap::new(),
            used: 0,
            latest_us: 0,
            lines: 0,
            rewrite_at: SLACK,
        };
        for line in text.lines() {
            seen.lines += 1;
            seen.read_line(line);
        }
        Ok(seen)
    }

    fn read_line(&mut self, line: &str) -> Option<()> {
        if let Some(us) = line.strip_prefix(LATEST) {
            self.latest_us = self.latest_us.max(us.parse().ok()?);
            return Some(());
        }
        let mut words = line.split(' ');
        let from: Address = words.next()?.parse().ok()?;
        let second = words.next()?;
        let (first, last) = (words.next(), words.next());
        if words.next().is_some() {
            return None;
        }
        match (first, last) {
            (None, _) => self.see((from, second.parse().ok()?)),
            (Some(first), Some(last)) if second.len() == 16 => {
                let incarnation = u64::from_str_radix(second, 16).ok()?.to_be_bytes();
                self.see_numbers(from, incarnation, first.parse().ok()?, last.parse().ok()?);
            }
            _ => return None,
        }
        Some(())
    }

    /// Whether a message was here and is deleted.
    pub(super) fn contains(&self, key: &MessageKey) -> bool {
        match key.1.number() {
            Some((incarnation, number)) => {
                let numbers = self.numbered.get(&(key.0, incarnation));
                numbers.is_some_and(|numbers| numbers.set.contains(number))
            }
            None => self.random.contains(key),
        }
    }

    /// When the latest message that was deleted has arrived: the time of arrival does not go back
    /// behind it.
    pub(super) const fn latest_us(&self) -> u64 {
        self.latest_us
    }

    /// Remembers messages, of which the latest has arrived at `latest_us`, until the process ends;
    /// once what is returned was written they are remembered after a power loss too.
    pub(super) fn remember(&mut self, keys: &[MessageKey], latest_us: u64) -> Note {
        for key in keys {
            self.see(*key);
        }
        // Also the same again: the write before may have failed.
        let later = (latest_us >= self.latest_us.max(1)).then(|| latest_line(latest_us));
        self.latest_us = self.latest_us.max(latest_us);
        let path = self.path.clone();
        let more = keys.len() + usize::from(later.is_some());
        if self.lines + more > self.rewrite_at {
            let lines = self.all_lines();
            self.lines = lines.len();
            self.rewrite_at = 2 * lines.len() + SLACK;
            return Note { path, lines: lines.concat(), is_all: true };
        }
        self.lines += more;
        let lines = keys.iter().map(|(from, id)| format!("{from} {id}\n")).chain(later).collect();
        Note { path, lines, is_all: false }
    }

    fn all_lines(&self) -> Vec<String> {
        let random = self.random_order.iter().map(|(from, id)| format!("{from} {id}\n"));
        let mut numbered: Vec<_> = self.numbered.iter().collect();
        numbered.sort_by_key(|(_, numbers)| numbers.used);
        let ranges = numbered.into_iter().flat_map(|((from, incarnation), numbers)| {
            let incarnation = u64::from_be_bytes(*incarnation);
            let ranges = numbers.set.ranges();
            ranges.map(move |(first, last)| format!("{from} {incarnation:016x} {first} {last}\n"))
        });
        let latest = Some(self.latest_us).filter(|us| *us > 0).map(latest_line);
        random.chain(ranges).chain(latest).collect()
    }

    fn see(&mut self, key: MessageKey) {
        if let Some((incarnation, number)) = key.1.number() {
            self.see_numbers(key.0, incarnation, number, number);
        } else if self.random.insert(key) {
            self.random_order.push_back(key);
            if self.random_order.len() > SEEN_MAX
                && let Some(oldest) = self.random_order.pop_front()
            {
                self.random.remove(&oldest);
            }
        }
    }

    fn see_numbers(&mut self, from: Address, incarnation: [u8; 8], first: u64, last: u64) {
        let key = (from, incarnation);
        if !self.numbered.contains_key(&key) {
            let of_sender = self.numbered.range((from, [0; 8])..=(from, [0xFF; 8]));
            let oldest = oldest_of(of_sender);
            if let Some(oldest) = oldest.filter(|(_, count)| *count >= INCARNATIONS_OF_SENDER) {
                self.numbered.remove(&oldest.0);
            } else if self.numbered.len() >= INCARNATIONS
                && let Some((oldest, _)) = oldest_of(self.numbered.iter())
            {
                self.numbered.remove(&oldest);
            }
        }
        self.used += 1;
        let numbers =
            self.numbered.entry(key).or_insert(Numbers { set: NumberSet::new(), used: 0 });
        numbers.set.insert(first, last);
        numbers.used = self.used;
    }
}

fn latest_line(us: u64) -> String {
    format!("{LATEST}{us}\n")
}

/// What is to be written of messages that were deleted, in the order in which it was returned.
#[must_use]
pub(super) struct Note {
    path: PathBuf,
    lines: String,
    is_all: bool,
}

impl Note {
    /// Writes and syncs it. Blocks on the disk.
    pub(super) fn write(&self) -> io::Result<()> {
        if self.is_all {
            return disk::replace(&self.path, &[self.lines.as_bytes()], true);
        }
        let mut file = disk::open_append(&self.path)?;
        // A line that a crash or a full disk has cut must not swallow the next one.
        if !disk::ends_in_newline(&file)? {
            file.write_all(b"\n")?;
        }
        file.write_all(self.lines.as_bytes())?;
        file.sync_all()
    }
}

/// The one that was not added to for longest, and how many there are.
fn oldest_of<'n>(
    numbered: impl Iterator<Item = (&'n (Address, [u8; 8]), &'n Numbers)>,
) -> Option<((Address, [u8; 8]), usize)> {
    let mut count = 0;
    let oldest = numbered.inspect(|_| count += 1).min_by_key(|(_, numbers)| numbers.used);
    let oldest = oldest.map(|(key, _)| *key)?;
    Some((oldest, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(node: u8) -> Address {
        Address::from_bytes([0, 0, 0, 0, 0, node])
    }

    fn numbered(incarnation: u8, number: u64) -> TransferId {
        TransferId::numbered([incarnation; 8], number).unwrap()
    }

    #[test]
    fn any_number_of_numbered_messages_is_remembered_in_a_small_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen");
        let mut seen = Seen::load(path.clone()).unwrap();
        let keys: Vec<_> = (1..=3 * SEEN_MAX as u64).map(|n| (from(1), numbered(7, n))).collect();
        for some in keys.chunks(1000) {
            seen.remember(some, 0).write().unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() < 3 << 20);
        for seen in [seen, Seen::load(path).unwrap()] {
            assert!(keys.iter().all(|key| seen.contains(key)));
            assert!(!seen.contains(&(from(1), numbered(7, 3 * SEEN_MAX as u64 + 1))));
            assert!(!seen.contains(&(from(1), numbered(8, 1))));
            assert!(!seen.contains(&(from(2), numbered(7, 1))));
        }
    }

    #[test]
    fn a_file_that_was_rewritten_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen");
        let mut seen = Seen::load(path.clone()).unwrap();
        let random = (from(3), TransferId([0xA5; 16]));
        seen.remember(&[random, (from(1), numbered(7, 1)), (from(1), numbered(7, 3))], 9)
            .write()
            .unwrap();
        seen.rewrite_at = 0;
        seen.remember(&[(from(2), numbered(9, 5))], 8).write().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 5);
        seen.remember(&[(from(2), numbered(9, 6))], 0).write().unwrap();
        for seen in [seen, Seen::load(path).unwrap()] {
            assert!(seen.contains(&random));
            assert_eq!(seen.latest_us(), 9);
            assert!(seen.contains(&(from(1), numbered(7, 3))));
            assert!(!seen.contains(&(from(1), numbered(7, 2))));
            assert!(seen.contains(&(from(2), numbered(9, 5))));
            assert!(seen.contains(&(from(2), numbered(9, 6))));
        }
    }

    #[test]
    fn one_sender_with_many_incarnations_costs_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = Seen::load(dir.path().join("seen")).unwrap();
        seen.see((from(1), numbered(200, 1)));
        for incarnation in 0..100 {
            seen.see((from(2), numbered(incarnation, 1)));
        }
        assert_eq!(seen.numbered.len(), 1 + INCARNATIONS_OF_SENDER);
        assert!(seen.contains(&(from(1), numbered(200, 1))));
        assert!(seen.contains(&(from(2), numbered(99, 1))));
        assert!(!seen.contains(&(from(2), numbered(0, 1))));
    }

    #[test]
    fn lines_that_say_nothing_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen");
        let junk = b"\xff\xfe\n0:0000.0000.0001\n0:0000.0000.0001 0707070707070707 1 9 9\n\
            0:0000.0000.0001 0707070707070707 4 6\n0:0000.0000.0001 07070707070707";
        std::fs::write(&path, junk).unwrap();
        let mut seen = Seen::load(path.clone()).unwrap();
        assert!(seen.contains(&(from(1), numbered(7, 5))));
        assert!(!seen.contains(&(from(1), numbered(7, 7))));
        seen.remember(&[(from(1), numbered(7, 7))], 0).write().unwrap();
        assert!(Seen::load(path).unwrap().contains(&(from(1), numbered(7, 7))));
    }
}
