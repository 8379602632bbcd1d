//! Application datagrams of a world: each is numbered, may be lost, and must not come twice, nor
//! from somebody whom the receiver's owner does not trust.

use crate::HostId;
use crate::app::MARK;
use crate::host::Arrived;
use crate::world::World;
use pilot_core::addr::{Port, SocketAddress};
use pilot_core::node::{Command, CommandError};

/// The port of all hosts that [`World::send_datagram`] sends to and from.
const PORT: Port = Port(9000);
/// Mark, sender, number.
const LEN: usize = 8 + 2 + 4;

impl World {
    /// Sends a numbered datagram to an application of another host, and opens the port there. It
    /// may be lost; the world fails if it arrives twice, or untrusted.
    ///
    /// # Errors
    /// As [`Command::SendDatagram`]; [`CommandError::NotRegistered`] if one of them does not run.
    pub fn send_datagram(&mut self, from: HostId, to: HostId) -> Result<(), CommandError> {
        let address = self.address(to).ok_or(CommandError::NotRegistered)?;
        match self.command(to, Command::BindDatagrams { port: PORT }) {
            Ok(_) | Err(CommandError::PortInUse) => {}
            Err(error) => return Err(error),
        }
        self.next_datagram += 1;
        let mut payload = [0; LEN];
        payload[..8].copy_from_slice(&MARK);
        payload[8..10].copy_from_slice(&(from.0 as u16).to_be_bytes());
        payload[10..].copy_from_slice(&self.next_datagram.to_be_bytes());
        let to = SocketAddress { address, port: PORT };
        self.command(from, Command::SendDatagram { to, from: PORT, payload: &payload })?;
        Ok(())
    }

    /// Looks at what has arrived at a host's applications since the last time.
    pub(crate) fn check_datagrams(&mut self, id: HostId) {
        let told = &mut self.hosts[id.0].told;
        let new = told.datagrams.len() - told.unseen.min(told.datagrams.len());
        told.unseen = 0;
        for n in new..self.hosts[id.0].told.datagrams.len() {
            let arrived = self.hosts[id.0].told.datagrams[n].clone();
            if let Err(what) = self.check_datagram(id, &arrived) {
                self.fail(format!("host {} took a datagram {what}", id.0));
            }
        }
    }

    fn check_datagram(&mut self, id: HostId, arrived: &Arrived) -> Result<(), String> {
        let address = arrived.from.address;
        if !self.checks.trusts(id, address) {
            return Err(format!("of {address}, which its owner does not trust"));
        }
        let ours = arrived.to == PORT && arrived.payload.len() == LEN;
        let Some(content) = arrived.payload.strip_prefix(&MARK).filter(|_| ours) else {
            return Ok(());
        };
        let (sender, number) = content.split_at(2);
        let sender = sender.iter().fold(0, |n, b| n << 8 | u16::from(*b));
        let number = number.iter().fold(0, |n, b| n << 8 | u32::from(*b));
        let host = self.hosts.get(usize::from(sender));
        if host.is_none_or(|host| host.lies) {
            return Ok(());
        }
        if self.address(HostId(sender.into())) != Some(address.on_backbone()) {
            return Err(format!("of host {sender} from {address}"));
        }
        if !self.checks.is_first(id, sender, number) {
            return Err(format!("twice: number {number} of host {sender}"));
        }
        Ok(())
    }
}
