//! A directory as one content: looked at first, so that its size is known, then read.

use crate::error::{Code, Failure};
use crate::output::quoted;
use pilot_core::service::exchange::{FileName, TreeError, TreeWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex};
use tokio::task::JoinHandle;

/// Bytes of a content that wait to be sent, and that are read at a time.
const PIPE: usize = 256 * 1024;

/// A piece of a content.
enum Piece {
    Head(Vec<u8>),
    File(PathBuf, u64),
}

/// A directory as it was when it was looked at.
pub(super) struct Tree {
    pieces: Vec<Piece>,
    /// Bytes of the content.
    pub(super) size: u64,
    /// When the newest of its entries was changed, in nanoseconds since the Unix epoch.
    pub(super) modified: u128,
    /// Entries that are left out.
    pub(super) skipped: u64,
}

/// When something was last changed, in nanoseconds since the Unix epoch.
pub(super) fn modified(meta: &std::fs::Metadata) -> u128 {
    let since = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_nanos())
}

impl Tree {
    /// Looks at a directory with all that is below it. What cannot be sent is an error, or left
    /// out.
    pub(super) fn look_at(root: &Path, skip: bool) -> Result<Tree, Failure> {
        let mut tree = Tree { pieces: Vec::new(), size: 0, modified: 0, skipped: 0 };
        let mut writer = TreeWriter::new();
        // Directories that are open, the innermost last, each with what is left of its entries.
        let mut open = vec![entries(root)?.into_iter()];
        tree.modified = modified(&std::fs::metadata(root).map_err(|e| reading(root, e))?);
        while let Some(innermost) = open.last_mut() {
            let Some((name, path)) = innermost.next() else {
                open.pop();
                tree.head(writer.leave().map_err(|e| not_sent(root, e))?.to_vec());
                continue;
            };
            let meta = path.symlink_metadata().map_err(|e| reading(&path, e))?;
            let name = name.filter(|_| meta.is_dir() || meta.is_file());
            let Some(name) = name else {
                if !skip {
                    return Err(special(&path));
                }
                tree.skipped += 1;
                continue;
            };
            tree.modified = tree.modified.max(modified(&meta));
            if meta.is_dir() {
                tree.head(writer.enter(&name).map_err(|e| not_sent(&path, e))?.to_vec());
                open.push(entries(&path)?.into_iter());
            } else {
                let head = writer.file(&name, meta.len()).map_err(|e| not_sent(&path, e))?;
                tree.head(head.to_vec());
                tree.size += meta.len();
                tree.pieces.push(Piece::File(path, meta.len()));
            }
        }
        Ok(tree)
    }

    fn head(&mut self, head: Vec<u8>) {
        self.size += head.len() as u64;
        match self.pieces.last_mut() {
            Some(Piece::Head(last)) => last.extend(head),
            _ => self.pieces.push(Piece::Head(head)),
        }
    }

    /// The content, and what becomes of reading it.
    pub(super) fn content(self: &Arc<Self>) -> (DuplexStream, JoinHandle<Result<(), Failure>>) {
        let (near, far) = duplex(PIPE);
        let tree = Arc::clone(self);
        (near, tokio::spawn(async move { tree.write(far).await }))
    }

    async fn write(&self, mut to: DuplexStream) -> Result<(), Failure> {
        for piece in &self.pieces {
            let written = match piece {
                Piece::Head(head) => to.write_all(head).await,
                Piece::File(path, size) => {
                    let file = tokio::fs::File::open(path).await.map_err(|e| reading(path, e))?;
                    let mut file = BufReader::with_capacity(PIPE, file.take(*size));
                    let copied = tokio::io::copy_buf(&mut file, &mut to).await;
                    if copied.as_ref().is_ok_and(|copied| copied < size) {
                        let message = format!("{} was cut while it was read", path.display());
                        return Err(Failure::new(Code::Usage, message).hint("send it again"));
                    }
                    copied.map(drop)
                }
            };
            if written.is_err() {
                // Nobody reads on: it was refused, and the answer says why.
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The entries of a directory in the order of their names; without a name where it is none that
/// the other side would take.
fn entries(dir: &Path) -> Result<Vec<(Option<FileName>, PathBuf)>, Failure> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| reading(dir, e))? {
        let entry = entry.map_err(|e| reading(dir, e))?;
        let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
        found.push((name, entry.path()));
    }
    found.sort();
    Ok(found)
}

fn reading(path: &Path, error: std::io::Error) -> Failure {
    Failure::io(format!("read {}", path.display()), error)
}

fn special(path: &Path) -> Failure {
    let message = format!("{} is not sent", quoted(&path.to_string_lossy()));
    Failure::new(Code::Usage, message).hint(
        "links, devices, hidden entries and some names are not; --skip-special leaves them out",
    )
}

fn not_sent(path: &Path, error: TreeError) -> Failure {
    let message = format!("{}: {error}", quoted(&path.to_string_lossy()));
    Failure::new(Code::TooLarge, message).hint("send its directories one by one, or an archive")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_core::service::exchange::{TreeItem, TreeReader};

    #[tokio::test]
    async fn a_directory_is_read_as_it_was_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("b/inner")).unwrap();
        std::fs::write(root.join("b/two"), "hi").unwrap();
        std::fs::write(root.join("a"), vec![7; 1_000_000]).unwrap();
        let tree = Arc::new(Tree::look_at(root, false).unwrap());
        let (mut content, writing) = tree.content();
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).await.unwrap();
        writing.await.unwrap().unwrap();
        assert_eq!(bytes.len() as u64, tree.size);
        let (mut reader, mut at, mut found) = (TreeReader::new(), 0, Vec::new());
        while at < bytes.len() {
            let (used, item) = reader.handle_bytes(&bytes[at..]).unwrap();
            at += used;
            match item {
                Some(TreeItem::Data(data)) => found.push(format!("{}", data.len())),
                Some(TreeItem::Enter(name)) => found.push(format!("{name}/")),
                Some(TreeItem::File { name, .. }) => found.push(name.to_string()),
                Some(TreeItem::Leave) => found.push("..".into()),
                None => {}
            }
        }
        reader.finish().unwrap();
        assert_eq!(found, ["a", "1000000", "b/", "inner/", "..", "two", "2", ".."]);

        // Cut meanwhile.
        std::fs::write(root.join("b/two"), "h").unwrap();
        let (mut content, writing) = tree.content();
        tokio::io::copy(&mut content, &mut tokio::io::sink()).await.unwrap();
        assert_eq!(writing.await.unwrap().unwrap_err().code, Code::Usage);
    }

    #[test]
    fn what_is_not_sent_is_named_or_left_out() {
        for name in [".hidden", "-rf", "a\nb", "link"] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("d")).unwrap();
            let path = dir.path().join("d").join(name);
            match name {
                "link" => std::os::unix::fs::symlink("/etc/passwd", &path).unwrap(),
                _ => std::fs::write(&path, "x").unwrap(),
            }
            let failure = Tree::look_at(dir.path(), false).err().unwrap();
            assert_eq!(failure.code, Code::Usage);
            assert!(failure.hint.contains("--skip-special"));
            let tree = Tree::look_at(dir.path(), true).unwrap();
            assert_eq!((tree.skipped, tree.size), (1, 5), "{name}");
        }
    }
}
