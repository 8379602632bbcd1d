//! How cases are run: a thread with a watchdog, and a loop that polls nobody who was not woken.

use super::list::ALONE;
use crate::drive::io::Clock;
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::boxed::Box;
use std::cell::RefCell;
use std::string::{String, ToString};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, mpsc};
use std::task::Wake;
use std::vec::Vec;
use std::{println, thread, thread_local};

/// Cases go in together; one that must be alone goes in alone.
static GATE: RwLock<()> = RwLock::new(());

/// A case that is not over after this time has hung.
pub const WATCHDOG: Duration = Duration::from_secs(60);

thread_local! {
    static STEP: RefCell<Option<Arc<Mutex<String>>>> = const { RefCell::new(None) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says what the case does now, for the message of its watchdog.
pub(super) fn step(what: &str) {
    STEP.with_borrow(|step| {
        if let Some(step) = step {
            *lock(step) = what.to_string();
        }
    });
}

/// Runs a case under the watchdog and prints how long it took by a clock that starts with it.
/// Panics if the case does.
pub fn case<C: Clock + Default>(name: &str, body: fn()) {
    // A case that has failed is no reason for others to fail.
    if ALONE.contains(&name) {
        let _alone = GATE.write().unwrap_or_else(PoisonError::into_inner);
        watched(name, WATCHDOG, &C::default(), body);
    } else {
        let _beside_others = GATE.read().unwrap_or_else(PoisonError::into_inner);
        watched(name, WATCHDOG, &C::default(), body);
    }
}

fn watched(name: &str, limit: Duration, clock: &impl Clock, body: impl FnOnce() + Send + 'static) {
    let last = Arc::new(Mutex::new(String::from("the beginning")));
    let (over, end) = mpsc::channel();
    let started = clock.now();
    let steps = Arc::clone(&last);
    let run = move || {
        STEP.set(Some(steps));
        body();
        let _ = over.send(());
    };
    let thread = thread::Builder::new().name(name.to_string()).spawn(run).expect("a thread");
    if let Err(mpsc::RecvTimeoutError::Timeout) = end.recv_timeout(limit) {
        panic!("{name} hangs: not over after {limit:?}, at: {}", lock(&last));
    }
    if let Err(panic) = thread.join() {
        println!("{name} failed at: {}", lock(&last));
        std::panic::resume_unwind(panic);
    }
    println!("{name}: {:.2} s", clock.now().since(started).as_secs_f64());
}

/// Wakes a thread.
#[derive(Default)]
struct Bell {
    has_rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    /// Waits until it has rung since the last time, or for `limit`; whether it has rung.
    fn wait(&self, limit: Duration) -> bool {
        let guard = lock(&self.has_rung);
        let waited = self.rings.wait_timeout_while(guard, limit, |has_rung| !*has_rung);
        let (mut has_rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        core::mem::take(&mut *has_rung)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *lock(&self.has_rung) = true;
        self.rings.notify_one();
    }
}

/// Runs a future on this thread. It is polled when it was woken, and only then.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        while !bell.wait(WATCHDOG) {}
    }
}

/// Polls a future `polls` times at most and drops it: the output, if it was that fast. Between
/// two polls it waits for the wake-up, but not for longer than `pause`.
pub fn abandon<F: Future>(future: F, polls: u32, pause: Duration) -> Option<F::Output> {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    for n in 0..polls {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
        if n + 1 < polls {
            bell.wait(pause);
        }
    }
    None
}

/// A future's own waker.
struct Tap {
    is_woken: AtomicBool,
    outer: Mutex<Waker>,
}

impl Wake for Tap {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        let outer = lock(&self.outer).clone();
        outer.wake();
    }
}

/// A future that is polled only after its own waker was called, whoever else was woken.
struct Strict<F> {
    future: Pin<Box<F>>,
    tap: Arc<Tap>,
}

impl<F: Future> Strict<F> {
    fn new(future: F) -> Self {
        let outer = Mutex::new(Waker::noop().clone());
        let tap = Arc::new(Tap { is_woken: AtomicBool::new(true), outer });
        Strict { future: Box::pin(future), tap }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut outer = lock(&self.tap.outer);
            if !outer.will_wake(cx.waker()) {
                outer.clone_from(cx.waker());
            }
        }
        if !self.tap.is_woken.swap(false, Ordering::SeqCst) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(&self.tap));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

/// All of them at once; the outputs in their order.
pub async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|f| Some(Strict::new(f))).collect();
    let mut outputs: Vec<_> = running.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut is_over = true;
        for (place, output) in running.iter_mut().zip(&mut outputs) {
            let Some(future) = place else { continue };
            match future.poll(cx) {
                Poll::Ready(done) => (*place, *output) = (None, Some(done)),
                Poll::Pending => is_over = false,
            }
        }
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

/// Both at once.
pub async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (Strict::new(a), Strict::new(b));
    let (mut from_a, mut from_b) = (None, None);
    poll_fn(|cx| {
        if from_a.is_none()
            && let Poll::Ready(output) = a.poll(cx)
        {
            from_a = Some(output);
        }
        if from_b.is_none()
            && let Poll::Ready(output) = b.poll(cx)
        {
            from_b = Some(output);
        }
        match (from_a.take(), from_b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (from_a, from_b) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}

/// The output of `b`, while `a` runs, which goes on for longer; it is dropped then.
pub async fn race<A: Future, B: Future>(a: A, b: B) -> B::Output {
    let (mut a, mut b) = (Strict::new(a), Strict::new(b));
    poll_fn(|cx| {
        assert!(a.poll(cx).is_pending(), "it has ended before the other");
        b.poll(cx)
    })
    .await
}

/// The future's output, or `None` after this time; the future is dropped then.
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = Strict::new(future);
    let mut alarm = Alarm::default();
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.poll(cx) {
            return Poll::Ready(Some(output));
        }
        alarm.poll(limit, cx).map(|()| None)
    })
    .await
}

/// Waits without occupying the thread.
pub async fn sleep(time: Duration) {
    let mut alarm = Alarm::default();
    poll_fn(|cx| alarm.poll(time, cx)).await;
}

/// A thread that sleeps from the first poll on and then wakes whoever waits last.
#[derive(Default)]
struct Alarm(Option<Arc<Mutex<Sleeper>>>);

struct Sleeper {
    has_slept: bool,
    waker: Waker,
}

impl Alarm {
    fn poll(&mut self, time: Duration, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(sleeper) = &self.0 {
            let mut sleeper = lock(sleeper);
            if sleeper.has_slept {
                return Poll::Ready(());
            }
            sleeper.waker.clone_from(cx.waker());
            return Poll::Pending;
        }
        let sleeper = Sleeper { has_slept: false, waker: cx.waker().clone() };
        let sleeper = Arc::clone(self.0.insert(Arc::new(Mutex::new(sleeper))));
        thread::spawn(move || {
            thread::sleep(time);
            let waker = {
                let mut sleeper = lock(&sleeper);
                sleeper.has_slept = true;
                sleeper.waker.clone()
            };
            waker.wake();
        });
        Poll::Pending
    }
}

/// Looks again and again until it is so; for what nobody is woken for.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    step(what);
    while !is_so() {
        sleep(Duration::from_millis(10)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    /// Pending until `n` polls were made; wakes itself if it is told to.
    fn stubborn(n: u32, wakes: bool) -> impl Future<Output = u32> {
        let mut polls = 0;
        poll_fn(move |cx| {
            polls += 1;
            if wakes {
                cx.waker().wake_by_ref();
            }
            if polls > n { Poll::Ready(polls) } else { Poll::Pending }
        })
    }

    #[test]
    fn nobody_is_polled_who_was_not_woken() {
        let limit = Duration::from_millis(50);
        let both = async { both(stubborn(3, true), stubborn(1, false)).await };
        assert_eq!(block_on(within(limit, both)), None);
        let all = async { all([stubborn(3, true), stubborn(100, true)]).await };
        assert_eq!(block_on(within(limit, all)), Some([4, 101].to_vec()));
    }

    #[test]
    fn what_is_abandoned_was_polled_so_often_and_no_more() {
        let polls = Cell::new(0);
        let counting = poll_fn(|_| {
            polls.set(polls.get() + 1);
            Poll::<()>::Pending
        });
        assert_eq!(abandon(counting, 3, Duration::ZERO), None);
        assert_eq!(polls.get(), 3);
        assert_eq!(abandon(stubborn(2, false), 3, Duration::ZERO), Some(3));
    }

    #[test]
    #[should_panic(expected = "asleep hangs: not over after 50ms, at: waiting for nobody")]
    fn the_watchdog_says_where_a_case_hangs() {
        watched("asleep", Duration::from_millis(50), &|| crate::time::Instant::START, || {
            step("waiting for nobody");
            block_on(core::future::pending::<()>());
        });
    }

    #[test]
    #[should_panic(expected = "a case fails")]
    fn a_failure_is_passed_on() {
        watched("failing", Duration::from_secs(5), &|| crate::time::Instant::START, || {
            panic!("a case fails")
        });
    }
}
