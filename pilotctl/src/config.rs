//! Settings: what a flag says, else the environment, else `config.toml` in the home. What a
//! successful start used is saved there, so that a bare start uses it again.

use crate::cli::values::{HostPort, PathChoice, Registry, RegistryKey};
use crate::error::{Code, Failure};
use crate::home;
use crate::limits::{DaemonLimits, ServerLimits};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Longest configuration file that is read.
const BYTES_MAX: u64 = 64 * 1024;

/// A table of settings.
pub(crate) trait Settings: Serialize + DeserializeOwned + Default + PartialEq {
    /// What stands above the saved table.
    const TITLE: &'static str;

    /// Takes from `other` what is not set here.
    fn or(self, other: Self) -> Self;
}

/// The daemon's settings. Absent ones have their default.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct DaemonSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) registry: Option<Registry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) registry_key: Option<RegistryKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) beacon: Option<HostPort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) endpoint: Option<HostPort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) listen: Option<HostPort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) path: Option<PathChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) no_spray: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) min_reputation: Option<i64>,
    #[serde(default, skip_serializing_if = "DaemonLimits::is_default")]
    pub(crate) limits: DaemonLimits,
}

impl Settings for DaemonSettings {
    const TITLE: &'static str =
        "Settings of this agent's daemon, saved by `pilotctl daemon start`.";

    fn or(self, other: Self) -> Self {
        // A registry key belongs to its registry: another registry brings its own.
        let same = self.registry.is_none() || self.registry == other.registry;
        DaemonSettings {
            registry: self.registry.or(other.registry),
            registry_key: self.registry_key.or(other.registry_key.filter(|_| same)),
            beacon: self.beacon.or(other.beacon.filter(|_| same)),
            endpoint: self.endpoint.or(other.endpoint),
            listen: self.listen.or(other.listen),
            path: self.path.or(other.path),
            no_spray: self.no_spray.or(other.no_spray),
            min_reputation: self.min_reputation.or(other.min_reputation),
            limits: self.limits.or(other.limits),
        }
    }
}

/// The rendezvous server's settings.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct RendezvousSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) registry_addr: Option<HostPort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) beacon_addr: Option<HostPort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) beacon_alt_addr: Option<HostPort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) persist: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "ServerLimits::is_default")]
    pub(crate) limits: ServerLimits,
}

impl Settings for RendezvousSettings {
    const TITLE: &'static str =
        "Settings of the rendezvous server, saved by `pilotctl rendezvous start`.";

    fn or(self, other: Self) -> Self {
        RendezvousSettings {
            registry_addr: self.registry_addr.or(other.registry_addr),
            beacon_addr: self.beacon_addr.or(other.beacon_addr),
            beacon_alt_addr: self.beacon_alt_addr.or(other.beacon_alt_addr),
            persist: self.persist.or(other.persist),
            limits: self.limits.or(other.limits),
        }
    }
}

/// Reads settings; none if there is no file. An unknown key is an error that names its line.
pub(crate) fn load<S: Settings>(path: &Path) -> Result<S, Failure> {
    use std::io::Read as _;
    let shown = path.display();
    let mut text = String::new();
    match std::fs::File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(S::default()),
        Err(e) => return Err(Failure::io(format!("open {shown}"), e)),
        Ok(file) => file
            .take(BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|e| Failure::io(format!("read {shown}"), e))?,
    };
    toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(start).filter(|&b| b == b'\n').count() + 1;
        // The parser's message may go on about alternatives over several lines.
        let message = error.message().lines().next().unwrap_or("not understood");
        Failure::new(Code::Config, format!("{shown} line {line}: {message}"))
    })
}

/// Saves settings, unless the file says the same already.
pub(crate) fn save<S: Settings>(path: &Path, settings: &S) -> Result<(), Failure> {
    if path.exists() && load::<S>(path).is_ok_and(|saved| saved == *settings) {
        return Ok(());
    }
    let table = toml::to_string(settings)
        .map_err(|e| Failure::new(Code::Internal, format!("cannot write settings: {e}")))?;
    let text = format!("# {}\n# A flag or the environment overrides a line.\n{table}", S::TITLE);
    home::replace_private_file(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> DaemonSettings {
        DaemonSettings {
            registry: Some("registry.example:9000".parse().unwrap()),
            registry_key: Some(RegistryKey([9; 32])),
            beacon: Some("[::1]:9001".parse().unwrap()),
            endpoint: None,
            listen: Some("[::]:0".parse().unwrap()),
            path: Some(PathChoice::Relay),
            no_spray: Some(true),
            min_reputation: Some(-3),
            limits: toml::from_str("peers = 2000").unwrap(),
        }
    }

    #[test]
    fn what_is_saved_is_what_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        assert_eq!(load::<DaemonSettings>(&path).unwrap(), DaemonSettings::default());
        save(&path, &settings()).unwrap();
        assert_eq!(load::<DaemonSettings>(&path).unwrap(), settings());
        // A file that says the same, with somebody's own remarks, is left alone.
        let text = std::fs::read_to_string(&path).unwrap() + "# mine\n";
        std::fs::write(&path, &text).unwrap();
        save(&path, &settings()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn an_unknown_key_or_a_bad_value_names_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        for (text, line, word) in [
            ("path = \"auto\"\n\nregisty = \"h:1\"\n", 3, "registy"),
            ("# one\npath = \"fast\"\n", 2, "fast"),
            ("path = \"auto\"\nlisten = \"0.0.0.0\"\n", 2, ""),
            ("path = \n", 1, ""),
            ("path = \"auto\"\n\n[limits]\npeers = 0\n", 4, "between 1 and"),
            ("[limits]\npeer = 5\n", 2, "peer"),
        ] {
            std::fs::write(&path, text).unwrap();
            let failure = load::<DaemonSettings>(&path).unwrap_err();
            assert_eq!(failure.code, Code::Config);
            let place = format!("config.toml line {line}: ");
            assert!(failure.message.contains(&place), "{}", failure.message);
            assert!(failure.message.contains(word), "{}", failure.message);
        }
        std::fs::write(&path, "registry-addr = \"h:1\"\nbeacon = \"h:2\"\n").unwrap();
        let failure = load::<RendezvousSettings>(&path).unwrap_err();
        assert!(failure.message.contains("line 2: "), "{}", failure.message);
    }

    #[test]
    fn given_settings_win_and_a_new_registry_drops_what_belonged_to_the_old() {
        let relay = DaemonSettings { path: Some(PathChoice::Direct), ..Default::default() };
        let merged = relay.or(settings());
        assert_eq!(merged.path, Some(PathChoice::Direct));
        assert_eq!(merged.registry, settings().registry);
        assert_eq!(merged.registry_key, settings().registry_key);
        let elsewhere = DaemonSettings {
            registry: Some("other.example:9000".parse().unwrap()),
            ..Default::default()
        };
        let merged = elsewhere.or(settings());
        assert_eq!((merged.registry_key, merged.beacon), (None, None));
        assert_eq!(merged.path, settings().path);
    }
}
