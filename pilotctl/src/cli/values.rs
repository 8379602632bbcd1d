//! What stands behind a flag: parsed once, printed back the same way.

use pilot_core::addr::Address;
use pilot_core::drive::REGISTRY_PORT;
use pilot_core::name::{Hostname, Tag};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// `192.0.2.1:9000`, `[::1]:9000` or `host.example:9000`. A name is looked up each time it is
/// needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HostPort {
    /// An IP address without brackets, or a DNS name.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl HostPort {
    /// The same host at another port.
    pub(crate) fn with_port(&self, port: u16) -> Self {
        HostPort { host: self.host.clone(), port }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            // Keeps a scope id (`fe80::1%2`), which an IpAddr alone would lose.
            let host = match address {
                SocketAddr::V6(v6) if v6.scope_id() != 0 => {
                    format!("{}%{}", v6.ip(), v6.scope_id())
                }
                _ => address.ip().to_string(),
            };
            return Ok(HostPort { host, port: address.port() });
        }
        let form = "must be HOST:PORT, as 192.0.2.1:9000, [::1]:9000 or host.example:9000";
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(format!("an IPv6 address with a port needs brackets; it {form}"));
        }
        let (host, port) = text.rsplit_once(':').ok_or(form)?;
        let port = port.parse().map_err(|_| format!("{port:?} is not a port; it {form}"))?;
        let is_name = |host: &str| {
            let label = |l: &str| {
                let ok = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
                (1..=63).contains(&l.len()) && l.bytes().all(ok)
            };
            host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
        };
        let number = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if !is_name(host) || number && host.parse::<IpAddr>().is_err() {
            return Err(format!("{host:?} is not a host; it {form}"));
        }
        Ok(HostPort { host: host.to_owned(), port })
    }
}

/// The registry's Ed25519 key, in base32 without padding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RegistryKey(pub(crate) [u8; 32]);

impl fmt::Display for RegistryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = data_encoding::BASE32_NOPAD.encode(&self.0);
        f.write_str(&text.to_ascii_lowercase())
    }
}

impl fmt::Debug for RegistryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RegistryKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.trim_end_matches('=').to_ascii_uppercase();
        let bytes = data_encoding::BASE32_NOPAD
            .decode(upper.as_bytes())
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.map(RegistryKey).ok_or_else(|| {
            "a registry key is 52 characters of base32; `pilotctl rendezvous status` shows it"
                .to_owned()
        })
    }
}

/// `HOST:PORT` or `HOST:PORT#KEY`; port 9000 if none is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Registry {
    pub(crate) at: HostPort,
    pub(crate) key: Option<RegistryKey>,
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            Some(key) => write!(f, "{}#{key}", self.at),
            None => write!(f, "{}", self.at),
        }
    }
}

impl FromStr for Registry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (at, key) = match text.split_once('#') {
            Some((at, key)) => (at, Some(key.parse()?)),
            None => (text, None),
        };
        let at = match at.parse::<Ipv6Addr>() {
            Ok(v6) => HostPort { host: v6.to_string(), port: REGISTRY_PORT },
            Err(_) if at.contains(':') => at.parse()?,
            Err(_) => format!("{at}:{REGISTRY_PORT}").parse()?,
        };
        Ok(Registry { at, key })
    }
}

/// A length of time: `500ms`, `10s`, `2m`, `1h`; a bare number counts seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let seconds = match unit {
            "ms" => 1e-3,
            "" | "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(format!("{unit:?} is not a unit: use ms, s, m, h or d")),
        };
        let value: f64 = number
            .parse()
            .map_err(|_| "must be a number and a unit, as 10s or 500ms".to_owned())?;
        // A year is longer than anybody waits, and far from any overflow.
        let bounded = (value * seconds).min(365.0 * 86_400.0);
        Ok(Span(Duration::from_secs_f64(bounded)))
    }
}

/// Which paths to peers may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum PathChoice {
    /// Direct where possible, else the relay.
    #[default]
    Auto,
    /// Never the relay.
    Direct,
    /// Nothing but the relay.
    Relay,
}

impl fmt::Display for PathChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathChoice::Auto => "auto",
            PathChoice::Direct => "direct",
            PathChoice::Relay => "relay",
        })
    }
}

impl FromStr for PathChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        clap::ValueEnum::from_str(text, false)
    }
}

/// Whether strangers may find an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Visibility {
    /// Anybody may resolve and discover this agent.
    Public,
    /// Only trusted agents may.
    Private,
}

/// An agent, as people name it: an address, or a hostname.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Agent {
    Address(Address),
    Hostname(Hostname),
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Agent::Address(address) => address.fmt(f),
            Agent::Hostname(name) => name.fmt(f),
        }
    }
}

impl FromStr for Agent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // No hostname has a colon, and every address has one.
        if text.contains(':') {
            return agent_address(text).map(Agent::Address);
        }
        text.parse().map(Agent::Hostname).map_err(|e| format!("as a hostname: {e}"))
    }
}

/// An address where a decision is made about who has it: a hostname may be another's tomorrow.
pub(crate) fn agent_address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|e| {
        let hint = match text.parse::<Hostname>() {
            Ok(name) => format!("; `pilotctl resolve {name}` prints the address of a hostname"),
            Err(_) => String::new(),
        };
        format!("{e}{hint}")
    })
}

/// A port of an agent, as `1:0001.0000.0042:8080` or `analysis-gcp:8080`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AgentPort {
    pub(crate) agent: Agent,
    /// 1 to 65535.
    pub(crate) port: u16,
}

impl fmt::Display for AgentPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.agent, self.port)
    }
}

impl FromStr for AgentPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "must be ADDR:PORT or HOSTNAME:PORT, as 1:0001.0000.0042:8080";
        let (agent, port) = text.rsplit_once(':').ok_or(form)?;
        let port = port.parse().ok().filter(|&port| port != 0);
        let port = port.ok_or_else(|| format!("it has no port from 1 to 65535; it {form}"))?;
        Ok(AgentPort { agent: agent.parse()?, port })
    }
}

/// Where the daemon listens on TCP for programs of this host: `8080` is `127.0.0.1:8080`, and
/// other hosts reach it only where an address is written that they reach.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LocalAddr(pub(crate) SocketAddr);

impl LocalAddr {
    /// Where the SOCKS5 proxy listens unless told otherwise: the port that IANA has for it.
    pub(crate) const PROXY: LocalAddr =
        LocalAddr(SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1080));
}

impl fmt::Display for LocalAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LocalAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = text.strip_prefix("localhost:").unwrap_or(text);
        if let Ok(port) = port.parse::<u16>() {
            return Ok(LocalAddr((std::net::Ipv4Addr::LOCALHOST, port).into()));
        }
        text.parse().map(LocalAddr).map_err(|_| {
            "must be PORT or IP:PORT, as 8080 or [::1]:8080; no other host names".to_owned()
        })
    }
}

/// Tags as `set` and `--tag` take them: `a=b,c`. An empty text is no tags.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct TagList(pub(crate) Vec<Tag>);

impl FromStr for TagList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(TagList::default());
        }
        let tags = pilot_core::name::parse_tags(text).map_err(|e| e.to_string())?;
        Ok(TagList(tags.into_iter().collect()))
    }
}

macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(HostPort, RegistryKey, Registry, PathChoice, Agent, AgentPort, LocalAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_flags_take_ipv4_ipv6_and_names() {
        for text in ["192.0.2.1:9000", "[::1]:9000", "host.example:9000", "localhost:0"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        assert_eq!("[::1]:9000".parse::<HostPort>().unwrap().host, "::1");
        for text in ["", "host", "host:", ":1", "::1:x", "a b:1", "1.2.3:1", "h:70000", "::1"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
        assert!("fe80::1".parse::<HostPort>().unwrap_err().contains("brackets"));
    }

    #[test]
    fn a_registry_may_name_its_key() {
        let key = RegistryKey([7; 32]);
        let text = format!("[2001:db8::1]:9000#{key}");
        let registry: Registry = text.parse().unwrap();
        assert_eq!(registry.key, Some(key));
        assert_eq!(registry.to_string(), text);
        assert_eq!(text.to_uppercase().replace("2001:DB8", "2001:db8").parse(), Ok(registry));
        assert!("h:1#short".parse::<Registry>().unwrap_err().contains("base32"));
        let bare: Registry = "registry.example".parse().unwrap();
        assert_eq!((bare.key, bare.at.port), (None, 9000));
        assert_eq!("::1".parse::<Registry>().unwrap().to_string(), "[::1]:9000");
        assert!("::1:9000x".parse::<Registry>().is_err());
    }

    #[test]
    fn spans_have_units() {
        let ms = |text: &str| text.parse::<Span>().map(|s| s.0.as_millis());
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("1.5s"), Ok(1500));
        assert_eq!(ms("10"), Ok(10_000));
        assert_eq!(ms("2m"), Ok(120_000));
        assert!(
            ms("").is_err() && ms("s").is_err() && ms("3 weeks").is_err() && ms("-1s").is_err()
        );
    }

    #[test]
    fn agents_are_addresses_or_hostnames() {
        assert!(matches!("1:0001.0000.0042".parse(), Ok(Agent::Address(_))));
        assert!(matches!("analysis-gcp".parse(), Ok(Agent::Hostname(_))));
        assert!("1:00A3.F291.0004".parse::<Agent>().is_err());
        assert!("under_score".parse::<Agent>().is_err());
    }

    #[test]
    fn ports_of_agents_and_of_this_host() {
        for text in ["1:0001.0000.0042:8080", "analysis-gcp:80"] {
            assert_eq!(text.parse::<AgentPort>().unwrap().to_string(), text);
        }
        for text in ["", "analysis-gcp", "1:0001.0000.0042", "a:0", "a:x", "a:70000", ":80"] {
            assert!(text.parse::<AgentPort>().is_err(), "{text}");
        }
        for (text, at) in [
            ("8080", "127.0.0.1:8080"),
            ("localhost:8080", "127.0.0.1:8080"),
            ("[::1]:8080", "[::1]:8080"),
            ("0.0.0.0:8080", "0.0.0.0:8080"),
        ] {
            assert_eq!(text.parse::<LocalAddr>().unwrap().to_string(), at);
        }
        // No host that is not written as an address, so that none is open by mistake.
        for text in ["", ":8080", "*:8080", "host.example:8080", "70000", "::1:x", "-1"] {
            assert!(text.parse::<LocalAddr>().is_err(), "{text}");
        }
    }
}
