//! The content of a directory (kind 5, `wire.md` 12): its entries one after another, each with
//! its name and, of a file, its bytes. There are no paths in it, only names and the nesting, so
//! no entry can lie outside of the directory; and no links, devices, owners or modes.
//!
//! ```text
//! content   = *entry end
//! entry     = directory / file
//! directory = 1 ‖ name len 1 ‖ name ‖ *entry ‖ end
//! file      = 2 ‖ name len 1 ‖ name ‖ size 8 ‖ size raw bytes
//! end       = 0
//! ```
//!
//! Integers are big-endian, names are [`FileName`]s. The entries of one directory ascend by the
//! bytes of their names, so none comes twice, and one tree has one content. At most
//! [`TREE_ENTRIES_MAX`] entries, [`TREE_DEPTH_MAX`] directories within each other, and
//! [`TREE_PATH_MAX`] bytes of a path.

use super::{FileName, NAME_MAX, name::FileNameError};
use core::fmt;
use heapless::{String, Vec};

/// Most entries of a directory, those of its directories included.
pub const TREE_ENTRIES_MAX: u32 = 65_536;
/// Most directories within each other, below the one that is sent.
pub const TREE_DEPTH_MAX: usize = 32;
/// Longest path of an entry in bytes, from the directory that is sent, with a separator before
/// each name.
pub const TREE_PATH_MAX: usize = 1024;

const END: u8 = 0;
const DIRECTORY: u8 = 1;
const FILE: u8 = 2;
/// Kind, length, name, size.
const HEAD_MAX: usize = 2 + NAME_MAX + 8;

/// What stands before the bytes of an entry.
pub type EntryHead = Vec<u8, HEAD_MAX>;

/// Why a content is not that of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// An entry of a kind that there is not.
    #[error("there is no kind {0} of entries")]
    Kind(u8),
    /// A name that is not a base name.
    #[error("{0}")]
    Name(FileNameError),
    /// A name that is not behind the one before it.
    #[error("names are out of order, or one comes twice")]
    Order,
    /// More than [`TREE_ENTRIES_MAX`] entries.
    #[error("more than {TREE_ENTRIES_MAX} entries")]
    TooMany,
    /// More than [`TREE_DEPTH_MAX`] directories within each other.
    #[error("more than {TREE_DEPTH_MAX} directories within each other")]
    TooDeep,
    /// A path longer than [`TREE_PATH_MAX`].
    #[error("a path of more than {TREE_PATH_MAX} bytes")]
    PathTooLong,
    /// Something behind the end.
    #[error("something follows the end")]
    Trailing,
    /// No end.
    #[error("the end is missing")]
    Truncated,
}

/// Where in a tree we are; the rules that reader and writer share.
#[derive(Clone, Debug)]
struct Place {
    /// `/a/b` within two directories.
    path: String<TREE_PATH_MAX>,
    depth: usize,
    /// The name before, in the directory that we are in.
    last: Option<FileName>,
    entries: u32,
    is_over: bool,
}

impl Place {
    const fn new() -> Self {
        Place { path: String::new(), depth: 0, last: None, entries: 0, is_over: false }
    }

    fn add(&mut self, name: &FileName) -> Result<(), TreeError> {
        if self.is_over {
            return Err(TreeError::Trailing);
        }
        if self.last.as_ref().is_some_and(|last| last >= name) {
            return Err(TreeError::Order);
        }
        if self.entries >= TREE_ENTRIES_MAX {
            return Err(TreeError::TooMany);
        }
        if self.path.len() + 1 + name.as_str().len() > TREE_PATH_MAX {
            return Err(TreeError::PathTooLong);
        }
        self.entries += 1;
        Ok(())
    }

    fn file(&mut self, name: &FileName) -> Result<(), TreeError> {
        self.add(name)?;
        self.last = Some(name.clone());
        Ok(())
    }

    fn enter(&mut self, name: &FileName) -> Result<(), TreeError> {
        if self.depth >= TREE_DEPTH_MAX {
            return Err(TreeError::TooDeep);
        }
        self.add(name)?;
        self.depth += 1;
        self.last = None;
        // It was seen to fit.
        let _ = self.path.push('/').and_then(|()| self.path.push_str(name.as_str()));
        Ok(())
    }

    fn leave(&mut self) -> Result<(), TreeError> {
        if self.is_over {
            return Err(TreeError::Trailing);
        }
        let Some(at) = self.path.rfind('/') else {
            self.is_over = true;
            return Ok(());
        };
        self.last = self.path[at + 1..].parse().ok();
        self.path.truncate(at);
        self.depth -= 1;
        Ok(())
    }
}

/// Writes the content of a directory: what stands between the bytes of its files.
#[derive(Clone, Debug)]
pub struct TreeWriter(Place);

impl TreeWriter {
    /// At the beginning.
    pub const fn new() -> Self {
        TreeWriter(Place::new())
    }

    /// A directory begins: the entries that follow are in it, until [`leave`](Self::leave).
    pub fn enter(&mut self, name: &FileName) -> Result<EntryHead, TreeError> {
        self.0.enter(name)?;
        Ok(head(DIRECTORY, name, &[]))
    }

    /// A file; exactly `size` bytes follow what is returned.
    pub fn file(&mut self, name: &FileName, size: u64) -> Result<EntryHead, TreeError> {
        self.0.file(name)?;
        Ok(head(FILE, name, &size.to_be_bytes()))
    }

    /// The directory that was entered last is complete; at last the whole one.
    pub fn leave(&mut self) -> Result<EntryHead, TreeError> {
        self.0.leave()?;
        Ok(EntryHead::from_iter([END]))
    }
}

impl Default for TreeWriter {
    fn default() -> Self {
        TreeWriter::new()
    }
}

fn head(kind: u8, name: &FileName, size: &[u8]) -> EntryHead {
    let name = name.as_str().as_bytes();
    // A name's length fits by its type.
    [kind, name.len() as u8].iter().chain(name).chain(size).copied().collect()
}

/// What a reader has found.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is no allocator; it lives for one call")]
pub enum TreeItem<'b> {
    /// A directory begins.
    Enter(FileName),
    /// The directory that was entered last is complete.
    Leave,
    /// A file of so many bytes, which follow.
    File {
        /// Its name in the directory that it is in.
        name: FileName,
        /// Bytes.
        size: u64,
    },
    /// The next bytes of the file.
    Data(&'b [u8]),
}

/// Reads the content of a directory, in pieces of any size. Never holds more than the head of
/// one entry, and the path that it is at.
pub struct TreeReader {
    place: Place,
    head: [u8; HEAD_MAX],
    len: usize,
    /// Bytes of the file that are still to come.
    left: u64,
}

impl fmt::Debug for TreeReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreeReader({} entries, at {:?})", self.place.entries, self.place.path)
    }
}

impl TreeReader {
    /// At the beginning.
    pub const fn new() -> Self {
        TreeReader { place: Place::new(), head: [0; HEAD_MAX], len: 0, left: 0 }
    }

    /// Entries so far.
    pub fn entries(&self) -> u32 {
        self.place.entries
    }

    /// Takes bytes: how many were used, and what they meant. Call again until nothing is used.
    /// After an error the content is of no use.
    pub fn handle_bytes<'b>(
        &mut self,
        input: &'b [u8],
    ) -> Result<(usize, Option<TreeItem<'b>>), TreeError> {
        if self.left > 0 {
            let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
            self.left -= n as u64;
            return Ok((n, (n > 0).then(|| TreeItem::Data(&input[..n]))));
        }
        let mut used = 0;
        loop {
            let want = self.want()?;
            if self.len == want {
                self.len = 0;
                return Ok((used, self.parse(want)?));
            }
            let n = (want - self.len).min(input.len() - used);
            if n == 0 {
                return Ok((used, None));
            }
            if self.place.is_over {
                return Err(TreeError::Trailing);
            }
            self.head[self.len..self.len + n].copy_from_slice(&input[used..used + n]);
            self.len += n;
            used += n;
        }
    }

    /// Bytes that are needed before it can go on, given those that are there.
    fn want(&self) -> Result<usize, TreeError> {
        if self.len == 0 {
            return Ok(1);
        }
        let rest = match self.head[0] {
            END => return Ok(1),
            DIRECTORY => 0,
            FILE => 8,
            other => return Err(TreeError::Kind(other)),
        };
        Ok(if self.len < 2 { 2 } else { 2 + usize::from(self.head[1]) + rest })
    }

    fn parse<'b>(&mut self, len: usize) -> Result<Option<TreeItem<'b>>, TreeError> {
        if self.head[0] == END {
            self.place.leave()?;
            return Ok((!self.place.is_over).then_some(TreeItem::Leave));
        }
        let (name, size) = self.head[2..len].split_at(usize::from(self.head[1]));
        let name = FileName::from_bytes(name).map_err(TreeError::Name)?;
        match <[u8; 8]>::try_from(size) {
            Err(_) => {
                self.place.enter(&name)?;
                Ok(Some(TreeItem::Enter(name)))
            }
            Ok(size) => {
                self.place.file(&name)?;
                self.left = u64::from_be_bytes(size);
                Ok(Some(TreeItem::File { name, size: self.left }))
            }
        }
    }

    /// All bytes were handed in: whether the content is whole.
    pub fn finish(&self) -> Result<(), TreeError> {
        if self.place.is_over { Ok(()) } else { Err(TreeError::Truncated) }
    }
}

impl Default for TreeReader {
    fn default() -> Self {
        TreeReader::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;
    use std::string::{String, ToString as _};
    use std::vec::Vec;

    fn name(text: &str) -> FileName {
        text.parse().unwrap()
    }

    /// All that is in a content, with files whole, however it is cut.
    fn read(content: &[u8], step: usize) -> Result<Vec<String>, TreeError> {
        let (mut reader, mut found, mut data) = (TreeReader::new(), Vec::new(), Vec::new());
        let mut at = 0;
        while at < content.len() {
            let piece = &content[at..(at + step).min(content.len())];
            let (mut used, mut idle) = (0, false);
            while !idle {
                let (n, item) = reader.handle_bytes(&piece[used..])?;
                used += n;
                idle = n == 0 && item.is_none();
                if !matches!(item, Some(TreeItem::Data(_)) | None) && !data.is_empty() {
                    found.push(format!("{data:?}"));
                    data.clear();
                }
                match item {
                    Some(TreeItem::Data(bytes)) => data.extend_from_slice(bytes),
                    Some(item) => found.push(format!("{item:?}")),
                    None => {}
                }
            }
            assert_eq!(used, piece.len(), "all that is there is used");
            at += used;
        }
        found.extend((!data.is_empty()).then(|| format!("{data:?}")));
        reader.finish().map(|()| found)
    }

    fn sample() -> Vec<u8> {
        let mut writer = TreeWriter::new();
        let mut content = Vec::new();
        content.extend(writer.enter(&name("a")).unwrap());
        content.extend(writer.file(&name("empty"), 0).unwrap());
        content.extend(writer.file(&name("two"), 2).unwrap());
        content.extend(b"hi");
        content.extend(writer.leave().unwrap());
        content.extend(writer.enter(&name("b")).unwrap());
        content.extend(writer.leave().unwrap());
        content.extend(writer.file(&name("c"), 1).unwrap());
        content.extend([7]);
        content.extend(writer.leave().unwrap());
        assert_eq!(writer.leave(), Err(TreeError::Trailing));
        assert_eq!(writer.file(&name("z"), 0), Err(TreeError::Trailing));
        content
    }

    #[test]
    fn what_was_written_is_read_however_it_is_cut() {
        let content = sample();
        let expected = [
            "Enter(\"a\")",
            "File { name: \"empty\", size: 0 }",
            "File { name: \"two\", size: 2 }",
            "[104, 105]",
            "Leave",
            "Enter(\"b\")",
            "Leave",
            "File { name: \"c\", size: 1 }",
            "[7]",
        ];
        for step in 1..=content.len() {
            assert_eq!(read(&content, step).unwrap(), expected, "cut at {step}");
        }
        for len in 0..content.len() {
            assert_eq!(read(&content[..len], 99), Err(TreeError::Truncated), "{len}");
        }
        let more = [&content[..], &[0]].concat();
        assert_eq!(read(&more, 99), Err(TreeError::Trailing));
        assert_eq!(read(&[0], 1).unwrap(), Vec::<String>::new(), "an empty directory");
    }

    #[test]
    fn nothing_but_base_names_in_their_order_is_taken() {
        let entry = |kind: u8, name: &str| {
            [&[kind, name.len() as u8], name.as_bytes(), &[0; 9][..if kind == 2 { 8 } else { 0 }]]
                .concat()
        };
        for kind in [1, 2] {
            for bad in
                ["", ".", "..", "../a", "a/b", "/a", ".bashrc", "-rf", "a\n", "a\u{202E}b", "a\\b"]
            {
                let read = read(&entry(kind, bad), 99);
                assert!(matches!(read, Err(TreeError::Name(_))), "{bad:?}: {read:?}");
            }
            for (first, second) in [("b", "a"), ("a", "a")] {
                let before = [entry(2, first), entry(kind, second)].concat();
                assert_eq!(read(&before, 99), Err(TreeError::Order));
                // Also behind a directory.
                let before = [entry(1, first), std::vec![0], entry(kind, second)].concat();
                assert_eq!(read(&before, 99), Err(TreeError::Order));
            }
        }
        assert_eq!(read(&[1, 1, 0xFF], 99), Err(TreeError::Name(FileNameError::NotUtf8)));
        assert_eq!(read(&[3], 99), Err(TreeError::Kind(3)));
    }

    #[test]
    fn there_are_bounds() {
        let mut writer = TreeWriter::new();
        let mut content = Vec::new();
        for _ in 0..TREE_DEPTH_MAX {
            content.extend(writer.enter(&name("d")).unwrap());
        }
        assert_eq!(writer.enter(&name("d")), Err(TreeError::TooDeep));
        writer.file(&name("f"), 0).unwrap();
        content.extend([1, 1, b'd']);
        assert_eq!(read(&content, 99), Err(TreeError::TooDeep));

        let long = name(&"n".repeat(NAME_MAX));
        let mut writer = TreeWriter::new();
        for _ in 0..TREE_PATH_MAX / (NAME_MAX + 1) {
            writer.enter(&long).unwrap();
        }
        assert_eq!(writer.file(&name("n"), 0), Err(TreeError::PathTooLong));

        let (mut writer, mut reader) = (TreeWriter::new(), TreeReader::new());
        for n in 0..TREE_ENTRIES_MAX {
            let head = writer.file(&name(&format!("{n:05}")), 0).unwrap();
            assert_eq!(reader.handle_bytes(&head).unwrap().0, head.len());
        }
        assert_eq!(reader.entries(), TREE_ENTRIES_MAX);
        assert_eq!(writer.file(&name("99999"), 0), Err(TreeError::TooMany));
        let more = head(FILE, &name("99999"), &[0; 8]);
        assert_eq!(reader.handle_bytes(&more), Err(TreeError::TooMany));
    }

    proptest! {
        #[test]
        fn any_bytes(
            content in prop::collection::vec(prop_oneof![0u8..4, 97u8..100, any::<u8>()], 0..200),
            step in 1usize..40,
        ) {
            prop_assert_eq!(read(&content, step), read(&content, content.len().max(1)));
        }

        #[test]
        fn one_changed_byte_is_another_tree_or_none(at in 0usize..40, to in any::<u8>()) {
            let (content, mut changed) = (sample(), sample());
            let at = at % changed.len();
            if let Ok(found) = { changed[at] = to; read(&changed, 7) } {
                let same = found == read(&content, 7).unwrap();
                prop_assert_eq!(same, changed == content, "{}", found.len().to_string());
            }
        }
    }
}
