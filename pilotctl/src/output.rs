//! How results reach people and programs: plain lines, or with `--json` exactly one envelope.
//! Text that others chose is cleaned of control and bidirectional characters and quoted: it is
//! data, shown to people and to models, and must not look like anything else.

use crate::error::{Envelope, Failure};
use pilot_core::name::is_hostile;
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// One envelope instead of plain lines.
    pub(crate) json: bool,
}

impl Output {
    /// Shows a result: `plain` writes it for people. See [`print_line`].
    pub(crate) fn show<T: Serialize>(self, data: &T, plain: impl FnOnce(&T) -> String) {
        if self.json {
            let envelope = Envelope::from_result(Ok(data));
            print_line(&to_line(&envelope));
        } else {
            let text = plain(data);
            if !text.is_empty() {
                print_line(text.trim_end_matches('\n'));
            }
        }
    }

    /// Shows an error: on standard error for people, as an envelope on standard output for
    /// programs.
    pub(crate) fn fail(self, failure: &Failure) {
        if self.json {
            let _ = write_line(&self.failure_line(failure));
        } else {
            self.note(&format!("error: {}", failure.message));
            if !failure.hint.is_empty() {
                self.note(&format!("hint: {}", failure.hint));
            }
        }
    }

    /// An error as an envelope.
    pub(crate) fn failure_line(self, failure: &Failure) -> String {
        to_line(&Envelope::<()>::Error(failure.to_wire()))
    }

    /// A line on standard error that is no result: a warning, what is awaited.
    pub(crate) fn note(self, text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// One JSON line.
pub(crate) fn to_line<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| {
        let failure = Failure::new(crate::error::Code::Internal, error.to_string());
        serde_json::to_string(&Envelope::<()>::Error(failure.to_wire())).unwrap_or_default()
    })
}

/// Writes a line to standard output, or ends the process: what follows may stand on its having
/// been seen, as the deletion of a message does, and nobody may be left to see more. A reader that
/// has gone away is no error.
pub(crate) fn print_line(text: &str) {
    let Err(error) = write_line(text) else { return };
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    let failure = Failure::io("write to standard output", error);
    Output { json: false }.fail(&failure);
    std::process::exit(failure.code.exit().into());
}

/// Writes a line to standard output.
pub(crate) fn write_line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Text of somebody else: cleaned, quoted, on one line.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_hostile(c) => {}
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Text of somebody else inside JSON: cleaned, but line breaks and tabs stay (JSON quotes).
pub(crate) fn cleaned(text: &str) -> String {
    text.chars().filter(|&c| c == '\n' || c == '\t' || !is_hostile(c)).collect()
}

/// Tags as `discover` shows them: `[cloud=aws, role=research]`.
pub(crate) fn tag_list(tags: &[String]) -> String {
    let cleaned: Vec<String> = tags.iter().map(|tag| cleaned(tag)).collect();
    format!("[{}]", cleaned.join(", "))
}

/// `1.25 ms`, `2.5 s`.
pub(crate) fn time(duration: Duration) -> String {
    let us = duration.as_micros();
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// `10.0 MB` (powers of ten, as network rates are given).
pub(crate) fn bytes(count: u64) -> String {
    let value = count as f64;
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

/// A UTC time as RFC 3339 writes it, from Unix seconds.
pub(crate) fn utc(unix_seconds: u64) -> String {
    let (days, rest) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Civil date from a day count, in 400-year eras that begin on 1 March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3_600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Columns aligned by their widest cell, for people.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        let cells = rows.iter().map(|row| row[i].chars().count());
        cells.chain([head[i].chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut row = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(row, "{cell:width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_cleaned_and_quoted() {
        let text = "ok\u{1b}[2J \"x\"\n\u{202e}drowssap\\";
        assert_eq!(quoted(text), r#""ok[2J \"x\"\ndrowssap\\""#);
        assert_eq!(cleaned("a\u{7}\nb\u{2066}"), "a\nb");
    }

    #[test]
    fn tags_and_tables_are_as_the_manual_shows() {
        let tags = ["cloud=aws", "region=us-east-1", "role=research"].map(String::from);
        assert_eq!(tag_list(&tags), "[cloud=aws, region=us-east-1, role=research]");
        let rows = vec![vec!["1".into(), "two".into()], vec!["three".into(), "4".into()]];
        assert_eq!(table(&["a", "b"], &rows), "a      b\n1      two\nthree  4\n");
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(utc(4_102_444_799), "2099-12-31T23:59:59Z");
        assert_eq!(time(Duration::from_micros(1_250)), "1.25 ms");
        assert_eq!(bytes(10_000_000), "10.0 MB");
    }
}
