//! Data frames at the beacon: control frames and the messages of `wire.md` 9.

use super::Beacon;
use super::agent::LinkKind;
use super::relay::Repeat;
use crate::crypto::Grant;
use crate::limits::{FRAME_HEADER, TAG};
use crate::machine::Path;
use crate::path::ChannelId;
use crate::rendezvous::registry::{Context, Directory};
use crate::session::keys::frame_index;
use crate::stats::DropReason;
use crate::time::Instant;
use crate::wire::GrantBytes;
use crate::wire::control::{self, BeaconError, Candidates, FromBeacon, ToBeacon};

/// When an agent may try again to reach one that is offline.
const OFFLINE_RETRY_MS: u32 = 1000;

impl Beacon {
    pub(super) fn handle_frame(
        &mut self,
        now: Instant,
        path: Path,
        datagram: &mut [u8],
        directory: &Directory,
        ctx: &Context<'_>,
    ) -> Result<(), DropReason> {
        let index = frame_index(datagram).ok_or(DropReason::Malformed)?;
        let slot = *self.by_index.get(&index).ok_or(DropReason::UnknownIndex)?;
        let agent = self.agents.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
        let current =
            agent.current.as_ref().is_some_and(|link| link.session().local_index() == index);
        let kind = if current { LinkKind::Current } else { LinkKind::Pending };
        let (proven, link) = agent.link(kind).ok_or(DropReason::UnknownIndex)?;
        let opened = link.open(now, self.aead, datagram)?;
        agent.heard = agent.heard.max(now);
        if kind == LinkKind::Pending
            && let Some(pending) = &agent.pending
        {
            agent.confirmed_seq = agent.confirmed_seq.max(pending.hs_seq);
        }
        // A pending session is bound to its INIT's path until it is current.
        if kind == LinkKind::Current && path != proven {
            if opened.is_newest {
                agent.challenge(now, path, self.rng.bytes());
            }
            agent.credit(path, datagram.len());
            self.repeat_challenge(now, slot);
            self.schedule(slot);
        }
        let content = &datagram[FRAME_HEADER..datagram.len() - TAG];
        self.handle_content(now, slot, kind, path, content, directory, ctx)
    }

    fn handle_content(
        &mut self,
        now: Instant,
        slot: u32,
        kind: LinkKind,
        path: Path,
        content: &[u8],
        directory: &Directory,
        ctx: &Context<'_>,
    ) -> Result<(), DropReason> {
        match *content {
            [] | [control::PONG | control::PADDING, ..] => Ok(()),
            [control::PING, ref echo @ ..] if echo.len() == 8 => {
                self.reply(now, slot, kind, None, control::PONG, echo)
            }
            // Its answer proves to the agent that this very path works.
            [control::PATH_CHALLENGE, ref echo @ ..] if echo.len() == 8 => {
                let agent = self.agents.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
                if !agent.may_answer(path) {
                    return Err(DropReason::RateLimited);
                }
                self.reply(now, slot, kind, Some(path), control::PATH_RESPONSE, echo)
            }
            [control::PATH_RESPONSE, ref echo @ ..] if echo.len() == 8 => {
                let agent = self.agents.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
                if !agent.answer(path, echo) {
                    return Err(DropReason::Unasked);
                }
                self.schedule(slot);
                Ok(())
            }
            [control::CLOSE, _] => {
                match kind {
                    LinkKind::Current => self.remove_agent(slot),
                    LinkKind::Pending => {
                        self.drop_pending(slot);
                        self.schedule(slot);
                    }
                }
                Ok(())
            }
            [control::BEACON, ..] => {
                let id = control::message_id(content).ok_or(DropReason::Malformed)?;
                let answer = match control::decode::<ToBeacon>(content) {
                    Ok((_, message)) => {
                        self.handle_message(now, slot, kind, message, directory, ctx)
                    }
                    Err(_) => Err((BeaconError::Malformed, 0)),
                };
                let answer = match answer {
                    Ok(answer) => answer,
                    Err((error, retry_ms)) => Some(FromBeacon::Error { error, retry_ms }),
                };
                if let Some(answer) = answer {
                    // `Hello` may just have made the pending session the current one.
                    let promoted = self.agents.get(slot).is_some_and(|a| a.pending.is_none());
                    let kind = if promoted { LinkKind::Current } else { kind };
                    self.send_message(now, slot, kind, id, &answer);
                }
                Ok(())
            }
            _ => Err(DropReason::UnknownControl),
        }
    }

    fn reply(
        &mut self,
        now: Instant,
        slot: u32,
        kind: LinkKind,
        to: Option<Path>,
        first: u8,
        echo: &[u8],
    ) -> Result<(), DropReason> {
        let mut frame = [first; 9];
        frame[1..].copy_from_slice(echo);
        self.send(now, slot, kind, to, &frame);
        Ok(())
    }

    fn handle_message(
        &mut self,
        now: Instant,
        slot: u32,
        kind: LinkKind,
        message: ToBeacon,
        directory: &Directory,
        ctx: &Context<'_>,
    ) -> Result<Option<FromBeacon>, (BeaconError, u32)> {
        let agent = self.agents.get_mut(slot).ok_or((BeaconError::NotRegistered, 0))?;
        if kind == LinkKind::Current && agent.fenced {
            return Ok(Some(FromBeacon::Fenced));
        }
        let waiting = directory.newest_mail(agent.node) > agent.fetched;
        match message {
            ToBeacon::Hello { address, boot_id, candidates, nat } => {
                let boot = directory.node(agent.node).and_then(|node| node.boot_id());
                if address.node != agent.node {
                    return Err((BeaconError::NotPermitted, 0));
                }
                if boot != Some(boot_id) {
                    return Err((BeaconError::NotRegistered, 0));
                }
                self.hello(now, slot, kind, boot_id, &candidates, nat, directory);
                let agent = self.agents.get(slot).ok_or((BeaconError::NotRegistered, 0))?;
                let waiting = directory.newest_mail(agent.node) > agent.fetched;
                let observed = agent.path.remote;
                let alternates = self.alternate.iter().flat_map(|a| a.corners());
                let alternates = alternates.skip(1).map(|(_, address)| address).collect();
                Ok(Some(FromBeacon::HelloAck { observed, alternates, waiting }))
            }
            _ if kind == LinkKind::Pending => Err((BeaconError::NotRegistered, 0)),
            ToBeacon::Keepalive { candidates, nat } => {
                if let Some(candidates) = candidates {
                    agent.candidates = candidates[..].into();
                }
                agent.nat = nat.unwrap_or(agent.nat);
                let (node, observed) = (agent.node, agent.path.remote);
                self.remind_of_bound(now, node, directory);
                Ok(Some(FromBeacon::KeepaliveAck { observed, waiting }))
            }
            ToBeacon::Bind { grant } => self.bind(now, slot, &grant, directory, ctx).map(Some),
            ToBeacon::BoundAck { channel } => {
                self.bound_ack(slot, channel);
                Ok(None)
            }
            ToBeacon::Release { channel } => {
                if let Some(end) = self.own_channel(slot, channel) {
                    self.release(now, end.slot, channel);
                }
                Ok(Some(FromBeacon::Unbound { channel }))
            }
        }
    }

    /// `Hello` with the current boot id: the session it came on is the agent's from here on.
    fn hello(
        &mut self,
        now: Instant,
        slot: u32,
        kind: LinkKind,
        boot_id: u64,
        candidates: &Candidates,
        nat: u8,
        directory: &Directory,
    ) {
        let Some(agent) = self.agents.get_mut(slot) else { return };
        if kind == LinkKind::Pending
            && let Some(pending) = agent.pending.take()
        {
            self.answered.remove(&pending.hash);
            agent.path = pending.path;
            agent.validation = None;
            agent.fenced = false;
            let old = agent.current.replace(alloc::boxed::Box::new(pending.link));
            if let Some(old) = old {
                self.by_index.remove(&old.session().local_index());
            }
            self.channels.set_agent(agent.node, Some(slot));
        }
        agent.candidates = candidates[..].into();
        agent.nat = nat;
        let restarted = agent.boot_id.replace(boot_id) != Some(boot_id);
        let node = agent.node;
        if restarted {
            agent.fetched = 0;
            agent.notice = None;
            let ends: alloc::vec::Vec<_> = self.channels.of(node).collect();
            for end in ends {
                // The other end, which may be asking for it in vain, learns where it is now.
                let other = super::EndRef { side: 1 - end.side, ..end };
                for end in [end, other] {
                    self.tell_bound(now, end, directory);
                }
            }
        } else {
            self.remind_of_bound(now, node, directory);
        }
        if directory.newest_mail(node) > self.agents.get(slot).map_or(u64::MAX, |a| a.fetched) {
            self.notify(now, node);
        }
        self.schedule(slot);
    }

    /// The agent is there, and may not have been when it was told: without this, all that comes
    /// on such a channel is lost for as long as the other end keeps trying.
    fn remind_of_bound(&mut self, now: Instant, node: crate::addr::NodeId, directory: &Directory) {
        let ends: alloc::vec::Vec<_> = self.channels.of(node).collect();
        for end in ends {
            let channel = self.channels.get(end.slot);
            let bound = channel.and_then(|channel| channel.ends[end.side].bound.as_ref());
            if bound.is_some_and(|repeat| repeat.due().is_none()) {
                self.tell_bound(now, end, directory);
            }
        }
    }

    /// Tells an agent of its end of a channel, until it acknowledges.
    fn tell_bound(&mut self, now: Instant, end: super::EndRef, directory: &Directory) {
        let info = self.info(end, directory);
        let Some(channel) = self.channels.get_mut(end.slot) else { return };
        let end = &mut channel.ends[end.side];
        let Some(slot) = end.agent else { return };
        end.bound = Some(Repeat { first: now, sent: 0 });
        if let Some(info) = info {
            self.tell(now, slot, &FromBeacon::Bound(info));
        }
        self.schedule(slot);
    }

    fn bind(
        &mut self,
        now: Instant,
        slot: u32,
        grant: &GrantBytes,
        directory: &Directory,
        ctx: &Context<'_>,
    ) -> Result<FromBeacon, (BeaconError, u32)> {
        let not_permitted = (BeaconError::NotPermitted, 0);
        let node = self.agents.get(slot).ok_or(not_permitted)?.node;
        let identity = directory.node(node).ok_or(not_permitted)?.identity;
        let grant = Grant::decode(&grant.0).map_err(|_| (BeaconError::Malformed, 0))?;
        let other = directory.grantor_of(ctx, &identity, &grant).ok_or(not_permitted)?;
        if other == node {
            return Err(not_permitted);
        }
        let offline = (BeaconError::Offline, OFFLINE_RETRY_MS);
        self.online(now, other).ok_or(offline)?;
        let other_slot = *self.by_node.get(&other).ok_or(offline)?;
        let channel = match self.channels.find(node, other) {
            Some(channel) => channel,
            None => {
                let full = |node| self.channels.of(node).count() >= self.channels_per_node;
                if full(node) || full(other) {
                    return Err((BeaconError::Quota, 0));
                }
                let (binder, bound) = ((node, slot), (other, other_slot));
                let channel = self.channels.bind(now, &mut self.rng, binder, bound);
                let channel = channel.ok_or((BeaconError::Quota, 0))?;
                let end = super::EndRef { slot: channel, side: 1 };
                if let Some(info) = self.info(end, directory) {
                    self.tell(now, other_slot, &FromBeacon::Bound(info));
                }
                self.schedule(other_slot);
                channel
            }
        };
        let side =
            self.channels.get(channel).and_then(|c| c.ends.iter().position(|e| e.node == node));
        let end = super::EndRef { slot: channel, side: side.ok_or(not_permitted)? };
        self.info(end, directory).map(FromBeacon::Channel).ok_or(offline)
    }

    fn bound_ack(&mut self, slot: u32, channel: ChannelId) {
        if let Some(end) = self.own_channel(slot, channel)
            && let Some(channel) = self.channels.get_mut(end.slot)
        {
            channel.ends[end.side].bound = None;
            self.schedule(slot);
        }
    }

    /// The other end is told by itself; the one that released gets its answer.
    fn release(&mut self, now: Instant, channel: u32, released: ChannelId) {
        let Some(channel) = self.channels.unbind(channel) else { return };
        for end in channel.ends.iter().filter(|end| end.id != released) {
            if let Some(agent) = end.agent {
                self.tell(now, agent, &FromBeacon::Unbound { channel: end.id });
            }
        }
    }
}
