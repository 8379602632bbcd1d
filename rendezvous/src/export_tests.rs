//! Export and import, and which files make a registry.

use crate::commit::Store;
use crate::export::{self, ExportError, NUMBERS_SKIPPED};
use crate::files::Files;
use crate::key::KeyError;
use crate::open::{OpenError, Registry, open};
use crate::store::{StoreError, open_file};
use crate::test_client::finished;
use pilot_core::addr::{NetworkId, NodeId};
use pilot_core::crypto::{Identity, IdentityKey};
use pilot_core::rendezvous::{Commit, Letter, Published, Row};
use pilot_core::time::UnixTime;
use pilot_core::wire::Bytes;
use pilot_core::wire::registry::Visibility;
use std::sync::{Arc, mpsc};

const NOW: UnixTime = UnixTime::from_secs(1_700_000_000);

fn files(directory: &tempfile::TempDir) -> Files {
    Files::beside(&directory.path().join("state/registry.json"))
}

fn open_registry(files: &Files, new_key: bool) -> Result<Registry, OpenError> {
    open(files, new_key, NOW, Arc::new(open_file))
}

/// One row of every form.
fn rows() -> Vec<Row> {
    let (a, b, c) = (NodeId(16), NodeId(0x12_3456), NodeId(18));
    let published = |visibility, tags: &[&str]| Published {
        record: Bytes(std::array::from_fn(|i| i as u8)),
        assign: Bytes([0xA5; 80]),
        boot_id: 0xFEDC_BA98_7654_3210,
        visibility,
        tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
    };
    let node = |node, published| Row::Node {
        node,
        identity: Bytes([node.0 as u8; 32]),
        reserved: 1_699_999_999,
        published,
    };
    let mail = |id, letter| Row::Mail { id, to: a, from: b, received: 1_700_000_000, letter };
    vec![
        Row::Meta { next_node: NodeId(19), next_item: 5 },
        node(a, Some(published(Visibility::Public, &["gpu", "region=eu-west"]))),
        node(c, Some(published(Visibility::Private, &[]))),
        node(b, None),
        Row::Name { network: NetworkId(0), hostname: "alpha".parse().unwrap(), node: a },
        Row::Name { network: NetworkId(65_535), hostname: "b-2".parse().unwrap(), node: b },
        Row::Membership { node: b, network: NetworkId(65_535) },
        mail(1, Letter::Request { sealed: true, body: vec![0, 1, 0xFF].into() }),
        mail(2, Letter::Answer { nonce: Bytes([7; 16]), grant: Some(Bytes([8; 156])) }),
        mail(3, Letter::Answer { nonce: Bytes([7; 16]), grant: None }),
        mail(4, Letter::Confirm { grant: Bytes([9; 156]), held: Bytes([10; 156]) }),
        Row::Asked { from: b, to: a, at: 1_700_000_000 },
        Row::Revocation { grantor: a, grantee: Bytes([11; 32]), hash: Bytes([12; 8]), at: 3 },
    ]
}

/// Those, and a receipt that was signed for this registry.
fn rows_of(registry: &IdentityKey) -> Vec<Row> {
    let (a, b) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
    let receipt = finished(registry, &a, &b, 7, NOW);
    rows().into_iter().chain([Row::Receipt { received: 1_700_000_000, receipt }]).collect()
}

fn fill(registry: Registry, rows: &[Row]) -> Store {
    let (tell, told) = mpsc::channel();
    let deliver = move |id, stored| {
        let _ = tell.send((id, stored));
    };
    let store = Store::start(registry.store, Box::new(deliver)).unwrap();
    assert!(store.submit(Commit { id: 1, changes: rows.iter().map(Row::change).collect() }));
    assert_eq!(told.recv().unwrap(), (1, true));
    store
}

fn stored(registry: &Registry) -> Vec<Row> {
    let mut rows = Vec::new();
    let take = |table, key: &[u8], value: &[u8]| {
        rows.push(Row::decode(table, key, value).unwrap());
        Ok::<(), StoreError>(())
    };
    registry.store.read(take).unwrap();
    rows
}

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(Row::change);
    rows
}

/// A registry with [`rows`] and its export.
fn exported(directory: &tempfile::TempDir) -> Files {
    let files = files(directory);
    let registry = open_registry(&files, false).unwrap();
    let key = registry.keys.public();
    let store = fill(registry, &rows_of(&key));
    export::write(&files.export, &store.snapshot().unwrap(), &key, 1_700_000_001).unwrap();
    files
}

#[test]
fn an_export_is_readable_and_brings_everything_back() {
    let directory = tempfile::tempdir().unwrap();
    let files = exported(&directory);
    let text = std::fs::read_to_string(&files.export).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["nodes"][0]["address"], "0:0000.0000.0010");
    assert_eq!(json["nodes"][0]["published"]["visibility"], "public");
    assert_eq!(json["nodes"][0]["published"]["tags"][1], "region=eu-west");
    assert_eq!(json["memberships"][0]["address"], "65535:FFFF.0012.3456");
    assert_eq!(json["mailboxes"][0]["letter"]["body"], "0001ff");
    // The head, a line for each list's begin, row and end, and the last brace.
    assert_eq!(text.lines().count(), 4 + 7 * 2 + rows().len() + 1 - 1 + 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(&files.export).unwrap().mode() & 0o777, 0o600);
    }

    std::fs::remove_file(&files.store).unwrap();
    let imported = open_registry(&files, false).unwrap();
    let mut expected = rows_of(&imported.keys.public());
    // The highest node was 0x123456, although the counter said 19.
    expected[0] = Row::Meta {
        next_node: NodeId(0x12_3457 + NUMBERS_SKIPPED),
        next_item: 5 + u64::from(NUMBERS_SKIPPED),
    };
    assert_eq!(sorted(stored(&imported)), sorted(expected));
}

#[test]
fn an_export_holds_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let files = exported(&directory);
    let key = std::fs::read(&files.key).unwrap();
    let export = std::fs::read_to_string(&files.export).unwrap();
    let public = crate::json::hex(&key[128..160]);
    assert!(export.contains(&public), "the search itself works");
    for secret in [&key[16..48], &key[48..80]] {
        assert!(!export.contains(&crate::json::hex(secret)));
    }
}

#[test]
fn the_export_is_ignored_while_there_is_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let files = exported(&directory);
    std::fs::write(&files.export, "garbage").unwrap();
    let registry = open_registry(&files, false).unwrap();
    assert_eq!(sorted(stored(&registry)), sorted(rows_of(&registry.keys.public())));
}

#[test]
fn an_import_needs_the_key_or_an_explicit_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let files = exported(&directory);
    let old = std::fs::read(&files.key).unwrap();
    let refused = open_registry(&files, true).err().unwrap();
    assert!(matches!(refused, OpenError::Key(KeyError::Exists { .. })), "{refused}");
    std::fs::remove_file(&files.key).unwrap();
    // A store without its key, likewise.
    let refused = open_registry(&files, false).err().unwrap();
    assert!(matches!(refused, OpenError::Key(KeyError::Missing { .. })), "{refused}");
    std::fs::remove_file(&files.store).unwrap();
    let refused = open_registry(&files, false).err().unwrap();
    assert!(matches!(refused, OpenError::Key(KeyError::Missing { .. })), "{refused}");
    assert!(!files.key.exists());
    // The refusals have left a fresh store behind, which does not hide the export.
    let imported = open_registry(&files, true).unwrap();
    assert_eq!(stored(&imported).len(), rows().len() + 1);
    assert_ne!(std::fs::read(&files.key).unwrap(), old);
}

#[test]
fn a_malformed_export_is_refused_and_leaves_the_store_fresh() {
    let directory = tempfile::tempdir().unwrap();
    let files = exported(&directory);
    std::fs::remove_file(&files.store).unwrap();
    let good = std::fs::read_to_string(&files.export).unwrap();
    let replacements = [
        ("\"version\": 1", "\"version\": 2"),
        ("\"format\": \"pilot-rendezvous\"", "\"format\": \"other\""),
        ("\"next_item\": 5", "\"next_item\": -5"),
        ("\"address\":\"0:0000.0000.0010\"", "\"address\":\"0:0000.0000.0001\""),
        ("\"visibility\":\"public\"", "\"visibility\":\"secret\""),
        ("\"kind\":\"answer\"", "\"kind\":\"reply\""),
        ("\"tags\":[\"gpu\"", "\"tags\":[\"g p\\u0000u\""),
        ("\"body\":\"0001ff\"", "\"body\":\"0001f\""),
        ("\"body\":\"0001ff\"", "\"body\":\"0001fé\""),
        ("\"names\": [", "\"nicknames\": ["),
        ("\n]\n}\n", "\n]\n"),
        ("a5a5a5a5", "a5a5a5"),
        ("\"receipt\":\"07", "\"receipt\":\"7"),
    ];
    for (from, to) in replacements {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from:?} is not in the export");
        std::fs::write(&files.export, bad).unwrap();
        let refused = open_registry(&files, false).err().unwrap();
        let malformed = matches!(refused, OpenError::Import(ExportError::Malformed { .. }));
        assert!(malformed, "{from:?} to {to:?}: {refused}");
    }
    std::fs::write(&files.export, good).unwrap();
    assert_eq!(stored(&open_registry(&files, false).unwrap()).len(), rows().len() + 1);
}

/// W-R6: an operator, or whoever gets at the export, edits a reputation into it.
#[test]
fn w_r6_receipts_are_verified_when_they_are_imported() {
    let directory = tempfile::tempdir().unwrap();
    let files = exported(&directory);
    std::fs::remove_file(&files.store).unwrap();
    let good = std::fs::read_to_string(&files.export).unwrap();
    let at = good.find("\"receipt\":\"").expect("there is one") + "\"receipt\":\"".len();
    // Worker, outcome, times and both signatures; and the key that it was signed for.
    let mut edited: Vec<String> = Vec::new();
    for byte in [16, 48, 90, 113, 140, 150, 210, 250] {
        let mut text = good.clone().into_bytes();
        let digit = &mut text[at + 2 * byte];
        *digit = if *digit == b'1' { b'2' } else { b'1' };
        edited.push(String::from_utf8(text).unwrap());
    }
    let key = good.find("\"registry\": \"").expect("the key") + "\"registry\": \"".len();
    let mut other = good.clone();
    other.replace_range(key..key + 8, "00000000");
    edited.push(other);
    let line = good.lines().find(|line| line.contains("\"registry\"")).unwrap();
    edited.push(good.replace(line, "\"written\": 1,"));
    for bad in edited {
        assert_ne!(bad, good);
        std::fs::write(&files.export, bad).unwrap();
        let refused = open_registry(&files, false).err().expect("it was taken");
        let malformed = matches!(refused, OpenError::Import(ExportError::Malformed { .. }));
        assert!(malformed, "{refused}");
    }
    std::fs::write(&files.export, good).unwrap();
    assert!(open_registry(&files, false).is_ok());
}

#[test]
fn keys_in_another_order_are_the_same_export() {
    let directory = tempfile::tempdir().unwrap();
    let files = exported(&directory);
    std::fs::remove_file(&files.store).unwrap();
    let text = std::fs::read_to_string(&files.export).unwrap();
    // Parsed and printed again, its keys are sorted.
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    std::fs::write(&files.export, serde_json::to_string_pretty(&json).unwrap()).unwrap();
    assert_eq!(stored(&open_registry(&files, false).unwrap()).len(), rows().len() + 1);
}

#[test]
fn a_registry_in_use_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let first = open_registry(&files, false).unwrap();
    let refused = open_registry(&files, false).err().unwrap();
    assert!(refused.is_in_use(), "{refused}");
    drop(first);
    assert!(stored(&open_registry(&files, false).unwrap()).is_empty());
}
