//! The packets that crossed the core, as a capture file for tshark and its kin: raw IP (link type
//! 101), nanosecond times from the epoch on.

use crate::trace::Trace;
use etherparse::PacketBuilder;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, TsResolution};
use std::io::{Error, Write};
use std::net::IpAddr;

impl Trace {
    /// Writes the packets that were kept ([`Trace::keep_packets`]).
    ///
    /// # Errors
    /// If writing fails.
    pub fn write_pcap(&self, out: impl Write) -> std::io::Result<()> {
        let header = PcapHeader {
            datalink: DataLink::RAW,
            ts_resolution: TsResolution::NanoSecond,
            ..PcapHeader::default()
        };
        let mut writer = PcapWriter::with_header(out, header).map_err(Error::other)?;
        for (at, packet, payload) in self.packets() {
            let (from, to) = (packet.source, packet.destination);
            let builder = match (from.ip(), to.ip()) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    PacketBuilder::ipv4(a.octets(), b.octets(), packet.ttl)
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    PacketBuilder::ipv6(a.octets(), b.octets(), packet.ttl)
                }
                // A packet has one family; a world does not make others.
                _ => continue,
            };
            let builder = builder.udp(from.port(), to.port());
            let mut bytes = Vec::with_capacity(builder.size(payload.len()));
            builder.write(&mut bytes, payload).map_err(Error::other)?;
            let time = at.since(self.start());
            let packet = PcapPacket::new(time, bytes.len() as u32, &bytes);
            writer.write_packet(&packet).map_err(Error::other)?;
        }
        writer.into_writer().flush()
    }
}
