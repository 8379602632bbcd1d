//! The table `[limits]` of `config.toml`: bounds that an operator may change. Absent ones have
//! the default that `core` gives them; what no line names is not a matter of taste.

use crate::services::inbox::InboxLimits;
use crate::services::outbox::OutboxLimits;
use crate::services::received::ReceivedLimits;
use pilot_core::limits::Limits;
use pilot_core::rendezvous::RendezvousLimits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The largest bound that can be set: more of anything does not fit one process.
const COUNT_MAX: u32 = 4 << 20;
/// Descriptors of a rendezvous server that are no registry connections: store, export, log,
/// sockets, local API.
const DESCRIPTORS_KEPT: u64 = 128;

/// A bound: at least one, at most [`COUNT_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "i64")]
pub(crate) struct Count(u32);

impl TryFrom<i64> for Count {
    type Error = String;

    fn try_from(n: i64) -> Result<Self, String> {
        u32::try_from(n)
            .ok()
            .filter(|n| (1..=COUNT_MAX).contains(n))
            .map(Count)
            .ok_or_else(|| format!("a limit lies between 1 and {COUNT_MAX}, not at {n}"))
    }
}

macro_rules! limits {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        pub(crate) struct $name {
            $($(#[$field_doc])* #[serde(skip_serializing_if = "Option::is_none")]
            pub(crate) $field: Option<Count>,)*
        }

        impl $name {
            /// Takes from `other` what is not set here.
            pub(crate) fn or(self, other: Self) -> Self {
                $name { $($field: self.$field.or(other.$field),)* }
            }

            /// Whether nothing is set, so that nothing needs saving.
            pub(crate) fn is_default(&self) -> bool {
                *self == Self::default()
            }
        }
    };
}

limits! {
    /// Of a daemon; see [`Limits`], [`InboxLimits`] and [`ReceivedLimits`]. Sizes are in MiB.
    DaemonLimits {
        peers,
        streams,
        handshakes_per_second,
        handshakes_per_source,
        inbox_messages,
        inbox_messages_per_sender,
        inbox_mib,
        inbox_mib_per_sender,
        received_files,
        received_files_per_sender,
        received_mib,
        received_mib_per_sender,
        outbox_files_mib,
    }
}

limits! {
    /// Of a rendezvous server; see [`RendezvousLimits`].
    ServerLimits {
        connections,
        connections_per_source,
        reserves_per_minute,
        stun_per_second,
        registry_handshakes_per_second,
        registry_handshakes_per_source,
        beacon_handshakes_per_second,
        beacon_handshakes_per_source,
    }
}

fn set(limit: &mut usize, count: Option<Count>) {
    *limit = count.map_or(*limit, |count| count.0 as usize);
}

fn set_mib(bytes: &mut u64, count: Option<Count>) {
    *bytes = count.map_or(*bytes, |count| u64::from(count.0) << 20);
}

fn set_rate(rate: &mut u32, count: Option<Count>) {
    *rate = count.map_or(*rate, |count| count.0);
}

impl DaemonLimits {
    pub(crate) fn apply(&self) -> Limits {
        let mut limits = Limits::desktop();
        set(&mut limits.peers, self.peers);
        limits.sessions = 2 * limits.peers + 64;
        set(&mut limits.streams, self.streams);
        set_rate(&mut limits.handshakes_per_second, self.handshakes_per_second);
        set_rate(&mut limits.handshakes_per_source, self.handshakes_per_source);
        limits
    }

    pub(crate) fn inbox(&self) -> InboxLimits {
        let mut limits = InboxLimits::default();
        set(&mut limits.messages, self.inbox_messages);
        set(&mut limits.sender_messages, self.inbox_messages_per_sender);
        set_mib(&mut limits.bytes, self.inbox_mib);
        set_mib(&mut limits.sender_bytes, self.inbox_mib_per_sender);
        limits
    }

    pub(crate) fn received(&self) -> ReceivedLimits {
        let mut limits = ReceivedLimits::default();
        set(&mut limits.files, self.received_files);
        set(&mut limits.sender_files, self.received_files_per_sender);
        set_mib(&mut limits.bytes, self.received_mib);
        set_mib(&mut limits.sender_bytes, self.received_mib_per_sender);
        limits
    }

    pub(crate) fn outbox(&self) -> OutboxLimits {
        let mut limits = OutboxLimits::default();
        set_mib(&mut limits.files.bytes, self.outbox_files_mib);
        limits.files.peer_bytes = limits.files.peer_bytes.min(limits.files.bytes);
        limits
    }
}

impl ServerLimits {
    /// With at most as many connections as there are descriptors for: who is one too many is
    /// refused by a rule, not by an error of the system.
    pub(crate) fn apply(&self) -> RendezvousLimits {
        let mut limits = RendezvousLimits::server();
        set(&mut limits.connections, self.connections);
        set(&mut limits.unauthenticated_per_source, self.connections_per_source);
        set_rate(&mut limits.reserves_per_minute, self.reserves_per_minute);
        set_rate(&mut limits.stun_per_second, self.stun_per_second);
        set_rate(&mut limits.channel_handshakes_per_second, self.registry_handshakes_per_second);
        set_rate(&mut limits.channel_handshakes_per_source, self.registry_handshakes_per_source);
        set_rate(&mut limits.beacon_handshakes_per_second, self.beacon_handshakes_per_second);
        set_rate(&mut limits.beacon_handshakes_per_source, self.beacon_handshakes_per_source);
        if let Some(descriptors) = descriptors() {
            let most = descriptors.saturating_sub(DESCRIPTORS_KEPT).max(1);
            limits.connections =
                limits.connections.min(usize::try_from(most).unwrap_or(usize::MAX));
        }
        limits
    }
}

/// Raises the soft limit of open files to the hard one, and gives it; `None` is no limit.
pub(crate) fn descriptors() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            current
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_counts_and_the_rest_stays() {
        let own: DaemonLimits =
            toml::from_str("peers = 5000\nhandshakes-per-source = 9000").unwrap();
        let limits = own.apply();
        let rest = Limits {
            peers: 5000,
            sessions: 10_064,
            handshakes_per_source: 9000,
            ..Limits::desktop()
        };
        assert_eq!(limits, rest);
        assert_eq!(DaemonLimits::default().apply(), Limits::desktop());

        let own: DaemonLimits = toml::from_str(
            "inbox-messages = 1\ninbox-messages-per-sender = 2\ninbox-mib = 3\n\
             inbox-mib-per-sender = 4\nreceived-files = 5\nreceived-files-per-sender = 6\n\
             received-mib = 7\nreceived-mib-per-sender = 8\noutbox-files-mib = 9",
        )
        .unwrap();
        let inbox = own.inbox();
        assert_eq!((inbox.messages, inbox.sender_messages), (1, 2));
        assert_eq!((inbox.bytes, inbox.sender_bytes), (3 << 20, 4 << 20));
        let received = own.received();
        assert_eq!((received.files, received.sender_files), (5, 6));
        assert_eq!((received.bytes, received.sender_bytes), (7 << 20, 8 << 20));
        let outbox = own.outbox().files;
        assert_eq!((outbox.bytes, outbox.peer_bytes), (9 << 20, 9 << 20));

        let own: ServerLimits = toml::from_str(
            "connections = 500\nconnections-per-source = 100\nreserves-per-minute = 1000\n\
             stun-per-second = 2000\nregistry-handshakes-per-second = 3000\n\
             registry-handshakes-per-source = 3001\n\
             beacon-handshakes-per-second = 4001\nbeacon-handshakes-per-source = 5000",
        )
        .unwrap();
        let mut rest = RendezvousLimits {
            unauthenticated_per_source: 100,
            reserves_per_minute: 1000,
            stun_per_second: 2000,
            channel_handshakes_per_second: 3000,
            channel_handshakes_per_source: 3001,
            beacon_handshakes_per_second: 4001,
            beacon_handshakes_per_source: 5000,
            ..RendezvousLimits::server()
        };
        let limits = own.apply();
        assert!(limits.connections <= 500);
        rest.connections = limits.connections;
        assert_eq!(limits, rest);
        // Fewer if there are not descriptors for so many.
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert!((ServerLimits::default().apply().connections as u64) < hard);
    }

    #[test]
    fn a_limit_is_a_sane_number() {
        for text in ["peers = 0", "peers = -1", "peers = 4194305", "peers = \"many\"", "peer = 1"] {
            assert!(toml::from_str::<DaemonLimits>(text).is_err(), "{text}");
        }
    }
}
