//! The content of a directory: hostile bytes, and trees that are written and read.
//!
//! Oracle: how the bytes are cut into pieces changes nothing; names are base names, ascend, and
//! stay within depth and length; what was read, written again, is what came; what an honest
//! writer wrote is read as it was.

use crate::tape::Tape;
use pilot_core::service::exchange::{
    FileName, TREE_DEPTH_MAX, TREE_ENTRIES_MAX, TREE_PATH_MAX, TreeError, TreeItem, TreeReader,
    TreeWriter,
};

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    if tape.flag() {
        let cuts = tape.array();
        let input = tape.rest();
        let whole = read(input, &[u8::MAX; 8]);
        assert_eq!(read(input, &cuts), whole, "cutting changes nothing");
    } else {
        honest(&mut tape);
    }
}

/// Reads a content and holds it to the rules; what was in it, or the first error.
fn read(input: &[u8], cuts: &[u8; 8]) -> Result<Vec<u8>, TreeError> {
    let (mut reader, mut writer, mut again) = (TreeReader::new(), TreeWriter::new(), Vec::new());
    let (mut at, mut turn, mut left) = (0, 0, 0u64);
    let mut path: Vec<FileName> = Vec::new();
    loop {
        let cut = cuts[turn % 8];
        turn += 1;
        let n = if cut == u8::MAX { usize::MAX } else { 1 + usize::from(cut) };
        let piece = &input[at..][..n.min(input.len() - at)];
        let (used, item) = reader.handle_bytes(piece)?;
        assert!(used <= piece.len());
        at += used;
        let idle = used == 0 && item.is_none();
        match item {
            Some(TreeItem::Data(bytes)) => {
                left = left.checked_sub(bytes.len() as u64).expect("no more than was said");
                again.extend(bytes);
            }
            Some(TreeItem::Enter(name)) => {
                assert_eq!(left, 0);
                again.extend(writer.enter(&name).expect("the same rules"));
                path.push(name);
            }
            Some(TreeItem::File { name, size }) => {
                assert_eq!(left, 0);
                base_name(&name);
                again.extend(writer.file(&name, size).expect("the same rules"));
                left = size;
            }
            Some(TreeItem::Leave) => {
                path.pop().expect("it was entered");
                again.extend(writer.leave().expect("it was entered"));
            }
            None => {}
        }
        path.iter().for_each(base_name);
        assert!(path.len() <= TREE_DEPTH_MAX && reader.entries() <= TREE_ENTRIES_MAX);
        assert!(path.iter().map(|n| 1 + n.as_str().len()).sum::<usize>() <= TREE_PATH_MAX);
        if idle && piece.len() == input.len() - at {
            reader.finish()?;
            again.extend(writer.leave().expect("the last one"));
            assert_eq!(again, input, "one tree has one content");
            return Ok(again);
        }
    }
}

fn base_name(name: &FileName) {
    let text = name.as_str();
    assert!(!text.is_empty() && !text.starts_with(['.', '-', ' ']), "{text}");
    assert!(text.chars().all(|c| c != '/' && c != '\\' && !c.is_control()), "{text}");
}

/// A writer that is asked for anything writes what is read again, or says no.
fn honest(tape: &mut Tape<'_>) {
    let (mut writer, mut content, mut depth) = (TreeWriter::new(), Vec::new(), 0);
    while !tape.is_empty() {
        let choice = tape.below(3);
        if choice == 0 {
            if depth > 0 {
                content.extend(writer.leave().expect("it was entered"));
                depth -= 1;
            }
            continue;
        }
        let Ok(name) = FileName::from_bytes(tape.chunk()) else { continue };
        if choice == 1 {
            let data = tape.chunk();
            if let Ok(head) = writer.file(&name, data.len() as u64) {
                content.extend(head);
                content.extend(data);
            }
        } else if let Ok(head) = writer.enter(&name) {
            content.extend(head);
            depth += 1;
        }
    }
    for _ in 0..=depth {
        content.extend(writer.leave().expect("it was entered"));
    }
    assert_eq!(read(&content, &[3; 8]).as_ref(), Ok(&content));
}
