//! What can go wrong, as programs see it: one table of stable codes, each with an exit code
//! and an HTTP status. `docs/pilotctl.md` lists the same table; a test compares them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! codes {
    ($($name:ident $text:literal $exit:literal $http:literal $hint:expr;)*) => {
        /// A stable error code.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Code { $($name,)* }

        impl Code {
            /// All of them, in the order of the table in the documentation.
            pub(crate) const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The code as it stands in the envelope.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// The exit code of the process.
            pub(crate) const fn exit(self) -> u8 {
                match self { $(Code::$name => $exit,)* }
            }

            /// The status of the local API's answer.
            pub(crate) const fn http(self) -> u16 {
                match self { $(Code::$name => $http,)* }
            }

            /// What to do next, where nothing more specific is known.
            const fn hint(self) -> &'static str {
                match self { $(Code::$name => $hint,)* }
            }
        }
    };
}

codes! {
    Usage "usage" 2 400 "see `pilotctl COMMAND --help` for the form and an example";
    Config "config" 2 400 "correct or delete the line; docs/pilotctl.md lists the keys";
    NotFound "not_found" 3 404
        "it is unknown or private: check the spelling and the network, or ask its owner for the address and run `pilotctl trust request ADDR`";
    NotTrusted "not_trusted" 4 403
        "run `pilotctl trust request ADDR --justification \"...\"` and wait for the other side to approve";
    NoAnswer "no_answer" 5 504
        "the agent has granted access but does not answer now: try again later, or ask its owner to check `pilotctl daemon status`";
    RegistryUnreachable "registry_unreachable" 5 504
        "check the address and that `pilotctl rendezvous status` is well there, and that TCP and UDP may pass";
    Timeout "timeout" 6 504 "give it longer, with --timeout or --wait";
    NotRunning "not_running" 7 503 "run `pilotctl daemon start`";
    Conflict "conflict" 8 409 "choose another, or free it first";
    AlreadyRunning "already_running" 8 409
        "it runs with other settings: stop it first, then start it with these";
    Fenced "fenced" 8 409
        "this identity runs elsewhere; `pilotctl daemon start --takeover` takes it back";
    StoreBusy "store_busy" 8 409 "another process has the store open: stop it, or name another store";
    BadAddress "bad_address" 2 400
        "an agent's address looks like 1:0001.0000.0042; `pilotctl info` shows your own";
    NotRegistered "not_registered" 1 503
        "the registry has not given this agent an address yet: see `pilotctl daemon status`";
    NotPermitted "not_permitted" 1 403
        "`pilotctl trust list` shows what you may do there; its owner can change it with `pilotctl trust allow`";
    Refused "refused" 1 502 "start a listener there first, as `pilotctl listen PORT`";
    Busy "busy" 1 503 "try again in a moment";
    Ended "ended" 1 502 "the other side ended the stream: try again";
    Interrupted "interrupted" 1 502 "try again: what has arrived is not sent twice";
    TrustRefused "trust_refused" 1 403 "the other side's owner said no; talk to them first";
    RateLimited "rate_limited" 1 429 "wait a little and try again";
    Full "full" 1 507 "a stated limit is reached: remove something first";
    Unsupported "unsupported" 1 501 "the other side is older or newer: compare `pilotctl --version`";
    Rejected "rejected" 1 502 "the registry said no; its log says more";
    TooLarge "too_large" 1 413 "send it as a file, or in parts";
    Integrity "integrity" 1 502 "what arrived is not what was sent: send it again";
    RegistryKey "registry_key" 1 502
        "if the change is genuine, start once with --registry HOST:PORT#KEY of the new key; if not, somebody is in between";
    Permissions "permissions" 1 500 "correct owner and mode as the message says";
    State "state" 1 500 "restore it from a backup, or `pilotctl reset --yes` to begin anew";
    Io "io" 1 500 "the message names what failed; check space and permissions";
    Internal "internal" 1 500 "this is a defect: please report it with `pilotctl logs`";
}

impl Code {
    /// The code that stands in an envelope.
    pub(crate) fn parse(text: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

/// An error as it is shown: code, message, and what to do next.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Failure {
    /// An error with its code's usual hint.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), hint: code.hint().to_owned() }
    }

    /// The same error with a better hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// A failed operation of the operating system: `doing` says what was tried.
    pub(crate) fn io(doing: impl fmt::Display, error: impl Into<std::io::Error>) -> Self {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let error = error.into();
        let message = format!("cannot {doing}: {error}");
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => {
                Failure::new(Code::Full, message).hint("make room on the device, then try again")
            }
            _ => Failure::new(Code::Io, message),
        }
    }

    /// The error as it stands in an envelope.
    pub(crate) fn to_wire(&self) -> WireFailure {
        WireFailure {
            code: self.code.as_str().to_owned(),
            message: self.message.clone(),
            hint: self.hint.clone(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The fields of an error envelope.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct WireFailure {
    pub(crate) code: String,
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) hint: String,
}

impl From<WireFailure> for Failure {
    fn from(wire: WireFailure) -> Self {
        // A code of a newer daemon still shows its own text.
        let code = Code::parse(&wire.code).unwrap_or(Code::Internal);
        Failure { code, message: wire.message, hint: wire.hint }
    }
}

/// The one envelope of `--json` and of the local API.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "status", rename_all = "lowercase")]
#[schemars(rename = "Envelope_{T}")]
pub(crate) enum Envelope<T> {
    /// `{"status":"ok","data":...}`
    Ok {
        /// What was asked for.
        data: T,
    },
    /// `{"status":"error","code":...,"message":...,"hint":...}`
    Error(WireFailure),
}

impl<T> Envelope<T> {
    /// Wraps a result.
    pub(crate) fn from_result(result: Result<T, Failure>) -> Self {
        match result {
            Ok(data) => Envelope::Ok { data },
            Err(failure) => Envelope::Error(failure.to_wire()),
        }
    }

    /// Unwraps it.
    pub(crate) fn into_result(self) -> Result<T, Failure> {
        match self {
            Envelope::Ok { data } => Ok(data),
            Envelope::Error(wire) => Err(wire.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_have_exactly_the_published_shape() {
        let ok = Envelope::from_result(Ok(7));
        assert_eq!(serde_json::to_string(&ok).unwrap(), r#"{"status":"ok","data":7}"#);
        let failure = Failure::new(Code::NotTrusted, "no grant").hint("ask");
        let error: Envelope<u8> = Envelope::from_result(Err(failure));
        let text = serde_json::to_string(&error).unwrap();
        assert_eq!(
            text,
            r#"{"status":"error","code":"not_trusted","message":"no grant","hint":"ask"}"#
        );
        let back: Envelope<u8> = serde_json::from_str(&text).unwrap();
        assert_eq!(back.into_result().unwrap_err().code, Code::NotTrusted);
    }

    #[test]
    fn no_room_is_told_from_other_failures_of_the_disk() {
        let code = |kind| Failure::io("write", std::io::Error::from(kind)).code;
        assert_eq!(code(std::io::ErrorKind::StorageFull), Code::Full);
        assert_eq!(code(std::io::ErrorKind::QuotaExceeded), Code::Full);
        assert_eq!(code(std::io::ErrorKind::PermissionDenied), Code::Io);
    }

    #[test]
    fn codes_are_unique_and_keep_their_exit_codes() {
        for (i, code) in Code::ALL.iter().enumerate() {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
            assert!(!Code::ALL[..i].iter().any(|c| c.as_str() == code.as_str()));
            assert!((1..=8).contains(&code.exit()));
            assert!(!code.hint().is_empty());
        }
        let exits = [
            (Code::Usage, 2),
            (Code::NotFound, 3),
            (Code::NotTrusted, 4),
            (Code::NoAnswer, 5),
            (Code::RegistryUnreachable, 5),
            (Code::Timeout, 6),
            (Code::NotRunning, 7),
            (Code::Conflict, 8),
            (Code::AlreadyRunning, 8),
            (Code::Fenced, 8),
            (Code::StoreBusy, 8),
            (Code::Internal, 1),
        ];
        for (code, exit) in exits {
            assert_eq!(code.exit(), exit, "{code:?}");
        }
    }

    #[test]
    fn the_documentation_lists_the_same_codes() {
        let text = include_str!("../../docs/pilotctl.md");
        let mut documented = Vec::new();
        for line in text.lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            // | `code` | exit | HTTP | meaning |
            if let [_, code, exit, http, _, _] = cells[..]
                && let (Ok(exit), Ok(http)) = (exit.parse::<u8>(), http.parse::<u16>())
            {
                documented.push((code.trim_matches('`').to_owned(), exit, http));
            }
        }
        let mut built: Vec<_> =
            Code::ALL.iter().map(|c| (c.as_str().to_owned(), c.exit(), c.http())).collect();
        documented.sort();
        built.sort();
        assert_eq!(documented, built);
    }
}
