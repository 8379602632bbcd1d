//! What an agent is worth: receipts of two agents at a real server, asked for by the real program.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use pilot_core::crypto::task::statement::submission;
use pilot_core::crypto::task::{Head, Receipt, Side, Step, TaskId, Times};
use pilot_core::time::UnixTime;
use pilot_tokio::{Agent, DirectoryError, Identity, RequestError};
use std::time::{Duration, SystemTime};
use support::Home;

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("took a minute")
}

async fn agent(n: u8, registry: &str, beacon: &str) -> Agent {
    let builder = Agent::builder(Identity::from_secret([n; 32]));
    let listen = "127.0.0.1:0".parse().unwrap();
    let agent = builder.registry(registry).beacon(beacon).listen(listen).bind().await.unwrap();
    within(agent.ready()).await.unwrap();
    agent
}

/// Ten minutes of work that `worker` has done for `submitter`: each signs what is its own.
fn finished(submitter: &Agent, worker: &Agent, task: u8) -> Receipt {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now = UnixTime::from_secs(since.as_secs());
    let registry = submitter.registry_key().unwrap();
    let (s, w) = (submitter.info().identity, worker.info().identity);
    let first = submission(TaskId([task; 16]), s, w, now, b"add the numbers");
    assert!(worker.sign_statement(first).is_err(), "it is the submitter's to sign");
    let mut head = Head::begin(&submitter.sign_statement(first).unwrap(), &registry).unwrap();
    for step in [Step::Accept, Step::Start, Step::Complete] {
        let next = head.next(step, Side::Worker, now, b"").unwrap();
        head.follow(&worker.sign_statement(next).unwrap(), &registry).unwrap();
    }
    let end = now.as_millis();
    let times = Times::from_millis([end - 600_000, end - 600_000, end - 600_000, end]);
    let claim = worker.sign_claim(&head, times).unwrap();
    assert!(worker.sign_receipt(&head, &claim, times).is_err());
    submitter.sign_receipt(&head, &claim, times).unwrap()
}

#[test]
fn receipts_move_a_reputation_and_a_killed_server_keeps_it() {
    let (server, registry, beacon) = Home::rendezvous();
    let (home, report) = Home::agent(&registry, &beacon);
    let own = home.data(&["reputation"]);
    assert_eq!((&own["address"], own["score"].as_i64()), (&report["address"], Some(0)));

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (s, w) = (agent(1, &registry, &beacon).await, agent(2, &registry, &beacon).await);
        let address = w.address().unwrap().to_string();
        // Private: as if there were nobody.
        assert_eq!(home.error(&["reputation", &address]), (3, "not_found".to_owned()));
        assert_eq!(home.error(&["reputation", "0:0000.0000.FFF0"]), (3, "not_found".to_owned()));
        within(w.set_visibility(true)).await.unwrap();
        within(w.set_hostname("worker".parse().unwrap(), None)).await.unwrap();
        let receipt = finished(&s, &w, 1);
        let stranger = agent(3, &registry, &beacon).await;
        let refused = within(stranger.submit_receipt(&receipt)).await.unwrap_err();
        assert_eq!(refused, DirectoryError::Request(RequestError::Refused(2)));
        for side in [&w, &s, &w] {
            within(side.submit_receipt(&receipt)).await.unwrap();
        }
        let mine = within(s.reputation(s.address().unwrap())).await.unwrap();
        assert_eq!((mine.score(), mine.submitted), (-1, 1));

        let shown = home.data(&["reputation", &address]);
        let numbers = ["score", "earned", "spent", "completed", "failed", "submitted"];
        let expected = [4, 4, 0, 1, 0, 0];
        assert_eq!(numbers.map(|name| shown[name].as_i64().unwrap()), expected);
        let text = home.ok(&["reputation", "worker"]);
        assert!(text.contains("score") && text.contains("4 (1 task done)"), "{text}");

        // Without a word, and back at the same ports.
        assert_eq!(server.data(&["rendezvous", "status"])["counters"]["receipts"], 1);
        server.kill("rendezvous");
        server.data(&[
            "rendezvous",
            "start",
            "--registry-addr",
            &registry,
            "--beacon-addr",
            &beacon,
        ]);
        assert_eq!(home.data(&["reputation", &address]), shown);
        // The receipt counts once, now as before.
        within(w.submit_receipt(&receipt)).await.unwrap();
        assert_eq!(home.data(&["reputation", &address]), shown);
        for agent in [s, w, stranger] {
            within(agent.shutdown()).await;
        }
    });
}
