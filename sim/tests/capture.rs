//! The capture file holds what crossed the core, as others read it.

use etherparse::{IpNumber, SlicedPacket, TransportSlice};
use pcap_file::pcap::PcapReader;
use pilot_sim::nat::Preset;
use pilot_sim::{Tape, World};

#[test]
fn a_capture_is_raw_ip_with_right_checksums_and_times_that_rise() {
    let mut world = World::new(Tape::from_seed(1));
    world.trace_mut().keep_packets();
    let (a, b) = (world.add_agent(Preset::PortRestricted), world.add_agent(Preset::SymSeq));
    world.register();
    world.trust(a, b);
    let mut file = Vec::new();
    world.trace().write_pcap(&mut file).expect("memory takes it");

    let mut reader = PcapReader::new(&file[..]).expect("a header");
    assert_eq!(reader.header().datalink, pcap_file::DataLink::RAW);
    let (mut packets, mut last, mut ports) = (0, None, std::collections::BTreeSet::new());
    while let Some(packet) = reader.next_packet() {
        let packet = packet.expect("a packet");
        assert!(last.is_none_or(|at| at <= packet.timestamp));
        last = Some(packet.timestamp);
        let sliced = SlicedPacket::from_ip(&packet.data).expect("IP and UDP");
        let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("IPv4") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        // Agents' packets have crossed their NAT.
        let ttl = if header.source == [192, 0, 2, 1] { 64 } else { 63 };
        assert_eq!((header.protocol, header.time_to_live), (IpNumber::UDP, ttl));
        let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("UDP") };
        let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).expect("short");
        assert_eq!(udp.checksum(), sum);
        if header.source == [198, 51, 100, 3] {
            ports.insert(udp.source_port());
        }
        packets += 1;
    }
    assert!(packets > 10, "{packets}");
    assert_eq!(ports.first(), Some(&40_000), "the symmetric NAT's own: {ports:?}");
}
