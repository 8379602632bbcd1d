//! Files that this agent has begun to send and that no receipt has come for, so that sending
//! the same file again continues it. A file is the same if receiver, name, size and time of
//! modification are; should its content differ all the same, the receiver notices by the hash.

use super::disk;
use super::serve::random_id;
use pilot_core::addr::Address;
use pilot_core::service::exchange::{FileName, TransferId};
use serde::{Deserialize, Serialize};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Files that are remembered, beside those in the outbox; the oldest is forgotten for one more.
const UNFINISHED_MAX: usize = 256;

/// Which file, as its sender sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FileKey {
    /// The receiver.
    pub(crate) to: Address,
    /// Its name there.
    pub(crate) name: FileName,
    /// Bytes.
    pub(crate) size: u64,
    /// When it was last changed, in nanoseconds since the Unix epoch, as the client says.
    pub(crate) modified_ns: u64,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    to: String,
    name: String,
    size: u64,
    modified_ns: u64,
    id: String,
}

impl Entry {
    fn is(&self, key: &FileKey) -> bool {
        (self.size, self.modified_ns) == (key.size, key.modified_ns)
            && self.name == key.name.as_str()
            && self.to == key.to.on_backbone().to_string()
    }
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Begun(Entry),
    Ended { ended: String },
}

#[derive(Default)]
struct List {
    /// Oldest first.
    entries: Vec<Entry>,
    /// In the file; `None` if it is to be written anew.
    lines: Option<usize>,
}

impl List {
    /// Formerly the file was one array.
    fn read(text: &[u8]) -> List {
        if let Ok(entries) = serde_json::from_slice(text) {
            return List { entries, lines: None };
        }
        let mut list = List { entries: Vec::new(), lines: Some(0) };
        for line in text.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            list.lines = list.lines.map(|lines| lines + 1);
            match serde_json::from_slice(line) {
                Ok(Line::Begun(entry)) => list.entries.push(entry),
                Ok(Line::Ended { ended }) => list.entries.retain(|e| e.id != ended),
                // A crash has cut it.
                Err(_) => list.lines = None,
            }
        }
        list
    }
}

/// The list, in one file to which lines are appended. Every method blocks on the disk.
pub(crate) struct Unfinished {
    path: PathBuf,
    list: Mutex<List>,
}

impl Unfinished {
    /// Reads the list; what is damaged of it costs a transfer its resumption.
    pub(crate) fn open(path: PathBuf) -> io::Result<Unfinished> {
        let list = match std::fs::read(&path) {
            Ok(text) => List::read(&text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => List::default(),
            Err(e) => return Err(e),
        };
        Ok(Unfinished { path, list: Mutex::new(list) })
    }

    /// The id under which to send a file: that of its unfinished transfer, or a new one. One that
    /// waits in the outbox, as `is_kept` says, is not forgotten: it would be put there twice.
    pub(crate) fn begin(
        &self,
        key: &FileKey,
        is_kept: impl Fn(TransferId) -> bool,
    ) -> io::Result<TransferId> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let parsed = |e: &Entry| e.id.parse().ok();
        if let Some(id) = list.entries.iter().find(|e| e.is(key)).and_then(parsed) {
            return Ok(id);
        }
        list.entries.retain(|e| !e.is(key));
        let mut lines = Vec::with_capacity(2);
        if list.entries.len() >= UNFINISHED_MAX {
            let entries = list.entries.iter().enumerate();
            let mut others = entries.filter(|(_, e)| !parsed(e).is_some_and(&is_kept));
            let oldest = others.next().map(|(at, _)| at);
            if let Some(oldest) = oldest.filter(|_| others.count() + 1 >= UNFINISHED_MAX) {
                lines.push(Line::Ended { ended: list.entries.remove(oldest).id });
            }
        }
        let id = random_id()?;
        let entry = Entry {
            to: key.to.on_backbone().to_string(),
            name: key.name.to_string(),
            size: key.size,
            modified_ns: key.modified_ns,
            id: id.to_string(),
        };
        list.entries.push(entry.clone());
        lines.push(Line::Begun(entry));
        self.note(&mut list, &lines)?;
        Ok(id)
    }

    /// The transfer is done, or cannot be continued.
    pub(crate) fn end(&self, id: TransferId) -> io::Result<()> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let before = list.entries.len();
        let ended = id.to_string();
        list.entries.retain(|e| e.id != ended);
        if list.entries.len() == before {
            return Ok(());
        }
        self.note(&mut list, &[Line::Ended { ended }])
    }

    /// Appends lines, or writes the file anew where most of it is over.
    fn note(&self, list: &mut List, lines: &[Line]) -> io::Result<()> {
        let text = |line: &_| serde_json::to_vec(line).map(|text| [&text[..], b"\n"].concat());
        let most = 2 * list.entries.len() + UNFINISHED_MAX;
        // What was written in part is not known: until it is whole the file counts as damaged.
        match list.lines.take().filter(|before| before + lines.len() <= most) {
            Some(before) => {
                let lines = lines.iter().map(text).collect::<Result<Vec<_>, _>>()?;
                let mut file = disk::open_append(&self.path)?;
                file.write_all(&lines.concat())?;
                file.sync_all()?;
                list.lines = Some(before + lines.len());
            }
            None => {
                let all = list.entries.iter().cloned().map(Line::Begun);
                let all = all.map(|line| text(&line)).collect::<Result<Vec<_>, _>>()?;
                disk::replace(&self.path, &[&all.concat()], true)?;
                list.lines = Some(all.len());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(size: u64) -> FileKey {
        FileKey {
            to: "1:0001.0000.0042".parse().unwrap(),
            name: "dataset.csv".parse().unwrap(),
            size,
            modified_ns: 7,
        }
    }

    fn begin(unfinished: &Unfinished, size: u64) -> TransferId {
        unfinished.begin(&key(size), |_| false).unwrap()
    }

    #[test]
    fn the_same_file_keeps_its_id_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unfinished.json");
        let open = || Unfinished::open(path.clone()).unwrap();
        let id = begin(&open(), 1);
        assert_eq!(begin(&open(), 1), id);
        let other = begin(&open(), 2);
        assert_ne!(other, id);
        let unfinished = open();
        unfinished.end(id).unwrap();
        assert_ne!(begin(&unfinished, 1), id);
        assert_eq!(begin(&open(), 2), other);
        for size in 10..10 + UNFINISHED_MAX as u64 {
            begin(&unfinished, size);
        }
        assert_ne!(begin(&unfinished, 2), other, "the oldest makes room");
        let last = begin(&unfinished, 3);
        let mut cut = std::fs::read(&path).unwrap();
        cut.extend(b"{\"ended\":");
        std::fs::write(&path, cut).unwrap();
        let next = begin(&open(), 4);
        assert_eq!((begin(&open(), 3), begin(&open(), 4)), (last, next));
        std::fs::write(&path, b"[{").unwrap();
        begin(&open(), 1);
    }

    #[test]
    fn what_waits_in_the_outbox_is_never_forgotten_and_the_file_stays_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unfinished.json");
        let unfinished = Unfinished::open(path.clone()).unwrap();
        let count = UNFINISHED_MAX as u64 + 50;
        let kept = std::cell::RefCell::new(std::collections::BTreeSet::new());
        let queue = |unfinished: &Unfinished| {
            for size in 0..count {
                let id = unfinished.begin(&key(size), |id| kept.borrow().contains(&id)).unwrap();
                kept.borrow_mut().insert(id);
            }
            kept.borrow().len() as u64
        };
        assert_eq!((queue(&unfinished), queue(&unfinished)), (count, count));
        // Others are as many as ever.
        let others = 1000..1002 + UNFINISHED_MAX as u64;
        for size in others.clone() {
            unfinished.begin(&key(size), |id| kept.borrow().contains(&id)).unwrap();
        }
        let len = || unfinished.list.lock().unwrap().entries.len();
        assert_eq!(len(), count as usize + UNFINISHED_MAX);
        assert_eq!(queue(&Unfinished::open(path.clone()).unwrap()), count);
        for size in 0..3 * count {
            unfinished.end(begin(&unfinished, 5000 + size)).unwrap();
        }
        kept.borrow().iter().for_each(|id| unfinished.end(*id).unwrap());
        assert!(len() <= UNFINISHED_MAX);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() <= 5 * UNFINISHED_MAX, "{}", text.lines().count());
    }

    #[test]
    fn a_list_of_an_earlier_version_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unfinished.json");
        let id = begin(&Unfinished::open(path.clone()).unwrap(), 1);
        let line = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("[{}]", line.trim())).unwrap();
        let unfinished = Unfinished::open(path.clone()).unwrap();
        assert_eq!(begin(&unfinished, 1), id);
        let next = begin(&unfinished, 2);
        let unfinished = Unfinished::open(path).unwrap();
        assert_eq!((begin(&unfinished, 1), begin(&unfinished, 2)), (id, next));
    }
}
