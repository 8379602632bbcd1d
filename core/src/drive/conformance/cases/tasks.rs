//! Tasks between two agents.

use super::*;
use crate::addr::Address;
use crate::crypto::task::{Side, State, Step, TaskId};
use crate::drive::Clock as _;
use crate::drive::services::{
    Done, MemoryTaskStore, TaskChanges, TaskOptions, TaskService, TaskStore, Tasks, TasksFailure,
};
use crate::node::Command;
use crate::service::tasks::{About, Content, TaskEvent, Verdict, What};
use crate::time::Instant;
use crate::trust::Permissions;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Poll;
use std::boxed::Box;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::vec::Vec;

/// A store that outlives its service, and fails when it is told to.
#[derive(Clone, Default)]
struct Disk {
    store: Arc<Mutex<MemoryTaskStore>>,
    fails: Arc<AtomicBool>,
    /// Whether it cannot be read either.
    is_dead: Arc<AtomicBool>,
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, MemoryTaskStore> {
        self.store.lock().expect("no panic")
    }

    fn set_failing(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    fn set_dead(&self, is_dead: bool) {
        self.is_dead.store(is_dead, Ordering::SeqCst);
        self.set_failing(is_dead);
    }

    fn check(&self) -> io::Result<()> {
        match self.is_dead.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::Other.into()),
            false => Ok(()),
        }
    }
}

impl TaskStore for Disk {
    fn load(&mut self, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.lock().load(each)
    }

    fn record(&mut self, id: TaskId) -> io::Result<Option<Vec<u8>>> {
        self.check()?;
        self.lock().record(id)
    }

    fn content(&mut self, id: TaskId, about: About) -> io::Result<Option<Vec<u8>>> {
        self.check()?;
        self.lock().content(id, about)
    }

    /// On a thread of its own, as a slow disk.
    fn commit(&mut self, changes: Arc<TaskChanges>, done: Done) {
        let disk = self.clone();
        std::thread::spawn(move || {
            std::thread::sleep(MS);
            if disk.fails.load(Ordering::SeqCst) {
                return drop(done);
            }
            disk.lock().commit(changes, done);
        });
    }
}

fn begin<S: Subject>(agent: &S, disk: &Disk) -> TaskService<S::Runtime> {
    let options = TaskOptions::default();
    agent.keep_alive().listen_tasks(options, disk.clone()).expect("registered, and a free port")
}

type Sleeping = Pin<Box<dyn Future<Output = ()>>>;

/// Serves for ever: polls when it was woken, and when it is due.
async fn serve<S: Subject>(agent: &S, service: &mut TaskService<S::Runtime>) {
    let clock = agent.keep_alive().shared().host();
    let mut alarm: Option<(Instant, Sleeping)> = None;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(end) = service.poll_serve(&S::waker(cx.waker())) {
                panic!("the service has ended: {end:?}");
            }
            let due = service.due();
            if alarm.as_ref().is_none_or(|(armed, _)| due < *armed) {
                alarm = Some((due, Box::pin(sleep(due.since(clock.now()) + MS))));
            }
            let Some((_, sleeping)) = &mut alarm else { continue };
            if sleeping.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            alarm = None;
        }
    })
    .await
}

/// What one agent's application does with its tasks.
struct User<S: Subject>(Tasks<S::Runtime>);

impl<S: Subject> User<S> {
    fn of(service: &TaskService<S::Runtime>) -> Self {
        User(service.tasks())
    }

    async fn submit(&self, worker: Address, text: &str) -> Result<TaskId, TasksFailure> {
        let (id, saving) = self.0.begin_submit(worker, &Content::of_text(text))?;
        poll_fn(|cx| self.0.poll_saved(&S::waker(cx.waker()), saving)).await.map(|()| id)
    }

    async fn step(&self, id: TaskId, step: Step, text: &str) -> Result<(), TasksFailure> {
        let saving = self.0.begin_step(id, step, &Content::of_text(text))?;
        poll_fn(|cx| self.0.poll_saved(&S::waker(cx.waker()), saving)).await
    }

    async fn make(&self, id: TaskId, step: Step, text: &str) {
        self.step(id, step, text).await.expect("a step that may be made");
    }

    async fn event(&self) -> TaskEvent {
        poll_fn(|cx| self.0.poll_event(&S::waker(cx.waker()))).await.expect("served")
    }

    /// The next event is this.
    async fn hear(&self, id: TaskId, what: What) {
        let event = self.event().await;
        assert_eq!((event.id, event.what), (id, what));
    }

    /// One of the next events is this.
    async fn hear_at_last(&self, id: TaskId, what: What) {
        loop {
            let event = self.event().await;
            if (event.id, &event.what) == (id, &what) {
                return;
            }
        }
    }

    async fn ended(&self, id: TaskId) -> State {
        poll_fn(|cx| self.0.poll_ended(&S::waker(cx.waker()), id)).await.expect("served").state()
    }

    fn text(&self, id: TaskId, about: About) -> std::string::String {
        self.0.content(id, about).expect("read").expect("kept").text
    }

    fn state(&self, id: TaskId) -> Option<State> {
        self.0.get(id).map(|task| task.state())
    }
}

/// Does something while both are served.
async fn beside<A: Subject, B: Subject, R: Rendezvous, T>(
    stage: &Stage<A, B, R>,
    services: (&mut TaskService<A::Runtime>, &mut TaskService<B::Runtime>),
    work: impl Future<Output = T>,
) -> T {
    let serving = both(serve(&stage.a, services.0), serve(&stage.b, services.1));
    race(serving, work).await
}

/// A task from its submission to a receipt of both that the registry has counted.
pub fn a_task_is_done_and_receipted<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let mut at_a = begin(&stage.a, &Disk::default());
        let mut at_b = begin(&stage.b, &Disk::default());
        let (a, b) = (User::<A>::of(&at_a), User::<B>::of(&at_b));
        let (a_at, b_at) = (stage.a_at.on_backbone(), stage.b_at.on_backbone());
        beside(&stage, (&mut at_a, &mut at_b), async {
            step("submitting");
            let id = a.submit(b_at, "do it").await.expect("stored");
            let event = b.event().await;
            assert_eq!((event.id, event.side, &event.what), (id, Side::Worker, &What::Submitted));
            assert_eq!(event.peer.address, a_at);
            assert_eq!(b.text(id, About::Work), "do it");
            step("working");
            b.make(id, Step::Accept, "").await;
            a.hear(id, What::Accepted).await;
            b.make(id, Step::Start, "").await;
            a.hear(id, What::Started).await;
            b.make(id, Step::Progress, "half").await;
            a.hear(id, What::Progress("half".into())).await;
            assert!(b.step(id, Step::Cancel, "").await.is_err(), "not the worker's to make");
            b.make(id, Step::Complete, "done").await;
            step("the end");
            assert_eq!(a.ended(id).await, State::Succeeded);
            assert_eq!(a.text(id, About::End), "done");
            let ours = poll_fn(|cx| a.0.poll_receipt(&A::waker(cx.waker()), id)).await;
            let ours = ours.expect("served").expect("a receipt");
            let theirs = poll_fn(|cx| b.0.poll_receipt(&B::waker(cx.waker()), id)).await;
            assert_eq!(theirs.expect("served"), Some(ours));
            a.hear_at_last(id, What::Receipted(ours)).await;
            b.hear(id, What::Receipted(ours)).await;
            step("counting");
            until("waiting for the registry", || b.0.get(id).is_some_and(|t| t.is_counted())).await;
            let mut question = stage.b.keep_alive().ask(Command::Reputation { of: stage.b_at });
            let question = question.as_mut().expect("asked");
            let answer = poll_fn(|cx| question.poll_answer(&B::waker(cx.waker()))).await;
            let reputation = answer.and_then(|answer| answer.into_reputation()).expect("told");
            assert!(reputation.score() > 0, "{reputation:?}");
        })
        .await;
    });
}

/// What a worker does not want, and what its submitter calls off in the middle of the work.
pub fn a_task_is_declined_and_another_called_off<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let mut at_a = begin(&stage.a, &Disk::default());
        let mut at_b = begin(&stage.b, &Disk::default());
        let (a, b) = (User::<A>::of(&at_a), User::<B>::of(&at_b));
        let b_at = stage.b_at;
        beside(&stage, (&mut at_a, &mut at_b), async {
            step("declining");
            let id = a.submit(b_at, "do that").await.expect("stored");
            b.hear(id, What::Submitted).await;
            let early = b.step(id, Step::Lapse, "").await;
            assert!(matches!(early, Err(TasksFailure::Act(_))), "{early:?}");
            b.make(id, Step::Decline, "no time").await;
            a.hear(id, What::Declined).await;
            assert_eq!(
                (a.ended(id).await, a.text(id, About::End)),
                (State::Declined, "no time".into())
            );
            step("calling off");
            let id = a.submit(b_at, "do it").await.expect("stored");
            b.hear(id, What::Submitted).await;
            b.make(id, Step::Accept, "").await;
            b.make(id, Step::Start, "").await;
            a.hear_at_last(id, What::Started).await;
            a.make(id, Step::Cancel, "").await;
            b.hear(id, What::Cancelled).await;
            a.hear(id, What::Cancelled).await;
            let late = b.step(id, Step::Complete, "done").await;
            assert!(matches!(late, Err(TasksFailure::Act(_))), "{late:?}");
            assert_eq!(
                (a.ended(id).await, b.ended(id).await),
                (State::Cancelled, State::Cancelled)
            );
        })
        .await;
    });
}

/// A worker that stops and goes on from what it has stored: nothing is lost or begun twice.
pub fn a_worker_goes_on_from_its_records<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let (mut at_a, disk) = (begin(&stage.a, &Disk::default()), Disk::default());
        let mut at_b = begin(&stage.b, &disk);
        let (a, b) = (User::<A>::of(&at_a), User::<B>::of(&at_b));
        let b_at = stage.b_at;
        let [new, accepted, begun] = beside(&stage, (&mut at_a, &mut at_b), async {
            step("before");
            let mut ids = [TaskId([0; 16]); 3];
            for id in &mut ids {
                *id = a.submit(b_at, "do it").await.expect("stored");
                b.hear(*id, What::Submitted).await;
            }
            b.make(ids[1], Step::Accept, "").await;
            b.make(ids[2], Step::Accept, "").await;
            b.make(ids[2], Step::Start, "").await;
            ids
        })
        .await;
        step("the worker stops");
        drop(at_b);
        let gone = b.step(begun, Step::Complete, "done").await;
        assert!(matches!(gone, Err(TasksFailure::Ended)), "{gone:?}");
        let mut at_b = begin(&stage.b, &disk);
        let b = User::<B>::of(&at_b);
        assert_eq!(b.state(begun), Some(State::Executing));
        assert_eq!(b.0.next_accepted().map(|task| task.id()), Some(accepted));
        beside(&stage, (&mut at_a, &mut at_b), async {
            step("after");
            b.hear(new, What::Submitted).await;
            let twice = b.step(begun, Step::Start, "").await;
            assert!(matches!(twice, Err(TasksFailure::Act(_))), "{twice:?}");
            b.make(begun, Step::Complete, "done").await;
            b.make(accepted, Step::Start, "").await;
            b.make(accepted, Step::Complete, "done").await;
            b.make(new, Step::Decline, "").await;
            assert_eq!(a.ended(begun).await, State::Succeeded);
            assert_eq!(a.ended(accepted).await, State::Succeeded);
            assert_eq!(a.ended(new).await, State::Declined);
            let last = |user: &dyn Fn(TaskId) -> Option<crate::service::tasks::Task>| {
                [new, accepted, begun].map(|id| *user(id).expect("known").last())
            };
            assert_eq!(last(&|id| a.0.get(id)), last(&|id| b.0.get(id)), "two histories");
        })
        .await;
        assert_eq!((a.0.list().len(), b.0.list().len()), (3, 3));
    });
}

/// Who is not trusted, or whose grant does not cover tasks.
pub fn who_may_not_submit_is_told<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::strangers().await;
        let mut at_a = begin(&stage.a, &Disk::default());
        let mut at_b = begin(&stage.b, &Disk::default());
        let (a, b) = (User::<A>::of(&at_a), User::<B>::of(&at_b));
        let refused = a.submit(stage.b_at, "do it").await;
        assert!(matches!(refused, Err(TasksFailure::NotTrusted(_))), "{refused:?}");
        befriend(&stage.a, &stage.b).await;
        let no_tasks: Permissions = "message,file".parse().expect("permissions");
        stage.b.keep_alive().set_permissions(stage.a_at, no_tasks).expect("a peer");
        beside(&stage, (&mut at_a, &mut at_b), async {
            step("without the right");
            let id = a.submit(stage.b_at, "do it").await.expect("stored");
            a.hear(id, What::Refused(Verdict::NotPermitted)).await;
            assert_eq!(b.0.list().len(), 0);
            let late = a.step(id, Step::Cancel, "").await;
            assert!(matches!(late, Err(TasksFailure::Act(_))), "{late:?}");
        })
        .await;
    });
}

/// A worker that is away when the task is submitted.
pub fn a_task_waits_for_a_worker_that_is_away<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let world = R::start();
        let (a, b) = (Setup::new(&world, 11), Setup::new(&world, 12));
        let again = b.clone();
        let stage = Stage::<A, B, R>::with(world, a, b).await;
        befriend(&stage.a, &stage.b).await;
        let mut at_a = begin(&stage.a, &Disk::default());
        let user = User::<A>::of(&at_a);
        let Stage { a, b, a_at, b_at, world } = stage;
        step("the worker goes away");
        kill(b);
        let id = race(serve(&a, &mut at_a), async {
            let id = user.submit(b_at, "do it").await.expect("stored");
            sleep(300 * MS).await;
            id
        })
        .await;
        assert_eq!(user.state(id), Some(State::New));
        let b = B::start(again);
        assert_eq!(b.ready().await, Ok(b_at), "the same address");
        let stage = Stage { a, b, a_at, b_at, world };
        let mut at_b = begin(&stage.b, &Disk::default());
        let b = User::<B>::of(&at_b);
        beside(&stage, (&mut at_a, &mut at_b), async {
            step("the worker is back");
            b.hear(id, What::Submitted).await;
            b.make(id, Step::Decline, "too late").await;
            user.hear(id, What::Declined).await;
        })
        .await;
    });
}

/// Disks that fail: nothing is told that is not stored, and afterwards everything goes on.
pub fn what_cannot_be_stored_is_not_told<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let disks = [Disk::default(), Disk::default()];
        let mut at_a = begin(&stage.a, &disks[0]);
        let mut at_b = begin(&stage.b, &disks[1]);
        let (a, b) = (User::<A>::of(&at_a), User::<B>::of(&at_b));
        let b_at = stage.b_at;
        beside(&stage, (&mut at_a, &mut at_b), async {
            step("the submitter's disk");
            disks[0].set_failing(true);
            let lost = a.submit(b_at, "lost").await;
            assert!(matches!(lost, Err(TasksFailure::NotStored)), "{lost:?}");
            assert_eq!(a.0.list().len(), 0);
            disks[0].set_failing(false);
            step("the worker's disk");
            disks[1].set_failing(true);
            let id = a.submit(b_at, "do it").await.expect("stored");
            let early = within(1000 * MS, b.event()).await;
            assert_eq!((early, a.0.get(id).map(|task| task.is_known_there())), (None, Some(false)));
            disks[1].set_failing(false);
            b.hear(id, What::Submitted).await;
            disks[1].set_failing(true);
            let failed = b.step(id, Step::Accept, "").await;
            assert!(matches!(failed, Err(TasksFailure::NotStored)), "{failed:?}");
            assert_eq!(b.state(id), Some(State::New));
            disks[1].set_failing(false);
            b.make(id, Step::Decline, "no").await;
            a.hear(id, What::Declined).await;
            assert_eq!((a.0.list().len(), b.0.list().len()), (1, 1));
            step("a disk that cannot be read either");
            let id = a.submit(b_at, "do it").await.expect("stored");
            b.hear(id, What::Submitted).await;
            let before = disks[1].lock().record(id).expect("read");
            disks[1].set_dead(true);
            let failed = b.step(id, Step::Accept, "").await;
            assert!(matches!(failed, Err(TasksFailure::NotStored)), "{failed:?}");
            let early = within(1000 * MS, a.event()).await;
            assert_eq!((early, a.state(id)), (None, Some(State::New)));
            disks[1].set_dead(false);
            a.hear(id, What::Accepted).await;
            assert_ne!(disks[1].lock().record(id).expect("read"), before, "told, and not stored");
        })
        .await;
    });
}
