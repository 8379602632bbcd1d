//! A firewall that translates nothing: a public host behind a stateful filter or a security group.

use super::config::{Refresh, TcpPorts, Udp};
use super::{Blocked, Packet, Verdict};
use crate::span::Span;
use pilot_core::time::Instant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A firewall.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FirewallConfig {
    /// Lets in only what answers; otherwise everything that `udp` lets pass.
    pub stateful: bool,
    /// After the last packet of a flow that was answered.
    pub life: Span,
    /// After the last packet of one that was not.
    pub life_unreplied: Span,
    /// What keeps a flow alive.
    pub refresh: Refresh,
    /// Flows at once. Full: one that has ended gives way, else the packet that wants a new one is
    /// dropped.
    pub max_flows: u32,
    /// Inside ports that everybody may send to.
    pub open: Vec<u16>,
    /// Whether UDP passes.
    pub udp: Udp,
    /// Which TCP connections pass from inside.
    pub tcp_ports: TcpPorts,
}

impl Default for FirewallConfig {
    /// Stateful, with Linux's times.
    fn default() -> Self {
        FirewallConfig {
            stateful: true,
            life: Span::secs(120),
            life_unreplied: Span::secs(30),
            refresh: Refresh::Both,
            max_flows: 65_536,
            open: Vec::new(),
            udp: Udp::Pass,
            tcp_ports: TcpPorts::Any,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    used: Instant,
    replied: bool,
}

/// See [`FirewallConfig`].
#[derive(Clone, Debug)]
pub struct Firewall {
    config: FirewallConfig,
    /// By inside and remote endpoint.
    flows: BTreeMap<(SocketAddr, SocketAddr), Flow>,
}

impl Firewall {
    /// A firewall without flows.
    pub fn new(config: FirewallConfig) -> Self {
        Firewall { config, flows: BTreeMap::new() }
    }

    /// What it was made from.
    pub fn config(&self) -> &FirewallConfig {
        &self.config
    }

    /// Flows that are remembered, ended ones included.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Forgets all flows.
    pub fn handle_reboot(&mut self) {
        self.flows.clear();
    }

    fn is_alive(&self, flow: &Flow, now: Instant) -> bool {
        let life = if flow.replied { self.config.life } else { self.config.life_unreplied };
        now.since(flow.used) < life.0
    }

    /// A packet from inside: always passes, and makes or refreshes its flow.
    pub fn handle_outbound(&mut self, now: Instant, packet: Packet) -> Verdict {
        let forwarded = match self.admit(packet) {
            Ok(forwarded) => forwarded,
            Err(blocked) => return Verdict::Drop(blocked),
        };
        let key = (packet.source, packet.destination);
        let alive = self.flows.get(&key).is_some_and(|flow| self.is_alive(flow, now));
        if alive {
            self.flows.entry(key).and_modify(|flow| flow.used = now);
        } else if self.config.stateful {
            if self.flows.len() >= self.config.max_flows as usize {
                let (life, unreplied) = (self.config.life, self.config.life_unreplied);
                self.flows.retain(|_, flow| {
                    now.since(flow.used) < if flow.replied { life.0 } else { unreplied.0 }
                });
            }
            if self.flows.len() >= self.config.max_flows as usize {
                return Verdict::Drop(Blocked::Exhausted);
            }
            self.flows.insert(key, Flow { used: now, replied: false });
        }
        Verdict::Forward(forwarded)
    }

    /// A packet from outside: passes if it answers one from inside.
    pub fn handle_inbound(&mut self, now: Instant, packet: Packet) -> Verdict {
        let forwarded = match self.admit(packet) {
            Ok(forwarded) => forwarded,
            Err(blocked) => return Verdict::Drop(blocked),
        };
        let key = (packet.destination, packet.source);
        let Some(flow) = self.flows.get(&key).copied().filter(|f| self.is_alive(f, now)) else {
            let open =
                !self.config.stateful || self.config.open.contains(&packet.destination.port());
            return if open {
                Verdict::Forward(forwarded)
            } else {
                Verdict::Drop(Blocked::Filtered)
            };
        };
        let used = if self.config.refresh == Refresh::Both { now } else { flow.used };
        self.flows.insert(key, Flow { used, replied: true });
        Verdict::Forward(forwarded)
    }

    fn admit(&self, packet: Packet) -> Result<Packet, Blocked> {
        if self.config.udp == Udp::Block {
            return Err(Blocked::Udp);
        }
        packet.hop().ok_or(Blocked::Ttl)
    }
}
