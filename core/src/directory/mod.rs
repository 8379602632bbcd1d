//! The client side of the rendezvous (`wire.md` 6, 7, 9, 10): [`Directory`] composes the
//! registry channel, the beacon session, the trust table and the durable facts of one agent.
//!
//! # API (being built on this branch; names and shapes are meant to stay)
//!
//! ```text
//! Directory<'s>
//!   new(config: Config, identity: Identity, rng: Rng, now, unix, storage: Storage<'s>)
//!   boxed(config, &Limits, identity, rng, now, unix) -> Directory<'static>        (alloc)
//!   load(key: [u8; 8], value: &[u8]) -> Result<(), LoadError>     before `start`
//!   start(now)                       draws boot id and, first time, the tunnel key; connects
//!   poll_store(out) -> Option<StoreChange>       handle_stored(now, sequence)
//!   set_clock(now, unix)                         after a clock step
//!
//!   handle_open(now)  handle_bytes(now, &[u8])  poll_bytes(now, out) -> usize  handle_close(now)
//!
//!   set_beacon(now, SocketAddr)      set_candidates(now, &[Endpoint], nat: u8)
//!   handle_datagram(now, Path, &mut [u8]) -> Inbound      everything but STUN from the beacon's
//!       Inbound::{Handled, Dropped(DropReason), Relayed { channel, peer, packet: &mut [u8] }}
//!   poll_transmit(now, out) -> Option<Transmit>  keepalive_now(now)
//!   is_beacon(SocketAddr) -> bool                beacon_address() -> Option<SocketAddr>
//!   wrap(channel, frame: &mut [u8]) -> bool      the packet lies behind the first 12 bytes
//!   bind(now, PeerIndex)  unbind(now, PeerIndex)  channel(PeerIndex) -> Option<&Channel>
//!
//!   poll_timeout() -> Option<Timeout>   handle_timeout(now)   poll_event() -> Option<DirectoryEvent>
//!
//!   join leave set_hostname clear_hostname set_visibility set_tags resolve discover
//!       -> Result<RequestId, DirectoryError>
//!   answer(RequestId) -> Option<Result<Answer<'_>, RequestError>>     forget(RequestId)
//!   resolve_peer(now, PeerIndex)         -> event PeerResolved; endpoints(PeerIndex) -> &[Endpoint]
//!
//!   request_trust(now, Address, Justification)  approve_trust(now, Address)
//!   refuse_trust(now, Address)  revoke_trust(now, Address)  -> Result<(), DirectoryError>
//!   handle_revoked(now, PeerIndex)               the peer sent F7 code 2
//!   handle_record(now, PeerIndex, &Record)       the peer sent a newer record (P1, P2 or F8)
//!   trust() -> &Trust: peer(PeerIndex), find(Address), permits(PeerIndex, Port), peers(),
//!       requests(), outgoing()
//!
//!   address() record() tunnel_secret() previous_tunnel_secret() boot_id() identity()
//!   networks() default_network() observed() link() is_fenced()
//! ```
