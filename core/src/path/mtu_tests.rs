//! The search against paths that are a number: what is longer is lost.

use super::*;
use crate::limits::DATAGRAM_MAX;
use proptest::prelude::*;
use std::vec::Vec;

const RTT: Duration = Duration::from_millis(40);

fn ms(n: u64) -> Instant {
    Instant::START + Duration::from_millis(1000 + n)
}

/// Probes until the search rests, and gives the sizes in order.
fn run(search: &mut Search, now: &mut Instant, carries: u16) -> Vec<u16> {
    let mut probes = Vec::new();
    while let Some(size) = search.probe(*now, Need::Data) {
        search.on_probe_sent(size);
        assert_eq!(search.probe(*now, Need::Data), None, "one at a time");
        assert_eq!(search.probe_at(Need::Data), None);
        probes.push(size);
        *now += RTT;
        if size <= carries {
            search.on_probe_acknowledged(*now, size);
        } else {
            search.on_probe_lost(*now, size);
        }
        assert!(probes.len() < 200, "{carries}: {probes:?}");
    }
    probes
}

#[test]
fn a_path_that_carries_everything_is_known_after_two_probes() {
    for most in [1452, 8952, 16_384, DATAGRAM_MAX] {
        let (mut search, mut now) = (Search::new(SizeRange::direct(most)), ms(0));
        assert_eq!((search.size(), search.is_wide()), (1232, false));
        assert_eq!(run(&mut search, &mut now, DATAGRAM_MAX), [1232, most]);
        assert_eq!((search.size(), search.is_wide()), (most, true));
        assert_eq!(search.probe_at(Need::Data), None, "there is nothing to raise it to");
    }
}

#[test]
fn a_path_no_wider_than_the_base_needs_one_probe() {
    for most in [0, 300, 1232] {
        let (mut search, mut now) = (Search::new(SizeRange::direct(most)), ms(0));
        let size = most.max(256);
        assert_eq!(run(&mut search, &mut now, DATAGRAM_MAX), [size]);
        assert_eq!(
            (search.datagram(), search.is_wide(), search.probe_at(Need::Data)),
            (size, true, None)
        );
    }
}

/// IPv4 payloads of 1,280, 1,400, 1,420, 1,500 and 9,000 are found exactly.
#[test]
fn sizes_of_common_links_are_found_exactly_and_soon() {
    for (carries, most) in [(1252, 10), (1372, 9), (1392, 10), (1472, 9), (8972, 12)] {
        let (mut search, mut now) = (Search::new(SizeRange::direct(DATAGRAM_MAX)), ms(0));
        let probes = run(&mut search, &mut now, carries);
        assert_eq!(search.size(), carries, "{probes:?}");
        assert!(probes.len() <= most, "{carries}: {} probes: {probes:?}", probes.len());
        for size in &probes {
            let once = *size <= carries || [1472, DATAGRAM_MAX].contains(size);
            let times = probes.iter().filter(|other| *other == size).count();
            assert_eq!(times, if once { 1 } else { usize::from(MTU_PROBES) }, "{size}: {probes:?}");
        }
    }
}

#[test]
fn a_relays_header_is_counted_and_not_ours() {
    let (mut search, mut now) = (Search::new(SizeRange::new(DATAGRAM_MAX, 12)), ms(0));
    assert_eq!((search.datagram(), search.base_datagram()), (1220, 1220));
    let probes = run(&mut search, &mut now, 1472);
    assert_eq!((probes[0], search.size(), search.datagram()), (1232, 1472, 1460));
}

#[test]
fn a_narrow_path_is_tried_three_times_and_then_ever_more_seldom() {
    let (mut search, mut now) = (Search::new(SizeRange::direct(DATAGRAM_MAX)), ms(0));
    assert_eq!(run(&mut search, &mut now, 1200), [1232; 3]);
    assert!(!search.is_wide() && !search.take_news());
    let mut waits = Vec::new();
    for _ in 0..9 {
        let at = search.probe_at(Need::Standby).unwrap();
        assert_eq!(search.probe_at(Need::None), None, "an idle path stays silent");
        waits.push(at.since(now));
        now = at;
        assert_eq!(run(&mut search, &mut now, 1200).len(), 3);
    }
    assert_eq!((waits[0], waits[1]), (MTU_BASE_RETRY, MTU_BASE_RETRY * 2));
    assert_eq!(waits[8], MTU_RAISE);
    now = search.probe_at(Need::Data).unwrap();
    run(&mut search, &mut now, 1472);
    assert!(search.is_wide() && search.take_news() && !search.take_news());
    assert_eq!(search.size(), 1472);
}

#[test]
fn a_path_is_searched_as_far_as_it_is_needed() {
    let mut search = Search::new(SizeRange::direct(DATAGRAM_MAX));
    assert_eq!(search.probe(ms(0), Need::None), Some(1232));
    search.on_probe_sent(1232);
    search.on_probe_acknowledged(ms(1), 1232);
    for need in [Need::None, Need::Standby] {
        assert_eq!((search.probe(ms(9), need), search.probe_at(need)), (None, None));
    }
    assert_eq!(search.probe(ms(9), Need::Data), Some(DATAGRAM_MAX));
}

#[test]
fn a_search_is_made_anew_after_ten_minutes() {
    let (mut search, mut now) = (Search::new(SizeRange::direct(9000)), ms(0));
    run(&mut search, &mut now, 1472);
    assert_eq!(search.probe_at(Need::Data), Some(now + MTU_RAISE));
    now += MTU_RAISE;
    assert_eq!(run(&mut search, &mut now, 9000), [9000]);
    assert_eq!(search.size(), 9000);
}

#[test]
fn what_the_host_refuses_is_not_tried_again() {
    let (mut search, now) = (Search::new(SizeRange::direct(DATAGRAM_MAX)), ms(0));
    let mut probes = Vec::new();
    while let Some(size) = search.probe(now, Need::Data) {
        probes.push(size);
        search.on_probe_sent(size);
        if size <= 1472 {
            search.on_probe_acknowledged(now, size);
        } else {
            assert!(search.on_refused(now, size));
            assert!(!search.on_refused(now, size), "once");
        }
    }
    let unique: std::collections::BTreeSet<_> = probes.iter().collect();
    assert_eq!((unique.len(), search.size()), (probes.len(), 1472), "{probes:?}");
    // The interface has changed: data of a size that passed before is refused.
    assert!(search.on_refused(now, 1472));
    assert_eq!((search.size(), search.probe(now, Need::Data)), (1232, Some(1252)), "below 1,472");
    assert!(!search.on_refused(now, 1232), "there is nothing smaller");
}

#[test]
fn a_short_buffer_is_the_limit() {
    let mut search = Search::new(SizeRange::direct(DATAGRAM_MAX));
    for (asked, sent) in [(1232, 1232), (DATAGRAM_MAX, 2000)] {
        assert_eq!(search.probe(ms(0), Need::Data), Some(asked));
        search.on_probe_sent(sent);
        search.on_probe_acknowledged(ms(0), sent);
    }
    assert_eq!((search.size(), search.probe_at(Need::Data)), (2000, None));
}

/// A search that has found `size`.
fn found(size: u16, now: &mut Instant) -> Search {
    let mut search = Search::new(SizeRange::direct(DATAGRAM_MAX));
    run(&mut search, now, size);
    assert_eq!(search.size(), size);
    search
}

#[test]
fn three_rounds_of_losses_mean_a_black_hole() {
    let mut now = ms(0);
    let mut search = found(8972, &mut now);
    for round in 0..MTU_BLACK_HOLE {
        assert_eq!(search.size(), 8972, "round {round}");
        // All that was sent before the loss was noticed is one round.
        let sent = now;
        now += RTT;
        search.on_frame_lost(now, sent);
        search.on_frame_lost(now, sent);
    }
    assert_eq!((search.size(), search.is_wide()), (1232, true));
    let probes = run(&mut search, &mut now, 1372);
    assert_eq!(search.size(), 1372);
    assert!(probes.iter().all(|size| *size < 8972), "{probes:?}");
}

#[test]
fn congestion_is_no_black_hole() {
    let mut now = ms(0);
    let mut search = found(1472, &mut now);
    for _ in 0..100 {
        let sent = now;
        now += RTT;
        // The tail of a burst is lost, but some of the next one arrives.
        search.on_frame_lost(now, sent);
        search.on_frame_lost(now + RTT / 2, now);
        now += RTT;
        search.on_carried(now);
        // What was sent earlier than that is lost: overtaken, or congestion.
        search.on_frame_lost(now + RTT, now);
        now += RTT;
    }
    assert_eq!(search.size(), 1472);
}

#[test]
fn what_nothing_is_known_of_is_tried_again() {
    let mut search = Search::new(SizeRange::direct(2000));
    for _ in 0..20 {
        assert_eq!(search.probe(ms(0), Need::Data), Some(1232));
        search.on_probe_sent(1232);
        search.on_probe_void();
    }
    search.on_probe_acknowledged(ms(0), 1232);
    assert!(!search.is_wide(), "it was not in flight");
}

/// What can happen to a search.
#[derive(Clone, Copy, Debug)]
enum Step {
    Probe { lost: bool },
    Void,
    Refused(u16),
    Carried,
    FrameLost,
    Carries(u16),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any::<bool>().prop_map(|lost| Step::Probe { lost }),
        1 => Just(Step::Void),
        1 => any::<u16>().prop_map(Step::Refused),
        1 => Just(Step::Carried),
        2 => Just(Step::FrameLost),
        1 => (1232..=DATAGRAM_MAX).prop_map(Step::Carries),
        1 => (0..700_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever a path carries is found, from below, to within the grain.
    #[test]
    fn the_found_size_passes_and_is_near(
        carries in 1232..=DATAGRAM_MAX,
        most in 1232..=DATAGRAM_MAX,
        header in 0..=12u16,
    ) {
        let (mut search, mut now) = (Search::new(SizeRange::new(most, header)), ms(0));
        let probes = run(&mut search, &mut now, carries);
        let (size, best) = (search.size(), carries.min(most));
        prop_assert!(search.is_wide() && size <= best, "{} of {}", size, best);
        prop_assert!(best - size < (size / 64).max(MTU_GRAIN), "{} of {}: {:?}", size, best, probes);
        prop_assert!(probes.len() <= 60, "{} probes: {:?}", probes.len(), probes);
    }

    /// Whatever happens, sizes stay in their range, and only an acknowledged one is used.
    #[test]
    fn only_acknowledged_sizes_are_used(
        most in any::<u16>().prop_map(|most| most.min(DATAGRAM_MAX)),
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let (mut search, mut now) = (Search::new(SizeRange::direct(most)), ms(0));
        let (mut carries, mut passed) = (DATAGRAM_MAX, search.base());
        for step in steps {
            now += Duration::from_millis(1);
            match step {
                Step::Probe { lost } => {
                    let Some(size) = search.probe(now, Need::Data) else { continue };
                    prop_assert!(size >= search.base() && size <= most.max(256));
                    prop_assert!(size > search.size() || !search.is_wide());
                    search.on_probe_sent(size);
                    if lost || size > carries {
                        search.on_probe_lost(now, size);
                    } else {
                        search.on_probe_acknowledged(now, size);
                        passed = passed.max(size);
                    }
                }
                Step::Void => search.on_probe_void(),
                Step::Refused(size) => {
                    search.on_refused(now, size);
                }
                Step::Carried => search.on_carried(now),
                Step::FrameLost => search.on_frame_lost(now, now),
                Step::Carries(size) => carries = size,
                Step::Wait(millis) => now += Duration::from_millis(millis),
            }
            prop_assert!(search.size() >= search.base() && search.size() <= passed);
            prop_assert!(search.is_wide() || search.size() == search.base());
        }
    }
}
