//! Which path two agents can have: the goal table (`nat.md` 4) as a function of what stands
//! between them, for the checks of worlds at rest.
//!
//! | | open | endpoint-independent, filters addresses | endpoint-independent, filters ports | dependent |
//! |---|---|---|---|---|
//! | open | direct | direct | direct | direct |
//! | filters addresses | | punching | punching | punching |
//! | filters ports | | | punching | prediction or spraying |
//! | dependent | | | | prediction if both are sequential |
//!
//! What needs a technique that agents do not have ([`Techniques`]) may go either way, and so may
//! what depends on luck. Who is at the same place is reached there.

use crate::nat::{Allocation, BoxConfig, Filtering, Mapping, Middlebox, Udp, Unsolicited};
use crate::net::HostId;
use crate::world::World;
use pilot_core::node::PathPolicy;

/// What agents can do to get through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Techniques {
    /// Both send to the endpoints that the beacon has seen.
    pub punching: bool,
    /// First packets that die in the core, against NATs that track what nobody asked for.
    pub priming: bool,
    /// The next port of a sequential NAT is guessed.
    pub prediction: bool,
}

impl Techniques {
    /// What every pair is held to. Agents do prime, predict and spray; whether that succeeds
    /// after all that a random world has done to a NAT is not promised.
    pub const PRESENT: Techniques =
        Techniques { punching: true, priming: false, prediction: false };
}

/// What has to become of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Packets go directly, in both directions.
    Direct,
    /// Directly or over the relay.
    Either,
    /// Over the relay: a policy says so.
    Relayed,
    /// UDP does not pass, or policies contradict each other.
    Nothing,
}

/// A chain of boxes as a whole: of each property the least convenient.
#[derive(Clone, Copy, Debug)]
struct Side {
    mapping: Mapping,
    filtering: Filtering,
    is_leaky: bool,
    is_sequential: bool,
    is_blocked: bool,
}

impl Side {
    /// `port`: the agent's.
    fn of(boxes: &[BoxConfig], port: u16) -> Self {
        let mut side = Side {
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::EndpointIndependent,
            is_leaky: false,
            is_sequential: false,
            is_blocked: false,
        };
        for config in boxes {
            match config {
                BoxConfig::Nat(nat) => {
                    side.mapping = side.mapping.max(nat.mapping);
                    side.filtering = side.filtering.max(nat.filtering);
                    side.is_leaky |= nat.unsolicited == Unsolicited::Track;
                    side.is_blocked |= nat.udp == Udp::Block;
                    side.is_sequential = matches!(nat.allocation, Allocation::Sequential { .. });
                }
                BoxConfig::Firewall(wall) => {
                    if wall.stateful && !wall.open.contains(&port) {
                        side.filtering = Filtering::AddressAndPortDependent;
                    }
                    side.is_blocked |= wall.udp == Udp::Block;
                }
            }
        }
        side
    }

    fn is_open(&self) -> bool {
        self.has_one_endpoint() && self.filtering == Filtering::EndpointIndependent
    }

    fn has_one_endpoint(&self) -> bool {
        self.mapping == Mapping::EndpointIndependent
    }
}

/// What has to become of two agents behind these boxes, the one nearest to the agent first.
/// Boxes that both are behind are left out; none on either side: they are at the same place.
pub fn expected(
    boxes: [&[BoxConfig]; 2],
    ports: [u16; 2],
    policies: [PathPolicy; 2],
    shares_boxes: bool,
    techniques: Techniques,
) -> Expected {
    let [a, b] = [Side::of(boxes[0], ports[0]), Side::of(boxes[1], ports[1])];
    let direct = path(a, b, techniques);
    let relays = policies.contains(&PathPolicy::Relay);
    let never = policies.contains(&PathPolicy::Direct);
    if a.is_blocked || b.is_blocked || relays && never {
        Expected::Nothing
    } else if relays {
        Expected::Relayed
    } else if boxes[0].is_empty() && boxes[1].is_empty() {
        Expected::Direct
    } else if shares_boxes {
        // Needs addresses inside, or a hairpin.
        Expected::Either
    } else {
        direct
    }
}

fn path(a: Side, b: Side, techniques: Techniques) -> Expected {
    let reached = |yes: bool| if yes { Expected::Direct } else { Expected::Either };
    if a.is_open() || b.is_open() {
        return Expected::Direct;
    }
    if (a.is_leaky || b.is_leaky) && !techniques.priming {
        return Expected::Either;
    }
    match (a.has_one_endpoint(), b.has_one_endpoint()) {
        (true, true) => reached(techniques.punching),
        // The other end lets in every port of an address that it has sent to.
        (true, false) if a.filtering < Filtering::AddressAndPortDependent => {
            reached(techniques.punching)
        }
        (false, true) if b.filtering < Filtering::AddressAndPortDependent => {
            reached(techniques.punching)
        }
        (true, false) => reached(techniques.prediction && b.is_sequential),
        (false, true) => reached(techniques.prediction && a.is_sequential),
        (false, false) => reached(techniques.prediction && a.is_sequential && b.is_sequential),
    }
}

impl World {
    /// What has to become of two hosts at the places where they are.
    pub fn expected(&self, a: HostId, b: HostId) -> Expected {
        let [mut ours, mut theirs] = [self.boxes_of(a), self.boxes_of(b)];
        let mut shares_boxes = false;
        while let (Some(x), Some(y)) = (ours.last(), theirs.last())
            && x == y
        {
            shares_boxes = true;
            ours.pop();
            theirs.pop();
        }
        let configs = |boxes: Vec<crate::BoxId>| -> Vec<BoxConfig> {
            boxes.into_iter().map(|id| self.middlebox(id).to_config()).collect()
        };
        let (ours, theirs) = (configs(ours), configs(theirs));
        let policies = [a, b].map(|host| self.hosts[host.0].config.path_policy);
        let ports = [a, b].map(|host| self.socket(host).port());
        expected([&ours, &theirs], ports, policies, shares_boxes, Techniques::PRESENT)
    }
}

impl Middlebox {
    /// What describes it.
    pub fn to_config(&self) -> BoxConfig {
        match self {
            Middlebox::Nat(nat) => BoxConfig::Nat(nat.config().clone()),
            Middlebox::Firewall(wall) => BoxConfig::Firewall(wall.config().clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Preset;
    use Expected::{Direct, Either, Nothing, Relayed};

    const ALL: Techniques = Techniques { punching: true, priming: true, prediction: true };

    fn pair(a: Preset, b: Preset, techniques: Techniques) -> Expected {
        let boxes = [a, b].map(|preset| preset.boxes([198, 51, 100, 1].into()));
        let policies = [PathPolicy::Auto; 2];
        expected([&boxes[0], &boxes[1]], [4000; 2], policies, false, techniques)
    }

    /// The goal table's 28 pairs: D and P direct, Q and QQ with prediction, B and R either.
    #[test]
    fn the_goal_table() {
        let rows = ["DDDDDDD", ".PDPPQB", "..DDDDD", "...PPPP", "....PQB", ".....QR", "......R"];
        for (row, cells) in Preset::SEVEN.into_iter().zip(rows) {
            for (column, cell) in Preset::SEVEN.into_iter().zip(cells.chars()) {
                let [present, all] =
                    [Techniques::PRESENT, ALL].map(|techniques| pair(row, column, techniques));
                let wanted = match cell {
                    '.' => continue,
                    'D' | 'P' => (Direct, Direct),
                    'Q' => (Either, Direct),
                    _ => (Either, Either),
                };
                assert_eq!((present, all), wanted, "{row} and {column}");
                assert_eq!(pair(column, row, ALL), all, "{column} and {row}");
            }
        }
    }

    #[test]
    fn others() {
        let auto = [PathPolicy::Auto; 2];
        assert_eq!(expected([&[], &[]], [1; 2], auto, true, ALL), Direct, "the same place");
        let public: &[BoxConfig] = &[];
        let home = Preset::PortRestricted.boxes([198, 51, 100, 1].into());
        assert_eq!(expected([&home, &home], [1; 2], auto, true, ALL), Either, "one carrier");
        let relay = [PathPolicy::Auto, PathPolicy::Relay];
        assert_eq!(expected([public, &home], [1; 2], relay, false, ALL), Relayed);
        let both = [PathPolicy::Direct, PathPolicy::Relay];
        assert_eq!(expected([public, &home], [1; 2], both, false, ALL), Nothing);
        assert_eq!(pair(Preset::UdpBlocked, Preset::Public, ALL), Nothing);
        let leaky = |techniques| pair(Preset::Leaky, Preset::PortRestricted, techniques);
        assert_eq!([leaky(Techniques::PRESENT), leaky(ALL)], [Either, Direct]);
        assert_eq!(pair(Preset::Cgnat, Preset::PortRestricted, ALL), Direct);
        let mut wall = crate::nat::FirewallConfig { open: vec![4000], ..Default::default() };
        let open = |wall: &crate::nat::FirewallConfig| {
            let boxes = [BoxConfig::Firewall(wall.clone())];
            let other = Preset::SymRandom.boxes([198, 51, 100, 1].into());
            expected([&boxes, &other], [4000; 2], auto, false, ALL)
        };
        assert_eq!(open(&wall), Direct);
        wall.open = vec![4001];
        assert_eq!(open(&wall), Either);
    }
}
