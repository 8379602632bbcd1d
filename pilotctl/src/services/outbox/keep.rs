//! Files in the outbox. A file's content is copied when it is given, and hashed as it passes: what
//! is delivered later is what it was then, whatever has become of the file since. A reference
//! would not do: a client of the local API hands over bytes, and the daemon opens no path that a
//! client names.

use super::{Item, Outbox, PutError, disk, record};
use crate::services::send::Source;
use pilot_core::addr::Address;
use pilot_core::service::exchange::{
    ContentHash, Digest, FileName, HashAlgorithm, Kind, Note, TransferId,
};
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::task::spawn_blocking;

/// Bytes of a content that are read and written at a time.
const CHUNK: usize = 1 << 20;

/// A file to keep.
#[derive(Clone, Debug)]
pub(crate) struct NewFile {
    /// The receiver, in the network that the sender has named.
    pub(crate) to: Address,
    /// A file or a directory.
    pub(crate) kind: Kind,
    /// The name it gets there.
    pub(crate) name: FileName,
    /// Bytes of the content.
    pub(crate) size: u64,
    /// What it is sent with.
    pub(crate) hash: HashAlgorithm,
    pub(crate) note: Note,
    /// The transfer that it continues; default: a new one.
    pub(crate) id: Option<TransferId>,
}

/// Puts a file into the outbox and says what it is there. When it returns well, the file survives a
/// power loss and is delivered exactly once. `progress` hears of the bytes kept so far; `carry` lets
/// the file be carried (`courier::carry`), also if nobody waits any more for what is returned.
pub(crate) async fn keep_file(
    outbox: &Arc<Outbox>,
    file: NewFile,
    source: &mut (impl AsyncRead + Unpin),
    mut progress: impl FnMut(u64),
    carry: impl FnOnce(&Item) + Send + 'static,
) -> Result<Item, PutError> {
    let size = file.size;
    let keeper = Arc::clone(outbox);
    let mut kept = blocking(move || keeper.begin_file(file)).await??;
    let mut left = size;
    let mut chunk = Vec::new();
    while left > 0 {
        chunk.clear();
        chunk.reserve(CHUNK);
        // Pieces of a connection are small; a write to the disk should not be.
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        (&mut *source).take(most as u64).read_to_end(&mut chunk).await.map_err(PutError::Source)?;
        if chunk.is_empty() {
            return Err(PutError::Size);
        }
        left = left.saturating_sub(chunk.len() as u64);
        (kept, chunk) = blocking(move || kept.write(&chunk).map(|()| (kept, chunk))).await??;
        progress(size - left);
    }
    let finish = move || {
        let item = kept.finish()?;
        carry(&item);
        Ok(item)
    };
    blocking(finish).await?
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PutError> {
    spawn_blocking(work).await.map_err(|e| PutError::Disk(io::Error::other(e)))
}

/// A file that is being put into the outbox. Dropped unfinished, nothing of it stays.
pub(super) struct Kept {
    outbox: Arc<Outbox>,
    item: Item,
    file: File,
    hash: ContentHash,
    is_over: bool,
}

impl Kept {
    /// Appends the next bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), PutError> {
        if bytes.len() as u64 > self.item.size - self.hash.len() {
            return Err(PutError::Size);
        }
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        Ok(())
    }

    /// The content is whole.
    pub(super) fn finish(mut self) -> Result<Item, PutError> {
        if self.hash.len() != self.item.size {
            return Err(PutError::Size);
        }
        self.item.hash = self.hash.digest();
        let path = self.outbox.dir.join(record::file_name(&self.item));
        // The content first: a line without it would be an item that cannot be sent.
        self.file.sync_all()?;
        disk::replace(&path, &[&record::head(&self.item)?], true)?;
        self.is_over = true;
        self.outbox.admit(self.item.clone(), Ok(()))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if !self.is_over {
            let path = self.outbox.dir.join(record::file_name(&self.item));
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_file(path.with_extension("data"));
            self.outbox.state().release(&self.item);
        }
    }
}

impl Outbox {
    /// Takes room for a file. Blocks on the disk.
    pub(super) fn begin_file(self: &Arc<Self>, file: NewFile) -> Result<Kept, PutError> {
        let hash = file.hash;
        let mut item = Item::new(file.to, file.kind, file.size);
        (item.name, item.note) = (Some(file.name), file.note);
        if disk::free_bytes(&self.dir)? < file.size.saturating_add(self.limits.keep_free) {
            return Err(PutError::NoSpace);
        }
        self.state().reserve(&self.limits, &mut item, file.id)?;
        let path = self.dir.join(record::file_name(&item)).with_extension("data");
        match disk::create_new(&path) {
            Ok(file) => Ok(Kept {
                outbox: Arc::clone(self),
                item,
                file,
                hash: ContentHash::new(hash),
                is_over: false,
            }),
            Err(e) => {
                self.state().release(&item);
                Err(e.into())
            }
        }
    }

    /// Opens the content of a file, to be sent. Blocks on the disk.
    pub(crate) fn open_content(&self, item: &Item) -> io::Result<Content> {
        let path = self.dir.join(record::file_name(item)).with_extension("data");
        let file = File::open(path)?;
        if file.metadata()?.len() != item.size {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let file = tokio::fs::File::from_std(file);
        let hash = ContentHash::new(item.hash.algorithm());
        Ok(Content { file, hash, size: item.size, expected: item.hash })
    }
}

/// The content of a file in the outbox. Its end is given out only if all of it is what was put
/// there; else it is an error, `InvalidData`.
pub(crate) struct Content {
    file: tokio::fs::File,
    hash: ContentHash,
    size: u64,
    expected: Digest,
}

impl Source for Content {
    async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buf).await?;
        self.hash.update(&buf[..n]);
        if self.hash.len() >= self.size && self.hash.digest() != self.expected {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(n)
    }

    fn rewind(&mut self) -> bool {
        false
    }
}
