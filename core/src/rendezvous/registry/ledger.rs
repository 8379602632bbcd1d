//! Receipts of finished tasks, and what they are worth together (`wire.md` 10, 12.1).
//!
//! A reputation is the sum over the receipts that are held, and nothing else: nobody writes
//! one, and loading the rows of receipts in any order gives it again. A receipt carries both
//! identities and stands under them, so it says by itself whose it is.
//!
//! | Bound | At the bound |
//! |---|---|
//! | one receipt for each submitter and task id | the same again: done; another: Conflict |
//! | [`RECEIPTS_PER_PAIR`] and [`POINTS_PER_PAIR`] between two identities in a UTC day | RateLimited until the next day |
//! | [`RECEIPTS_PER_WORKER`] | the one of the oldest work goes, with its points; an older one answers Full |
//! | [`receipts`](crate::rendezvous::RendezvousLimits::receipts) in all | the worker with the most loses the one of its oldest work, so none loses below an equal share |
//! | [`RECEIPT_AGE`] | an older one is Malformed, as is one from the future |

use super::rows::{Row, RowKey};
use super::{Caller, Context, Directory, Node};
use crate::addr::Address;
use crate::crypto::IdentityKey;
use crate::crypto::task::{Outcome, Receipt, TaskId};
use crate::limits::{
    CLOCK_TOLERANCE, POINTS_PER_PAIR, RECEIPT_AGE, RECEIPTS_PER_PAIR, RECEIPTS_PER_WORKER,
};
use crate::time::{Duration, UnixTime};
use crate::wire::GrantBytes;
use crate::wire::registry::{ErrorCode, Refusal, Reputation};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Submitter and task.
pub(crate) type Key = (IdentityKey, TaskId);
/// Two identities, the smaller one first.
type Pair = (IdentityKey, IdentityKey);

struct Held {
    receipt: Box<Receipt>,
    /// When the registry took it, Unix seconds.
    received: u64,
}

/// What an identity's receipts add up to.
#[derive(Default)]
struct Account {
    /// Those of its own work, by the time it ended.
    work: BTreeSet<(UnixTime, Key)>,
    sum: Reputation,
}

/// What a pair has had counted on one day.
#[derive(Default)]
struct Dealt {
    day: u64,
    receipts: u32,
    points: u32,
}

#[derive(Default)]
pub(crate) struct Ledger {
    receipts: BTreeMap<Key, Held>,
    accounts: BTreeMap<IdentityKey, Account>,
    /// Workers by how many receipts they have.
    by_count: BTreeSet<(usize, IdentityKey)>,
    /// Of the latest day only.
    dealt: BTreeMap<Pair, Dealt>,
    /// Days up to this one have been forgotten in `dealt`.
    swept: u64,
}

pub(crate) fn key(receipt: &Receipt) -> Key {
    (receipt.claim.submitter, receipt.claim.task)
}

fn pair(receipt: &Receipt) -> Pair {
    let (a, b) = (receipt.claim.submitter, receipt.claim.worker);
    (a.min(b), a.max(b))
}

const fn day(unix_s: u64) -> u64 {
    unix_s / DAY.as_secs()
}

impl Ledger {
    pub(super) fn set(&mut self, receipt: Receipt, received: u64) {
        let key = key(&receipt);
        self.unset(&key);
        self.count(&receipt, |sum, worker, reward, cost| match (worker, receipt.claim.outcome) {
            (true, Outcome::Succeeded) => {
                sum.earned += reward;
                sum.completed += 1;
            }
            (true, Outcome::Failed) => sum.failed += 1,
            (false, _) => {
                sum.spent += cost;
                sum.submitted += 1;
            }
        });
        self.work(&receipt, |work, entry| work.insert(entry));
        let today = day(received);
        let dealt = self.dealt.entry(pair(&receipt)).or_default();
        if dealt.day < today {
            *dealt = Dealt { day: today, receipts: 0, points: 0 };
        }
        if dealt.day == today {
            dealt.receipts += 1;
            dealt.points += receipt.reward();
        }
        self.receipts.insert(key, Held { receipt: Box::new(receipt), received });
    }

    pub(super) fn unset(&mut self, key: &Key) {
        let Some(Held { receipt, received }) = self.receipts.remove(key) else { return };
        self.count(&receipt, |sum, worker, reward, cost| match (worker, receipt.claim.outcome) {
            (true, Outcome::Succeeded) => {
                sum.earned -= reward;
                sum.completed -= 1;
            }
            (true, Outcome::Failed) => sum.failed -= 1,
            (false, _) => {
                sum.spent -= cost;
                sum.submitted -= 1;
            }
        });
        self.work(&receipt, |work, entry| work.remove(&entry));
        if let Some(dealt) = self.dealt.get_mut(&pair(&receipt))
            && dealt.day == day(received)
        {
            // It may have been swept and begun anew, by a clock that was set back.
            dealt.receipts = dealt.receipts.saturating_sub(1);
            dealt.points = dealt.points.saturating_sub(receipt.reward());
        }
        for side in [receipt.claim.submitter, receipt.claim.worker] {
            // Who has no receipts has no account.
            if self.reputation(&side) == Reputation::default() {
                self.accounts.remove(&side);
            }
        }
    }

    /// Changes the sums of both sides; `true` says that it is the worker's.
    fn count(&mut self, receipt: &Receipt, add: impl Fn(&mut Reputation, bool, u32, u32)) {
        let (reward, cost) = (receipt.reward(), receipt.cost());
        for (side, worker) in [(receipt.claim.worker, true), (receipt.claim.submitter, false)] {
            add(&mut self.accounts.entry(side).or_default().sum, worker, reward, cost);
        }
    }

    /// Changes the worker's list.
    fn work(
        &mut self,
        receipt: &Receipt,
        change: impl FnOnce(&mut BTreeSet<(UnixTime, Key)>, (UnixTime, Key)) -> bool,
    ) {
        let worker = receipt.claim.worker;
        let work = &mut self.accounts.entry(worker).or_default().work;
        self.by_count.remove(&(work.len(), worker));
        change(work, (receipt.finished(), key(receipt)));
        if !work.is_empty() {
            self.by_count.insert((work.len(), worker));
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Receipt, u64)> {
        self.receipts.values().map(|held| (&*held.receipt, held.received))
    }

    pub(super) fn len(&self) -> usize {
        self.receipts.len()
    }

    fn reputation(&self, of: &IdentityKey) -> Reputation {
        self.accounts.get(of).map_or_else(Reputation::default, |account| account.sum)
    }

    /// The receipt that goes when this one comes, of `most` in all; Full if this one is of older
    /// work than the one of the same worker that would have to go for it.
    fn in_its_place(&self, receipt: &Receipt, most: usize) -> Result<Option<Key>, Refusal> {
        let worker = receipt.claim.worker;
        let own = self.accounts.get(&worker).map_or(0, |account| account.work.len());
        let loser = if own >= RECEIPTS_PER_WORKER {
            worker
        } else if self.receipts.len() >= most {
            self.by_count.last().map_or(worker, |(_, worker)| *worker)
        } else {
            return Ok(None);
        };
        let oldest = self.accounts.get(&loser).and_then(|account| account.work.first().copied());
        match oldest {
            Some(oldest) if loser == worker && (receipt.finished(), key(receipt)) < oldest => {
                Err(ErrorCode::Full.into())
            }
            other => Ok(other.map(|(_, key)| key)),
        }
    }

    /// Whether the pair of `receipt` may have it counted today.
    fn check_pair(&self, receipt: &Receipt, unix: UnixTime) -> Result<(), Refusal> {
        let Some(dealt) = self.dealt.get(&pair(receipt)) else { return Ok(()) };
        let enough = dealt.receipts >= RECEIPTS_PER_PAIR
            || dealt.points + receipt.reward() > POINTS_PER_PAIR;
        if dealt.day < day(unix.as_secs()) || !enough {
            return Ok(());
        }
        let day_ms = DAY.as_millis() as u64;
        let retry_ms = (day_ms - unix.as_millis() % day_ms) as u32;
        Err(Refusal { code: ErrorCode::RateLimited, retry_ms })
    }

    /// Forgets what pairs had counted on former days.
    pub(super) fn sweep(&mut self, unix: UnixTime) {
        let today = day(unix.as_secs());
        if self.swept < today {
            self.swept = today;
            self.dealt.retain(|_, dealt| dealt.day >= today);
        }
    }
}

impl Directory {
    /// `Receipt`: counts it once. The caller is one of its sides.
    pub(crate) fn receipt(
        &mut self,
        ctx: &Context<'_>,
        caller: Caller,
        bytes: &[u8],
    ) -> Result<(), Refusal> {
        let receipt = Receipt::decode(bytes).map_err(|_| ErrorCode::Malformed)?;
        let sides = [receipt.claim.submitter, receipt.claim.worker];
        if !sides.contains(&caller.identity) {
            return Err(ErrorCode::BadSignature.into());
        }
        if let Some(held) = self.ledger.receipts.get(&key(&receipt)) {
            return match *held.receipt == receipt {
                true => Ok(()), // The answer was lost, or the other side was first.
                false => Err(ErrorCode::Conflict.into()),
            };
        }
        receipt.verify(&ctx.registry.public()).map_err(|_| ErrorCode::BadSignature)?;
        let published = |identity| {
            let node = self.by_identity(identity).and_then(|node| self.node(node));
            node.and_then(Node::stored).is_some()
        };
        if !sides.iter().all(published) {
            return Err(ErrorCode::NotFound.into());
        }
        check_times(&receipt, ctx.unix)?;
        self.ledger.check_pair(&receipt, ctx.unix)?;
        if let Some(old) = self.ledger.in_its_place(&receipt, ctx.limits.receipts.max(1))? {
            self.remove(&RowKey::Receipt(old));
        }
        self.put(Row::Receipt { received: ctx.unix.as_secs(), receipt });
        Ok(())
    }

    /// `Reputation`: of the caller itself, of a public agent, or with a grant. Nobody, private
    /// and not permitted are one answer.
    pub(crate) fn reputation(
        &self,
        ctx: &Context<'_>,
        caller: Caller,
        of: Address,
        grant: Option<&GrantBytes>,
    ) -> Result<Reputation, Refusal> {
        let grantor = self.shown_grantor(ctx, caller, grant)?;
        if !self.is_member(of.node, of.network) {
            return Err(ErrorCode::NotFound.into());
        }
        let (node, ..) = self.visible(caller, of.node, grantor)?;
        Ok(self.ledger.reputation(&node.identity))
    }
}

/// The work ended within the last 30 days, as far as both sides say.
fn check_times(receipt: &Receipt, unix: UnixTime) -> Result<(), Refusal> {
    let latest = receipt.claim.times.finished.max(receipt.times.finished);
    if latest > unix + CLOCK_TOLERANCE || receipt.finished() + RECEIPT_AGE < unix {
        return Err(ErrorCode::Malformed.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
