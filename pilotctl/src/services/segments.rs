//! Small records in few files, of which many are made durable by one sync.
//!
//! A record is a line of JSON, which says among others how many bytes of content there are, and
//! then these. A file of them, a segment, is written under a temporary name with its first records,
//! synced, renamed, and the directory synced; later ones are appended and synced, until it has
//! [`SEGMENT`] bytes. What a crash leaves at its end nobody was told of, and it is not read: each
//! record has the hash of its content.
//!
//! Of a record that is removed the first byte becomes [`REMOVED`]; a segment of which none is left is
//! removed itself. Where what was removed takes more room than what is there, and [`SLACK`], the
//! records of a segment are written anew elsewhere.

use super::disk;
use pilot_core::service::exchange::{ContentHash, Digest};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nothing is appended to a segment of more bytes.
const SEGMENT: u64 = 1 << 20;
/// Bytes that records that were removed may take beyond as many as there are.
const SLACK: u64 = 16 << 20;
/// No segment has more bytes: one of [`SEGMENT`] bytes, and the largest group.
const SEGMENT_MAX: u64 = 16 << 20;
/// Longest line of a record that is read.
const LINE_MAX: usize = 16 * 1024;
/// Instead of a record's first byte, which is `{`.
const REMOVED: u8 = b'#';

/// What a line says of its record.
pub(super) trait Record: Sized {
    /// Reads a line.
    fn read(line: &[u8]) -> Option<Self>;
    /// By which it is known: no two that are there have the same.
    fn order(&self) -> u64;
    /// Bytes of its content.
    fn size(&self) -> u64;
    /// Of its content.
    fn hash(&self) -> Digest;
}

/// A record to append.
pub(super) struct New<'r> {
    pub(super) order: u64,
    /// Its line, with the line break.
    pub(super) line: Vec<u8>,
    pub(super) content: &'r [u8],
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    segment: u64,
    at: u64,
    line: u64,
    size: u64,
}

impl Place {
    const fn len(self) -> u64 {
        self.line + self.size
    }
}

struct Segment {
    path: PathBuf,
    /// Records that are there, or are being written.
    records: usize,
    /// Bytes of them.
    bytes: u64,
    /// Bytes of those that were removed.
    removed: u64,
}

#[derive(Default)]
struct Index {
    segments: BTreeMap<u64, Segment>,
    places: BTreeMap<u64, Place>,
    /// Those of them that are not what they were when they were read.
    damaged: BTreeSet<u64>,
    next: u64,
}

/// The segment to which records are appended.
struct Writer {
    segment: u64,
    file: File,
    len: u64,
}

/// The segments of a directory. Every method blocks on the disk.
pub(super) struct Segments {
    dir: PathBuf,
    extension: &'static str,
    /// Held while records are removed, and moved. Locked first.
    removing: Mutex<()>,
    /// Held while records are written.
    writer: Mutex<Option<Writer>>,
    /// Never held while the disk works. Locked last.
    index: Mutex<Index>,
    #[cfg(test)]
    syncs: std::sync::atomic::AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Segments {
    /// Of a directory that exists; [`load`](Self::load) tells it of the files that are there.
    pub(super) fn new(dir: PathBuf, extension: &'static str) -> Self {
        Segments {
            dir,
            extension,
            removing: Mutex::default(),
            writer: Mutex::default(),
            index: Mutex::default(),
            #[cfg(test)]
            syncs: Default::default(),
        }
    }

    fn count_sync(&self) {
        #[cfg(test)]
        self.syncs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// How often records were synced, and how often a segment was begun.
    #[cfg(test)]
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(std::sync::atomic::Ordering::Relaxed)
    }

    // ---- reading ----

    /// Reads a segment that an earlier process has left: its records, and whether their content is
    /// what it was. A file without a record is left alone, and one that was read or written already.
    pub(super) fn load<R: Record>(&self, path: &Path) -> io::Result<Vec<(R, bool)>> {
        let is_known = |segment: &Segment| segment.path.as_os_str() == path.as_os_str();
        if lock(&self.index).segments.values().any(is_known) {
            // Its records would be taken for moved ones, and the only ones there are removed.
            return Ok(Vec::new());
        }
        if path.metadata()?.len() > SEGMENT_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let bytes = std::fs::read(path)?;
        let (mut found, mut at, mut removed) = (Vec::new(), 0, 0);
        while let Some((record, line, content, is_there)) = next_record::<R>(&bytes[at..]) {
            let (line, size) = (line as u64, content.len() as u64);
            if is_there {
                let place = Place { segment: 0, at: at as u64, line, size };
                let hash = record.hash();
                let is_whole = ContentHash::of(hash.algorithm(), content) == hash;
                found.push((record, is_whole, place));
            } else {
                removed += line + size;
            }
            at += (line + size) as usize;
        }
        // What was being written when the power failed.
        while found.pop_if(|(_, is_whole, _)| !*is_whole).is_some() {}
        if at == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if at < bytes.len() {
            tracing::warn!(file = %path.display(), at, "the rest is no record: left alone");
        }
        if found.is_empty() {
            if at == bytes.len() {
                std::fs::remove_file(path)?;
            }
            return Ok(Vec::new());
        }
        self.register(path, found, removed)
    }

    /// Of a record that is there in another segment already, the whole one stays; the records that
    /// are new.
    fn register<R: Record>(
        &self,
        path: &Path,
        found: Vec<(R, bool, Place)>,
        removed: u64,
    ) -> io::Result<Vec<(R, bool)>> {
        let mut index = lock(&self.index);
        let number = index.begin(path.to_owned());
        let (mut records, mut bytes, mut there) = (Vec::new(), 0, 0);
        let (mut twice, mut gone) = (Vec::new(), Vec::new());
        for (record, is_whole, place) in found {
            let (order, place) = (record.order(), Place { segment: number, ..place });
            let other = index.places.get(&order).copied();
            // It was being moved when the process ended, or when the power failed: then what was
            // written last may be damaged.
            let is_better = is_whole && index.damaged.contains(&order);
            if other.is_some_and(|other| !is_better || other.segment == number) {
                twice.push(place);
                continue;
            }
            if let Some(other) = other {
                let path = index.segments.get(&other.segment).map(|segment| segment.path.clone());
                let is_last = index.forget(other.segment, &[(order, other)]).is_some();
                gone.extend(path.map(|path| (path, other, is_last)));
            } else {
                records.push((record, is_whole));
            }
            if !is_whole {
                index.damaged.insert(order);
            }
            index.places.insert(order, place);
            (there, bytes) = (there + 1, bytes + place.len());
        }
        if let Some(segment) = index.segments.get_mut(&number) {
            (segment.records, segment.bytes) = (there, bytes);
            segment.removed = removed + twice.iter().map(|place| place.len()).sum::<u64>();
        }
        if there == 0 {
            index.segments.remove(&number);
        }
        drop(index);
        for (path, place, is_last) in gone {
            if is_last { remove_file(&path)? } else { mark(&path, &[place], true)? }
        }
        if there == 0 {
            std::fs::remove_file(path)?;
        } else if !twice.is_empty() {
            mark(path, &twice, true)?;
        }
        Ok(records)
    }

    /// Whether a record is there.
    pub(super) fn contains(&self, order: u64) -> bool {
        lock(&self.index).places.contains_key(&order)
    }

    /// The content of a record.
    pub(super) fn read(&self, order: u64) -> io::Result<Vec<u8>> {
        let mut before = None;
        loop {
            let (place, path) = {
                let index = lock(&self.index);
                let place = index.places.get(&order).copied();
                let segment = place.and_then(|place| index.segments.get(&place.segment));
                place.zip(segment.map(|segment| segment.path.clone()))
            }
            .ok_or(io::ErrorKind::NotFound)?;
            let read = File::open(path).and_then(|file| {
                let mut content = vec![0; place.size as usize];
                file.read_exact_at(&mut content, place.at + place.line).map(|()| content)
            });
            match read {
                // Just when it was moved.
                Err(e) if e.kind() == io::ErrorKind::NotFound && before != Some(place) => {
                    before = Some(place);
                }
                other => return other,
            }
        }
    }

    // ---- writing ----

    /// Appends records, all or none; when it returns well they survive a power loss. `name` is that
    /// of the file that begins with them, if one does.
    pub(super) fn append(&self, name: &str, records: &[New<'_>]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let parts = records.iter().flat_map(|record| [&record.line[..], record.content]);
        let bytes = parts.collect::<Vec<_>>().concat();
        let mut writer = lock(&self.writer);
        let current = writer.take().filter(|current| {
            current.len < SEGMENT && lock(&self.index).reserve(current.segment, records.len())
        });
        let mut current = match current {
            Some(current) => self.extend(current, &bytes, records.len())?,
            None => self.begin(name, &bytes, records.len())?,
        };
        let mut index = lock(&self.index);
        for record in records {
            let (line, size) = (record.line.len() as u64, record.content.len() as u64);
            let place = Place { segment: current.segment, at: current.len, line, size };
            index.places.insert(record.order, place);
            current.len += place.len();
        }
        if let Some(segment) = index.segments.get_mut(&current.segment) {
            segment.bytes += bytes.len() as u64;
        }
        *writer = Some(current);
        Ok(())
    }

    fn extend(&self, current: Writer, bytes: &[u8], records: usize) -> io::Result<Writer> {
        let Writer { segment, ref file, len } = current;
        let written = file.write_all_at(bytes, len).and_then(|()| file.sync_data());
        self.count_sync();
        if let Err(error) = written {
            // Nothing more is appended to it: what is behind its end now is not known.
            let _ = file.set_len(len);
            let gone = lock(&self.index).release(segment, records);
            gone.map_or(Ok(()), std::fs::remove_file)?;
            return Err(error);
        }
        Ok(current)
    }

    /// The first records of a segment; its length is counted by the caller.
    fn begin(&self, name: &str, bytes: &[u8], records: usize) -> io::Result<Writer> {
        let path = self.dir.join(name).with_extension(self.extension);
        let file = disk::create(&path, &[bytes], true).inspect_err(|_| {
            // It may have its name, and would be read at the next start.
            let _ = remove_file(&path);
        })?;
        self.count_sync();
        let mut index = lock(&self.index);
        let segment = index.begin(path);
        index.reserve(segment, records);
        Ok(Writer { segment, file, len: 0 })
    }

    // ---- removing ----

    /// Removes records; those that are not there are passed over. With `durable` none of them comes
    /// back after a power loss. One that cannot be removed is no reason to leave the others.
    pub(super) fn remove(&self, orders: &[u64], durable: bool) -> io::Result<()> {
        let _one = lock(&self.removing);
        let mut by_segment: BTreeMap<u64, Vec<(u64, Place)>> = BTreeMap::new();
        {
            let index = lock(&self.index);
            for order in orders {
                if let Some(place) = index.places.get(order) {
                    by_segment.entry(place.segment).or_default().push((*order, *place));
                }
            }
        }
        let mut outcome = Ok(());
        for (number, records) in by_segment {
            outcome = outcome.and(self.remove_from(number, &records, durable));
        }
        loop {
            let sparse = lock(&self.index).sparse();
            let Some(number) = sparse else { return outcome };
            if let Err(error) = self.move_records(number) {
                tracing::warn!(%error, dir = %self.dir.display(), "cannot make room");
                return outcome;
            }
        }
    }

    fn remove_from(&self, number: u64, records: &[(u64, Place)], durable: bool) -> io::Result<()> {
        let (path, is_all) = {
            let mut index = lock(&self.index);
            let Some(segment) = index.segments.get(&number) else { return Ok(()) };
            let (path, is_all) = (segment.path.clone(), segment.records == records.len());
            if is_all {
                // Nothing is appended to it from now on.
                index.forget(number, records);
            }
            (path, is_all)
        };
        if is_all {
            if let Err(error) = remove_file(&path) {
                let mut index = lock(&self.index);
                let bytes = records.iter().map(|(_, place)| place.len()).sum();
                index.places.extend(records.iter().copied());
                let segment = Segment { path, records: records.len(), bytes, removed: 0 };
                index.segments.insert(number, segment);
                return Err(error);
            }
            return if durable { disk::sync_dir(&self.dir) } else { Ok(()) };
        }
        let places: Vec<_> = records.iter().map(|(_, place)| *place).collect();
        mark(&path, &places, durable)?;
        // What was being appended may have failed meanwhile.
        let gone = lock(&self.index).forget(number, records);
        gone.map_or(Ok(()), |path| remove_file(&path))
    }

    /// Writes what is left of a segment into another, and removes it.
    fn move_records(&self, number: u64) -> io::Result<()> {
        let mut writer = lock(&self.writer);
        if writer.as_ref().is_some_and(|current| current.segment == number) {
            *writer = None;
        }
        drop(writer);
        let (path, records) = {
            let index = lock(&self.index);
            let Some(segment) = index.segments.get(&number) else { return Ok(()) };
            let here = index.places.iter().filter(|(_, place)| place.segment == number);
            let records: Vec<_> = here.map(|(order, place)| (*order, *place)).collect();
            (segment.path.clone(), records)
        };
        let bytes = std::fs::read(&path)?;
        let part = |at: u64, len: u64| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            bytes.get(at..at.saturating_add(len as usize)).ok_or(io::ErrorKind::UnexpectedEof)
        };
        let mut moved = Vec::new();
        for &(order, Place { at, line, size, .. }) in &records {
            let (line, content) = (part(at, line)?.to_vec(), part(at + line, size)?);
            moved.push(New { order, line, content });
        }
        self.append(&format!("{:017}-moved-{number}.new", disk::unix_micros()), &moved)?;
        lock(&self.index).segments.remove(&number);
        remove_file(&path)
    }
}

impl Index {
    fn begin(&mut self, path: PathBuf) -> u64 {
        let number = self.next;
        self.next += 1;
        self.segments.insert(number, Segment { path, records: 0, bytes: 0, removed: 0 });
        number
    }

    /// Takes part in a segment; false if it was removed.
    fn reserve(&mut self, number: u64, records: usize) -> bool {
        let Some(segment) = self.segments.get_mut(&number) else { return false };
        segment.records += records;
        true
    }

    /// Records that were to be there are not; the segment's file, if none is left.
    fn release(&mut self, number: u64, records: usize) -> Option<PathBuf> {
        let segment = self.segments.get_mut(&number)?;
        segment.records -= records;
        (segment.records == 0).then(|| self.segments.remove(&number)).flatten().map(|s| s.path)
    }

    /// The same of records that were there.
    fn forget(&mut self, number: u64, records: &[(u64, Place)]) -> Option<PathBuf> {
        for (order, place) in records {
            self.places.remove(order);
            self.damaged.remove(order);
            if let Some(segment) = self.segments.get_mut(&number) {
                segment.bytes -= place.len();
                segment.removed += place.len();
            }
        }
        self.release(number, records.len())
    }

    /// The segment with most room to gain, if there is too much.
    fn sparse(&self) -> Option<u64> {
        let sum = |of: fn(&Segment) -> u64| self.segments.values().map(of).sum::<u64>();
        if sum(|segment| segment.removed) <= sum(|segment| segment.bytes) + SLACK {
            return None;
        }
        self.segments.iter().max_by_key(|(_, s)| s.removed).map(|(number, _)| *number)
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Marks records as removed.
fn mark(path: &Path, places: &[Place], durable: bool) -> io::Result<()> {
    let file = disk::open_existing(path)?;
    for place in places {
        file.write_all_at(&[REMOVED], place.at)?;
    }
    if durable { file.sync_data() } else { Ok(()) }
}

/// The record at the front: what its line says, the line's bytes, its content, and whether it is
/// there still.
fn next_record<R: Record>(bytes: &[u8]) -> Option<(R, usize, &[u8], bool)> {
    let line = bytes.iter().take(LINE_MAX).position(|&byte| byte == b'\n')? + 1;
    let is_there = bytes[0] != REMOVED;
    let mut text = bytes[..line].to_vec();
    if !is_there {
        text[0] = b'{';
    }
    let record = R::read(&text)?;
    let size = usize::try_from(record.size()).ok()?;
    let content = bytes[line..].get(..size)?;
    Some((record, line, content, is_there))
}

#[cfg(test)]
#[path = "segments_tests.rs"]
mod tests;
