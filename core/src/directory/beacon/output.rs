//! What is sent to the beacon, and in which order: an INIT that is due, F7, replies, `Hello`,
//! then, once that is answered, channels and `Keepalive`.

use super::*;

impl Beacon<'_> {
    /// Writes the next datagram to the beacon; gives its length, and its path if that matters.
    pub(in crate::directory) fn poll_transmit(
        &mut self,
        ctx: &mut Context<'_>,
        grant: impl Fn(PeerIndex) -> Option<GrantBytes>,
        out: &mut [u8],
    ) -> Option<(usize, Option<Path>)> {
        if ctx.now < self.due {
            return None;
        }
        self.handle_timeout(ctx);
        if let Some(attempt) = &mut self.attempt
            && attempt.due
        {
            let out = out.get_mut(..attempt.len)?;
            out.copy_from_slice(&attempt.bytes[..attempt.len]);
            attempt.due = false;
            self.silence.ask(ctx.now);
            return Some((attempt.len, None));
        }
        if let Some(code) = self.goodbye.take() {
            let len = self.seal(ctx, &[control::CLOSE, code], out)?;
            self.stop();
            return Some((len, None));
        }
        if let Some((path, reply)) = self.replies.pop_front() {
            return Some((self.seal(ctx, &reply, out)?, Some(path)));
        }
        let message = self.next_message(ctx, grant);
        if message.is_some() {
            self.silence.ask(ctx.now);
        }
        self.due = self.next_due(ctx.quiet);
        let (id, message) = message?;
        let len = control::encode(id, &message, out.get_mut(FRAME_HEADER..)?).ok()?;
        let session = self.current.as_mut()?;
        Some((session.seal(ctx.now, ctx.aead, out, len)?.len, None))
    }

    fn seal(&mut self, ctx: &Context<'_>, content: &[u8], out: &mut [u8]) -> Option<usize> {
        let session = self.current.as_mut()?;
        out.get_mut(FRAME_HEADER..)?.get_mut(..content.len())?.copy_from_slice(content);
        Some(session.seal(ctx.now, ctx.aead, out, content.len())?.len)
    }

    fn fresh_id(&mut self) -> u16 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    /// The message that is due, marked as sent.
    fn next_message(
        &mut self,
        ctx: &mut Context<'_>,
        grant: impl Fn(PeerIndex) -> Option<GrantBytes>,
    ) -> Option<(u16, ToBeacon)> {
        self.current.as_ref()?;
        let fresh = self.fresh_id();
        if let Some(hello) = &mut self.hello {
            if hello.next > ctx.now {
                return None;
            }
            let id = if hello.sent == 0 { fresh } else { hello.id };
            let in_vain = hello.sent(ctx.now, id);
            let message = ToBeacon::Hello {
                address: ctx.own.keys.address?,
                boot_id: u64::from_be_bytes(ctx.own.boot_id),
                candidates: self.candidates.clone(),
                nat: self.nat,
            };
            return self.after_sending(ctx, in_vain, id, message);
        }
        if !self.up {
            return None;
        }
        for i in 0..self.channels.len() {
            if let Some((in_vain, id, message)) = self.channel_message(ctx, i, fresh, &grant) {
                return self.after_sending(ctx, in_vain, id, message);
            }
        }
        let keepalive = self.keepalive.as_mut().filter(|k| k.next <= ctx.now)?;
        let id = if keepalive.sent == 0 { fresh } else { keepalive.id };
        let in_vain = keepalive.sent(ctx.now, id);
        let candidates = self.report.then(|| self.candidates.clone());
        let message = ToBeacon::Keepalive { candidates, nat: self.report.then_some(self.nat) };
        self.after_sending(ctx, in_vain, id, message)
    }

    fn channel_message(
        &mut self,
        ctx: &Context<'_>,
        i: usize,
        fresh: u16,
        grant: impl Fn(PeerIndex) -> Option<GrantBytes>,
    ) -> Option<(bool, u16, ToBeacon)> {
        let entry = self.channels.entry(i)?;
        if let Some(id) = entry.ack {
            let channel = entry.up.as_ref().map(|up| up.id);
            self.channels.acknowledged(i);
            return channel.map(|channel| (false, id, ToBeacon::BoundAck { channel }));
        }
        let pending = entry.pending.as_mut()?;
        if pending.next.max(entry.hold) > ctx.now {
            return None;
        }
        let id = if pending.sent == 0 { fresh } else { pending.id };
        if let Some(channel) = entry.leaving {
            // Unacknowledged releases heal by the beacon's idle limit.
            if usize::from(pending.sent) > BEACON_REPEAT.len() {
                self.channels.released(i);
                return None;
            }
            let _ = pending.sent(ctx.now, id);
            return Some((false, id, ToBeacon::Release { channel }));
        }
        if !ctx.quiet {
            return None;
        }
        let Some(grant) = grant(entry.peer) else {
            self.channels.refused(i, ctx.now, BeaconError::NotPermitted);
            return None;
        };
        let in_vain = pending.sent(ctx.now, id);
        Some((in_vain, id, ToBeacon::Bind { grant }))
    }

    /// A request that is sent for the last time without an answer starts a new handshake.
    fn after_sending(
        &mut self,
        ctx: &Context<'_>,
        in_vain: bool,
        id: u16,
        message: ToBeacon,
    ) -> Option<(u16, ToBeacon)> {
        if in_vain && self.schedule.is_none() {
            self.go_down(ctx.now);
            self.try_again(ctx.now);
        }
        Some((id, message))
    }
}
