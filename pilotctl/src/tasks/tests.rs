//! Both ends of a stream over pipes, and what a store keeps.

use super::*;
use pilot_core::addr::{Address, NodeId};
use pilot_core::crypto::Identity;
use pilot_core::crypto::task::{State, Step};
use pilot_core::service::tasks::{About, Content, Keys, Party, Verdict};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

const REGISTRY: IdentityKey = IdentityKey([3; 32]);

struct Side {
    dir: tempfile::TempDir,
    secret: [u8; 32],
    party: Party,
    tasks: Arc<Tasks>,
}

impl Side {
    fn new(n: u8) -> Side {
        let (dir, secret) = (tempfile::tempdir().unwrap(), [n; 32]);
        let key = Identity::from_secret(secret).public();
        let party = Party { address: Address::backbone(NodeId(u32::from(n))), key };
        let tasks = open(&dir, secret);
        Side { dir, secret, party, tasks }
    }

    /// Opens the store again once the thread of the last one has let go of it.
    async fn restart(&mut self) {
        let (jobs, _) = channel();
        *lock(&self.tasks.jobs) = jobs;
        for _ in 0..100 {
            if let Ok(tasks) = try_open(&self.dir, self.secret) {
                self.tasks = tasks;
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the store stays open");
    }

    async fn submit(&self, id: TaskId, worker: Party) {
        let submit = move |desk: &mut Desk| {
            desk.submit(id, worker, &Content::of_text("do it"), super::now())
        };
        self.tasks.run(submit).await.unwrap();
    }

    async fn act(&self, id: TaskId, step: Step, text: &'static str) -> Result<(), Failure> {
        let act = move |desk: &mut Desk| desk.act(id, step, &Content::of_text(text), super::now());
        self.tasks.run(act).await
    }

    async fn state(&self, id: TaskId) -> Option<State> {
        self.tasks.run(move |desk| Ok(desk.board.get(id).map(|task| task.state()))).await.unwrap()
    }

    async fn becomes(&self, id: TaskId, state: State) {
        let mut changed = self.tasks.changed();
        let is_so = async {
            while self.state(id).await != Some(state) {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), is_so).await.unwrap();
    }
}

impl Side {
    /// From now on the store can be neither written nor read.
    async fn break_store(&self) {
        self.set_mode(0o640);
        let shut = |desk: &mut Desk| {
            desk.shelf.store.shut();
            Ok(())
        };
        self.tasks.run(shut).await.unwrap();
    }

    fn mend_store(&self) {
        self.set_mode(0o600);
    }

    /// A file that others can read is refused when it is opened.
    fn set_mode(&self, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.dir.path().join("tasks.redb"), mode).unwrap();
    }
}

fn try_open(dir: &tempfile::TempDir, secret: [u8; 32]) -> Result<Arc<Tasks>, Failure> {
    let path = dir.path().join("tasks.redb");
    let keys = Keys { identity: Identity::from_secret(secret), registry: REGISTRY };
    let key = keys.identity.public();
    Tasks::open(&path, Box::new(keys), key, REGISTRY)
}

fn open(dir: &tempfile::TempDir, secret: [u8; 32]) -> Arc<Tasks> {
    try_open(dir, secret).unwrap()
}

/// Found out only when it is asked.
struct Asked(Result<(), Verdict>);

impl Admit for Asked {
    fn known(&self, _: Party) -> Option<Result<(), Verdict>> {
        None
    }

    fn ask(&self, _: Party) -> Admitted {
        let verdict = self.0;
        Box::pin(async move { verdict })
    }
}

fn admit(verdict: Result<(), Verdict>) -> Arc<dyn Admit> {
    Arc::new(Asked(verdict))
}

/// Both talk until the stream breaks: when what is given is dropped.
fn connect(a: &Side, b: &Side, verdict: Result<(), Verdict>) -> tokio::task::JoinSet<()> {
    let (near, far) = duplex(1000);
    let mut both = tokio::task::JoinSet::new();
    let (tasks, peer) = (a.tasks.clone(), b.party);
    both.spawn(async move { drop(talk(&tasks, peer, near, admit(Ok(())), true).await) });
    let (tasks, peer) = (b.tasks.clone(), a.party);
    both.spawn(async move { drop(talk(&tasks, peer, far, admit(verdict), false).await) });
    both
}

#[tokio::test]
async fn tasks_of_another_identity_are_left_alone() {
    let (mut a, b) = (Side::new(16), Side::new(17));
    let id = TaskId([1; 16]);
    a.submit(id, b.party).await;
    let own = std::mem::replace(&mut a.secret, [18; 32]);
    a.restart().await;
    assert_eq!(a.state(id).await, None);
    a.secret = own;
    a.restart().await;
    assert_eq!(a.state(id).await, Some(State::New));
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart_of_either_side() {
    let (mut a, mut b) = (Side::new(16), Side::new(17));
    let id = TaskId([1; 16]);
    a.submit(id, b.party).await;
    a.restart().await;
    let stream = connect(&a, &b, Ok(()));
    b.becomes(id, State::New).await;
    drop(stream);
    b.restart().await;
    b.act(id, Step::Accept, "").await.unwrap();
    b.act(id, Step::Start, "").await.unwrap();
    b.act(id, Step::Complete, "done").await.unwrap();
    assert_eq!(b.act(id, Step::Complete, "again").await.unwrap_err().code, Code::Conflict);
    b.restart().await;
    let _stream = connect(&a, &b, Ok(()));
    a.becomes(id, State::Succeeded).await;
    let content = a.tasks.run(move |desk| desk.content(id, About::End)).await.unwrap();
    assert_eq!(Content::decode(&content).unwrap().text, "done");
    let mut changed = b.tasks.changed();
    let has_receipt = async {
        loop {
            let receipts = b.tasks.run(|desk| Ok(desk.board.receipts().count()));
            if receipts.await.unwrap() == 1 {
                return;
            }
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), has_receipt).await.unwrap();
}

#[tokio::test]
async fn who_may_not_submit_is_told_and_leaves_nothing() {
    let (a, b) = (Side::new(18), Side::new(19));
    let id = TaskId([2; 16]);
    a.submit(id, b.party).await;
    let _stream = connect(&a, &b, Err(Verdict::NotPermitted));
    let mut changed = a.tasks.changed();
    let is_refused = async {
        loop {
            let find = a.tasks.run(move |desk| Ok(desk.find(id)?.refused()));
            if find.await.unwrap() == Some(Verdict::NotPermitted) {
                return;
            }
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_refused).await.unwrap();
    assert_eq!(b.state(id).await, None);
}

#[tokio::test]
async fn large_texts_both_ways_do_not_wait_for_each_other() {
    let (a, b) = (Side::new(20), Side::new(21));
    let text: &'static str = Box::leak("x".repeat(60_000).into_boxed_str());
    let id = |side: u8, n: u8| TaskId([side, n, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for n in 0..30 {
        for (side, (from, to)) in [(0, (&a, b.party)), (1, (&b, a.party))] {
            let submit = move |desk: &mut Desk| {
                desk.submit(id(side, n), to, &Content::of_text(text), super::now())
            };
            from.tasks.run(submit).await.unwrap();
        }
    }
    let _stream = connect(&a, &b, Ok(()));
    for n in 0..30 {
        b.becomes(id(0, n), State::New).await;
        a.becomes(id(1, n), State::New).await;
    }
}

#[tokio::test]
async fn who_does_not_keep_to_the_protocol_loses_the_stream_alone() {
    let b = Side::new(22);
    let peer = Side::new(23).party;
    for junk in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0, 0, 1, 0, 0, 0, 2, 1, 2], &[0xFF; 64]] {
        let (mut near, far) = duplex(4096);
        let tasks = b.tasks.clone();
        let talking =
            tokio::spawn(async move { talk(&tasks, peer, far, admit(Ok(())), false).await });
        near.write_all(junk).await.unwrap();
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        assert!(matches!(talking.await.unwrap(), Err(talk::TalkError::Protocol(_))));
        assert_eq!(lock(&b.tasks.streams).open(peer.key), 0);
    }
    assert_eq!(b.tasks.run(|desk| Ok(desk.board.tasks().count())).await.unwrap(), 0);
}

/// Who is due while nothing can be stored is not forgotten: nobody else would call there.
#[tokio::test]
async fn a_commit_that_fails_loses_no_call() {
    let (a, b, c) = (Side::new(24), Side::new(25), Side::new(26));
    a.submit(TaskId([1; 16]), b.party).await;
    a.break_store().await;
    // All of this is one batch: the first job waits until the others are there.
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let other = c.party;
    let submit = move |desk: &mut Desk| {
        desk.submit(TaskId([2; 16]), other, &Content::of_text("x"), super::now())
    };
    let (_, submitted, due, ()) = tokio::join!(
        a.tasks.run(move |_| Ok(gate.recv().is_ok())),
        a.tasks.run(submit),
        a.tasks.due(),
        async { open.send(()).unwrap() },
    );
    assert_eq!(submitted.unwrap_err().code, Code::Permissions);
    a.mend_store();
    let mut peers = due.unwrap_or_default().peers;
    peers.extend(a.tasks.due().await.unwrap().peers);
    assert!(peers.contains(&b.party), "{peers:?}");
    a.tasks.called(b.party.key, false);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(a.tasks.due().await.unwrap().peers.contains(&b.party), "and called again");
}

/// A client was told that it has failed; so it has, also where the store could not be read then.
#[tokio::test]
async fn what_was_not_stored_is_taken_back_before_anything_else_is_done() {
    let (mut a, b) = (Side::new(27), Side::new(28));
    let (kept, lost) = (TaskId([1; 16]), TaskId([2; 16]));
    a.submit(kept, b.party).await;
    a.break_store().await;
    let to = b.party;
    let submit = move |desk: &mut Desk| desk.submit(lost, to, &Content::of_text("x"), super::now());
    assert_eq!(a.tasks.run(submit).await.unwrap_err().code, Code::Permissions);
    let count = |desk: &mut Desk| Ok(desk.board.tasks().count());
    assert_eq!(a.tasks.run(count).await.unwrap_err().code, Code::Permissions, "nobody knows");
    let mut changed = a.tasks.changed();
    changed.mark_unchanged();
    a.mend_store();
    assert_eq!(a.tasks.run(count).await.unwrap(), 1);
    let again = tokio::time::timeout(Duration::from_secs(20), changed.changed());
    again.await.expect("whoever waits looks again").unwrap();
    let stream = connect(&a, &b, Ok(()));
    b.becomes(kept, State::New).await;
    assert_eq!((a.state(lost).await, b.state(lost).await), (None, None));
    drop(stream);
    a.restart().await;
    assert_eq!((a.state(kept).await, a.state(lost).await), (Some(State::New), None));
}
