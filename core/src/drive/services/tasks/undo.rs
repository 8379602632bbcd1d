//! What becomes of changes that could not be stored.

use super::store::{TaskChanges, TaskStore};
use crate::crypto::task::TaskId;
use crate::service::tasks::{About, Board, News, Signer};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::mem;

/// Puts the board back to what is stored: also what came since, which may stand on it. A task
/// that cannot be read now stays ahead of the disk: it counts as changed, and is stored with the
/// next commit, with its contents.
pub(super) fn take_back<S: Signer>(
    board: &mut Board<S>,
    news: &mut News,
    fresh: &mut Vec<(TaskId, About, Vec<u8>)>,
    lost: &TaskChanges,
    store: &mut dyn TaskStore,
) {
    let mut ids: BTreeSet<TaskId> = lost.tasks.iter().map(|(id, _)| *id).collect();
    ids.extend(board.take_changed());
    let mut ahead = BTreeSet::new();
    for id in &ids {
        match store.record(*id) {
            // It was read from the same store at the start, or written by us.
            Ok(Some(record)) => drop(board.restore(&record)),
            Ok(None) => board.forget(*id),
            Err(_) => {
                board.keep_changed(*id);
                ahead.insert(*id);
            }
        }
    }
    // The newest of each, so that there is no more of them however often it fails.
    let contents = lost.contents.iter().cloned().chain(mem::take(fresh));
    let of_ahead = contents.filter(|(id, ..)| ahead.contains(id));
    let newest: BTreeMap<_, _> = of_ahead.map(|(id, about, c)| ((id, about), c)).collect();
    fresh.extend(newest.into_iter().map(|((id, about), content)| (id, about, content)));
    news.handle_not_stored(board, ids.difference(&ahead).copied());
}

#[cfg(test)]
mod tests {
    use super::super::store::{Done, MemoryTaskStore};
    use super::*;
    use crate::addr::{Address, NodeId};
    use crate::crypto::{Identity, IdentityKey};
    use crate::service::tasks::{
        BoardLimits, Content, Contents, Keys, Party, Talk, Turn, Verdict, What, Worked,
    };
    use crate::time::{Instant, UnixTime};
    use alloc::sync::Arc;
    use std::io;
    use std::sync::mpsc::channel;

    /// Stores nothing and reads nothing of some tasks, when it is told to.
    #[derive(Default)]
    struct Disk {
        store: MemoryTaskStore,
        fails: bool,
        unreadable: BTreeSet<TaskId>,
    }

    impl TaskStore for Disk {
        fn load(&mut self, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
            self.store.load(each)
        }

        fn record(&mut self, id: TaskId) -> io::Result<Option<Vec<u8>>> {
            match self.unreadable.contains(&id) {
                true => Err(io::ErrorKind::Other.into()),
                false => self.store.record(id),
            }
        }

        fn content(&mut self, id: TaskId, about: About) -> io::Result<Option<Vec<u8>>> {
            self.store.content(id, about)
        }

        fn commit(&mut self, changes: Arc<TaskChanges>, done: Done) {
            if !self.fails {
                self.store.commit(changes, done);
            }
        }
    }

    type Fresh = Vec<(TaskId, About, Vec<u8>)>;

    struct Side {
        board: Board<Keys>,
        news: News,
        fresh: Fresh,
        disk: Disk,
    }

    struct Shelf<'a>(&'a mut Fresh);

    impl Contents for Shelf<'_> {
        fn keep(&mut self, id: TaskId, about: About, content: &[u8]) {
            self.0.push((id, about, content.to_vec()));
        }

        fn get(&mut self, id: TaskId, about: About) -> Option<Vec<u8>> {
            let found = self.0.iter().find(|(i, a, _)| (*i, *a) == (id, about));
            found.map(|(.., content)| content.clone())
        }
    }

    fn party(n: u8) -> Party {
        let key = Identity::from_secret([n; 32]).public();
        Party { address: Address::backbone(NodeId(u32::from(n))), key }
    }

    fn at() -> UnixTime {
        UnixTime::from_secs(1_000_000)
    }

    impl Side {
        fn new(n: u8) -> Side {
            let (identity, registry) = (Identity::from_secret([n; 32]), IdentityKey([9; 32]));
            let keys = Keys { identity, registry };
            let board = Board::new(keys, party(n).key, registry, BoardLimits::default());
            Side { board, news: News::default(), fresh: Vec::new(), disk: Disk::default() }
        }

        fn work(&mut self, talk: &mut Talk) {
            let now = Instant::START;
            let turn = Turn { now, unix: at(), is_teller: true, admitted: Some(Ok(())) };
            let worked = talk.work(&mut self.board, &mut Shelf(&mut self.fresh), turn);
            assert_eq!(worked, Ok(Worked::Done));
        }

        /// Whether it is stored.
        fn commit(&mut self) -> bool {
            let ids: Vec<TaskId> = self.board.take_changed().collect();
            ids.iter().for_each(|id| self.news.note(&self.board, *id));
            let tasks = ids.into_iter().map(|id| (id, self.board.record(id))).collect();
            let changes = Arc::new(TaskChanges { tasks, contents: mem::take(&mut self.fresh) });
            let (tell, told) = channel();
            let done = Done::new(move |outcome| tell.send(outcome.is_ok()).unwrap());
            self.disk.commit(Arc::clone(&changes), done);
            let is_stored = told.recv().unwrap();
            if is_stored {
                self.news.handle_stored();
            } else {
                let Side { board, news, fresh, disk } = self;
                take_back(board, news, fresh, &changes, disk);
            }
            is_stored
        }
    }

    #[test]
    fn what_can_neither_be_stored_nor_taken_back_is_stored_later() {
        let (mut a, mut b) = (Side::new(16), Side::new(17));
        let (read, unread) = (TaskId([1; 16]), TaskId([2; 16]));
        let mut text = [0; 20];
        let len = Content::of_text("do it").encode(&mut text).unwrap();
        let text = &text[..len];
        for id in [read, unread] {
            a.board.submit(id, party(17), text, at()).unwrap();
            a.fresh.push((id, About::Work, text.to_vec()));
        }
        let mut telling = Talk::new(party(17), true, Instant::START);
        a.work(&mut telling);
        telling.release();
        (b.disk.fails, b.disk.unreadable) = (true, [unread].into());
        for _ in 0..2 {
            let mut talk = Talk::new(party(16), false, Instant::START);
            talk.handle_bytes(Instant::START, telling.output());
            b.work(&mut talk);
            assert!(talk.is_withheld() && !b.commit());
            assert!(b.board.get(read).is_none() && !b.board.is_changed(read));
            assert!(b.board.get(unread).is_some() && b.board.is_changed(unread));
            assert_eq!(b.fresh, [(unread, About::Work, text.to_vec())]);
            assert_eq!(b.news.poll(), None);
        }
        b.disk.fails = false;
        assert!(b.commit());
        b.disk.unreadable.clear();
        // What may be told now, and what is news, is what is stored.
        assert!(!b.board.has_changed() && b.fresh.is_empty());
        assert_eq!(b.disk.record(unread).unwrap(), b.board.record(unread));
        assert_eq!(b.disk.content(unread, About::Work).unwrap().as_deref(), Some(text));
        let news: Vec<_> = core::iter::from_fn(|| b.news.poll()).collect();
        assert_eq!((news.len(), news[0].id, &news[0].what), (1, unread, &What::Submitted));
        let first = *a.board.get(unread).unwrap().first();
        let again = b.board.judge(party(16), &first, text, || Ok(()), at());
        assert_eq!((again, b.board.has_changed()), (Verdict::Applied, false));
    }
}
