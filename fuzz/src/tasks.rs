//! Statements, claims and receipts of tasks: as bytes, and as two sides sign them in any order,
//! honestly or not.
//!
//! Oracle: whatever decodes encodes to the very bytes it came from; a chain moves exactly as the
//! table of `wire.md` 12.1 says, by statements of the side whose step it is, for its own registry,
//! and never by one with a flipped bit, of another task, or that is not the next one; the one side
//! that follows the other has the same head; a receipt exists of finished work only, verifies,
//! and is worth 1 to 16, and no more than each side's own times say; a flipped bit breaks it.

use crate::tape::Tape;
use pilot_core::crypto::task::reward::Spans;
use pilot_core::crypto::task::statement::submission;
use pilot_core::crypto::task::{
    Claim, Head, Outcome, Receipt, Side, State, Statement, StatementFields, Step, TaskId, Times,
};
use pilot_core::crypto::{Identity, IdentityKey};
use pilot_core::time::UnixTime;
use std::sync::OnceLock;

const STEPS: usize = 24;

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    match tape.below(4) {
        0 => statement_bytes(tape.rest()),
        1 => receipt_bytes(tape.rest()),
        2 => rewards(&mut tape),
        _ => chain(&mut tape),
    }
}

/// Submitter, worker and a stranger.
struct Cast {
    sides: [Identity; 3],
    registry: IdentityKey,
}

impl Cast {
    fn get() -> &'static Cast {
        static CAST: OnceLock<Cast> = OnceLock::new();
        CAST.get_or_init(|| Cast {
            sides: [1, 2, 3].map(|n| Identity::from_secret([n; 32])),
            registry: Identity::from_secret([7; 32]).public(),
        })
    }

    fn of(&self, side: Side) -> &Identity {
        &self.sides[usize::from(side == Side::Worker)]
    }
}

fn statement_bytes(bytes: &[u8]) {
    let Ok(statement) = Statement::decode(bytes) else { return };
    assert_eq!(&statement.encode()[..], bytes, "one encoding");
    let f = &statement.fields;
    assert_ne!(f.submitter, f.worker);
    assert_eq!(f.seq == 0, f.step == Step::Submit);
    if let Ok(head) = Head::begin(&statement, &Cast::get().registry) {
        assert_eq!((head.state(), statement.verify(&Cast::get().registry)), (State::New, Ok(())));
    }
}

fn receipt_bytes(bytes: &[u8]) {
    if let Ok(claim) = Claim::decode(bytes) {
        assert_eq!(&claim.encode()[..], bytes, "one encoding");
    }
    let Ok(receipt) = Receipt::decode(bytes) else { return };
    assert_eq!(&receipt.encode()[..], bytes, "one encoding");
    worth(&receipt);
    let _ = receipt.verify(&Cast::get().registry);
}

/// A receipt is worth what both sides show, and no more.
fn worth(receipt: &Receipt) {
    match receipt.claim.outcome {
        Outcome::Failed => assert_eq!((receipt.reward(), receipt.cost()), (0, 0)),
        Outcome::Succeeded => {
            assert!((1..=16).contains(&receipt.reward()) && receipt.cost() == 1);
            for times in [&receipt.claim.times, &receipt.times] {
                assert!(receipt.reward() <= Spans::of(times).reward(), "one side pays itself");
            }
        }
    }
}

fn rewards(tape: &mut Tape<'_>) {
    let spans = Spans { cpu: tape.quad(), idle: tape.quad(), staged: tape.quad() };
    let reward = spans.reward();
    assert!((1..=16).contains(&reward));
    let more = Spans { cpu: spans.cpu.saturating_add(tape.long().into()), ..spans };
    assert!(more.reward() >= reward, "more work is worth less");
    let waited = Spans { idle: spans.idle.saturating_add(tape.long().into()), ..spans };
    assert!(waited.reward() <= reward, "waiting is worth something");
}

fn times(tape: &mut Tape<'_>) -> Times {
    Times::from_millis([tape.quad(), tape.quad(), tape.long().into(), tape.long().into()])
}

/// One of two sides moves a task; the other follows what it is shown.
fn chain(tape: &mut Tape<'_>) {
    let cast = Cast::get();
    let [s, w, _] = &cast.sides;
    let task = TaskId([tape.byte(); 16]);
    let body = tape.chunk();
    let first = submission(task, s.public(), w.public(), UnixTime::from_millis(tape.quad()), body);
    assert!(Statement::sign(w, &cast.registry, first).is_err());
    let first = Statement::sign(s, &cast.registry, first).expect("it is the submitter's");
    assert!(first.is_about(body));
    let mut head = Head::begin(&first, &cast.registry).expect("a submission begins a task");
    let mut mirror = head;
    for _ in 0..STEPS {
        if tape.is_empty() {
            break;
        }
        step(tape, &mut head, &mut mirror);
        assert_eq!(head, mirror, "two histories of one task");
    }
    finish(tape, &head);
}

fn step(tape: &mut Tape<'_>, head: &mut Head, mirror: &mut Head) {
    let cast = Cast::get();
    let Some(step) = Step::from_u8(tape.below(10) + 1) else { return };
    let from = head.state();
    let time = UnixTime::from_millis(tape.quad());
    let body = tape.chunk();
    let expected = step.take(Some(from), step.side());
    let fields = head.next(step, step.side(), time, body);
    assert_eq!(fields.map(|_| step.to()), expected);
    let other = if step.side() == Side::Worker { Side::Submitter } else { Side::Worker };
    assert!(head.next(step, other, time, body).is_err(), "the other side's step");
    let Ok(fields) = fields else { return };
    let lie = lie(tape, &fields);
    for signer in &cast.sides {
        let signed = Statement::sign(signer, &cast.registry, lie.unwrap_or(fields));
        assert_eq!(signed.is_ok(), signer.public() == lie.unwrap_or(fields).signer());
        let Ok(signed) = signed else { continue };
        let mut bytes = signed.encode();
        let flipped = tape.below(4) == 3;
        if flipped {
            let bit = usize::from(tape.word()) % (8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let Ok(sent) = Statement::decode(&bytes) else {
            assert!(flipped || lie.is_some());
            continue;
        };
        let (before, taken) = (*head, head.follow(&sent, &cast.registry));
        assert_eq!(taken.is_ok(), !flipped && lie.is_none(), "{sent:?}");
        assert_eq!(mirror.follow(&sent, &cast.registry), taken);
        match taken {
            Ok(state) => {
                assert_eq!(Ok(state), expected);
                // Again, it changes nothing.
                assert_eq!(head.follow(&sent, &cast.registry), Ok(state));
                assert!(head.last() == &sent && Head::restore(&sent) == *head);
            }
            Err(_) => assert_eq!(*head, before, "what is refused changes nothing"),
        }
    }
}

/// Fields that do not continue the chain, if the tape wants some.
fn lie(tape: &mut Tape<'_>, fields: &StatementFields) -> Option<StatementFields> {
    let stranger = Cast::get().sides[2].public();
    let mut lie = *fields;
    match tape.below(12) {
        0 => lie.seq = lie.seq.wrapping_add(tape.long() | 1),
        1 => lie.prev[usize::from(tape.below(32))] ^= 1 << tape.below(8),
        2 => lie.task.0[usize::from(tape.below(16))] ^= 1,
        3 => lie.submitter = stranger,
        4 => lie.worker = stranger,
        _ => return None,
    }
    Some(lie)
}

fn finish(tape: &mut Tape<'_>, head: &Head) {
    let cast = Cast::get();
    let (worked, seen) = (times(tape), times(tape));
    assert!(Claim::sign(cast.of(Side::Submitter), &cast.registry, head, worked).is_err());
    let claim = Claim::sign(cast.of(Side::Worker), &cast.registry, head, worked);
    let ended = matches!(head.state(), State::Succeeded | State::Failed);
    assert_eq!(claim.is_ok(), ended, "{:?}", head.state());
    let Ok(claim) = claim else { return };
    assert!(claim.is_of(head) && claim.verify(&cast.registry).is_ok());
    let sign = |by, claim: &Claim| Receipt::sign(cast.of(by), &cast.registry, head, claim, seen);
    assert!(sign(Side::Worker, &claim).is_err());
    let receipt = sign(Side::Submitter, &claim).expect("both have signed");
    assert_eq!(receipt.verify(&cast.registry), Ok(()));
    assert_eq!(Receipt::decode(&receipt.encode()), Ok(receipt));
    worth(&receipt);
    let mut bytes = receipt.encode();
    let bit = usize::from(tape.word()) % (8 * bytes.len());
    bytes[bit / 8] ^= 1 << (bit % 8);
    if let Ok(forged) = Receipt::decode(&bytes) {
        assert!(forged.verify(&cast.registry).is_err(), "a flipped bit verifies");
        assert!(forged.claim == claim || sign(Side::Submitter, &forged.claim).is_err());
    }
}
