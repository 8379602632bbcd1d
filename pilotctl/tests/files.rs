//! Files and directories between real daemons, at once and through the outbox.
//! `PILOT_TEST_FILE_MB` sets how large the large file is.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;
use support::pair::{Api, Pair, listed, pair, waits};
use support::{Home, Story, start, wait_at_most, wait_for, write_file};

const PATIENCE: Duration = Duration::from_secs(120);

fn id(item: &Value) -> String {
    item["id"].as_str().unwrap().to_owned()
}

/// The content of a received file.
fn content(home: &Home, name: &str) -> Vec<u8> {
    std::fs::read(home.path.join("received").join(name)).unwrap()
}

#[test]
fn a_file_waits_for_a_receiver_that_is_away_and_arrives_as_it_was() {
    let mut story = Story::begin("files that wait", Duration::from_secs(240));
    let Pair { server: _server, registry, beacon, a, b, to_a, .. } = pair();
    let file = b.beside("data.csv");
    write_file(&file, 5_000_000, 1);
    let (path, original) = (file.to_str().unwrap(), std::fs::read(&file).unwrap());
    let empty = b.beside("empty");
    std::fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    b.ok(&["send-file", &to_a, empty, "--name", "at-once"]);
    assert_eq!(content(&a, "at-once"), b"");
    a.kill("daemon");
    story.done("a receiver that is gone");

    let queued = b.data(&["send-file", &to_a, path, "--note", "as promised"]);
    assert!(waits(&queued) && queued["reason"]["code"].is_string(), "{queued}");
    let status = b.data(&["status", &id(&queued)]);
    let shown = ["name", "note", "kind", "bytes"].map(|field| status[field].clone());
    assert_eq!(json!(shown), json!(["data.csv", "as promised", "file", 5_000_000]));
    // The same again is the same transfer, not another.
    assert_eq!(id(&b.data(&["send-file", &to_a, path])), id(&queued));
    // Over the API, one that does not say when it was changed is another than the one that waits.
    let target = format!("files?to={to_a}&name=untold&queue=true");
    let untold = ["one", "two"].map(|text| {
        let (status, answer) = Api::open(&b).unwrap().ask("POST", &target, text).unwrap();
        assert_eq!(status, 200, "{answer}");
        id(&answer["data"])
    });
    assert_ne!(untold[0], untold[1]);
    let nothing = b.data(&["send-file", &to_a, empty, "--queue"]);
    let other = b.data(&["send-file", &to_a, path, "--name", "other", "--queue"]);
    assert_eq!(b.data(&["cancel", &id(&other)])["state"], "cancelled");
    let waited = b.error(&["send-file", &to_a, path, "--name", "c", "--queue", "--wait", "1s"]);
    assert_eq!(waited, (6, "timeout".to_owned()));
    let limited = b.error(&["send-file", &to_a, path, "--name", "d", "--timeout", "1s"]);
    assert_eq!(limited, (6, "timeout".to_owned()));
    assert_eq!(b.data(&["outbox"])["waiting"], 5);
    assert!(b.ok(&["outbox"]).contains("file \"data.csv\" "));
    // What becomes of the file matters no more, nor does the end of its daemon.
    std::fs::write(&file, "something else").unwrap();
    b.kill("daemon");
    b.ok(&["daemon", "start"]);
    story.done("five wait, one was taken back");

    a.ok(&start(&registry, &beacon));
    for item in [&queued, &nothing] {
        let status = b.data(&["status", &id(item), "--wait", "80s"]);
        assert_eq!(status["state"], "delivered", "{status}");
    }
    wait_at_most(PATIENCE, "all are delivered", || b.data(&["outbox"])["waiting"] == 0);
    assert!(content(&a, "data.csv") == original && content(&a, "c") == original);
    assert_eq!(content(&a, "empty"), b"");
    let mut untold = ["untold", "untold (2)"].map(|name| content(&a, name));
    untold.sort(); // Several go at a time.
    assert_eq!(untold, [b"one", b"two"]);
    let mut names: Vec<_> =
        a.received().iter().map(|f| f["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["at-once", "c", "data.csv", "empty", "untold", "untold (2)"]);
    let left: Vec<_> = std::fs::read_dir(b.path.join("outbox")).unwrap().collect();
    assert_eq!(left.len(), 1, "the list of what is settled: {left:?}");
    // What is delivered is sent anew.
    let again = b.data(&["send-file", &to_a, path, "--queue", "--wait", "80s"]);
    assert_eq!(again["state"], "delivered");
    assert_eq!(content(&a, "data (2).csv"), b"something else");
    story.done("delivered");
}

#[test]
fn a_large_file_holds_up_nothing_small() {
    let mut story = Story::begin("a large file", Duration::from_secs(240));
    let Pair { server: _server, registry, beacon, a, b, to_a, .. } = pair();
    a.kill("daemon");
    let large = b.beside("large");
    // More than can pass in the time of this test; three of them, as many as go at a time.
    std::fs::File::create(&large).unwrap().set_len(400_000_000).unwrap();
    let queue = |name: &str| {
        let line = ["send-file", &to_a, large.to_str().unwrap(), "--name", name, "--queue"];
        id(&b.data(&line))
    };
    let ids = ["one", "two", "three"].map(queue);
    story.done("three large files in the outbox");
    a.ok(&start(&registry, &beacon));
    let state = |id: &String| b.data(&["status", id]);
    let under_way = |id| state(id)["state"] == "sending" && state(id)["sent"].as_u64() > Some(0);
    wait_for("they are under way", || ids.iter().all(under_way));
    let small = b.beside("small");
    write_file(&small, 100_000, 3);
    for n in 0..3 {
        b.ok(&["send-message", &to_a, &n.to_string(), "--wait", "60s"]);
        let name = format!("small {n}");
        let line = ["send-file", &to_a, small.to_str().unwrap(), "--name", &name, "--queue"];
        b.ok(&[&line[..], &["--wait", "60s"]].concat());
        assert!(content(&a, &name) == std::fs::read(&small).unwrap());
    }
    assert_eq!(a.inbox(), ["0", "1", "2"]);
    for id in &ids {
        let item = state(id);
        assert_eq!(item["state"], "sending", "it is still under way: {item}");
    }
    story.done("messages and small files beside them");
    for id in &ids {
        assert_eq!(b.data(&["cancel", id])["may_have_arrived"], true);
    }
    assert!(a.received().iter().all(|file| file["bytes"] == 100_000));
    assert_eq!(b.data(&["outbox"])["waiting"], 0);
    story.done("taken back");
}

/// A directory with files of some sizes, and directories within.
fn make_tree(root: &Path) {
    std::fs::create_dir_all(root.join("empty")).unwrap();
    std::fs::create_dir_all(root.join("deep/er")).unwrap();
    write_file(&root.join("a.bin"), 3_000_000, 1);
    write_file(&root.join("deep/er/b.bin"), 70_000, 2);
    std::fs::write(root.join("deep/nothing"), "").unwrap();
}

#[test]
fn a_directory_arrives_whole_with_all_that_is_below_it() {
    let mut story = Story::begin("directories", Duration::from_secs(240));
    let Pair { server: _server, registry, beacon, a, b, to_a, .. } = pair();
    let tree = b.beside("tree");
    make_tree(&tree);
    let path = tree.to_str().unwrap();
    // What is in the way there is not followed.
    let outside = a.beside("outside");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, a.path.join("received/tree")).unwrap();
    let sent = b.data(&["send-file", &to_a, path]);
    assert_eq!((&sent["state"], &sent["kind"]), (&"delivered".into(), &"directory".into()));
    let received = a.received().remove(0);
    let shown = ["name", "kind", "there", "entries"].map(|field| received[field].clone());
    assert_eq!(json!(shown), json!(["tree (2)", "directory", true, 6]));
    assert_eq!(received["hash"], sent["hash"]);
    let one = |home: &Home, id: &str| {
        let path = format!("received/{}/{id}", received["from"].as_str().unwrap());
        Api::open(home).unwrap().ask("GET", &path, "").unwrap()
    };
    let (status, found) = one(&a, sent["id"].as_str().unwrap());
    assert_eq!((status, &found["data"]["path"]), (200, &received["path"]));
    assert_eq!(one(&a, &"0".repeat(32)).0, 404);
    assert_eq!(listed(&a.path.join("received/tree (2)")), listed(&tree));
    assert!(a.ok(&["received"]).contains("6 entries"));
    story.done("at once");

    // What is not sent is an error, or left out.
    let before = listed(&tree);
    symlink("/etc/passwd", tree.join("deep/link")).unwrap();
    std::fs::write(tree.join(".hidden"), "secret").unwrap();
    let refused = b.error(&["send-file", &to_a, path, "--name", "strict"]);
    assert_eq!(refused, (2, "usage".to_owned()));
    a.kill("daemon");
    let line = ["send-file", &to_a, path, "--name", "waits", "--skip-special", "--queue"];
    let queued = b.data(&line);
    assert!(waits(&queued), "{queued}");
    std::fs::remove_dir_all(&tree).unwrap();
    b.kill("daemon");
    b.ok(&["daemon", "start"]);
    a.ok(&start(&registry, &beacon));
    assert_eq!(b.data(&["status", &id(&queued), "--wait", "80s"])["state"], "delivered");
    assert_eq!(listed(&a.path.join("received/waits")), before);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    story.done("through the outbox");

    // A content that is no directory is refused for good, and nothing of it is shown.
    let (mut api, seen) = (Api::open(&b).unwrap(), listed(&a.path.join("received")));
    let tricks: [&[u8]; 4] = [
        b"\x02\x07../evil\0\0\0\0\0\0\0\x01x\0",
        b"\x01\x02..\0\0",
        b"\x02\x05/evil\0\0\0\0\0\0\0\0\0",
        b"\x01\x01a",
    ];
    for (n, trick) in tricks.iter().enumerate() {
        let query = format!("files?to={to_a}&name=trick-{n}&kind=directory");
        let (status, answer) =
            api.ask("POST", &query, std::str::from_utf8(trick).unwrap()).unwrap();
        assert_eq!((status, &answer["code"]), (502, &"rejected".into()), "{answer}");
        let (_, kept) =
            api.ask("POST", &(query + "&queue=true"), std::str::from_utf8(trick).unwrap()).unwrap();
        let status = b.data(&["status", &id(&kept["data"]), "--wait", "60s"]);
        assert_eq!(status["state"], "refused", "{status}");
    }
    assert!(listed(&a.path.join("received")) == seen, "nothing new is there");
    story.done("no directories");
}

#[test]
fn a_large_sparse_file_arrives_whole() {
    let mut story = Story::begin("a sparse file", Duration::from_secs(3600));
    let Pair { server: _server, a, b, to_a, .. } = pair();
    let size = std::env::var("PILOT_TEST_FILE_MB").map_or(64, |n| n.parse::<u64>().unwrap()) << 20;
    let file = b.beside("sparse");
    let sparse = std::fs::File::create(&file).unwrap();
    sparse.set_len(size).unwrap();
    use std::os::unix::fs::FileExt as _;
    sparse.write_all_at(b"end", size - 3).unwrap();
    let mut command = b.command(&["send-file", &to_a, file.to_str().unwrap(), "--json"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let sent: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&sent["data"]["state"], &sent["data"]["bytes"]),
        (&"delivered".into(), &size.into())
    );
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.lines().all(|line| line.starts_with("{\"progress\":{\"sent\":")), "{errors}");
    story.done(&format!("{size} bytes: {}", sent["data"]["seconds"]));
    let received = a.received().remove(0);
    assert_eq!(received["hash"], sent["data"]["hash"]);
    let there = std::fs::File::open(received["path"].as_str().unwrap()).unwrap();
    assert_eq!(there.metadata().unwrap().len(), size);
    let mut end = [0; 3];
    there.read_exact_at(&mut end, size - 3).unwrap();
    assert_eq!(&end, b"end");
    story.done("as it was sent");
}
