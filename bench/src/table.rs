//! Samples of contestants, and how they are printed.

use crate::measure::quantile;
use serde_json::{Value, json};

/// One thing that is measured of every contestant.
#[derive(Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    /// Digits after the point.
    pub digits: usize,
    /// Whether least and most are shown beside the median.
    pub spread: bool,
    /// Whether it is compared.
    pub ratio: bool,
}

impl Metric {
    pub const fn new(name: &'static str, digits: usize) -> Self {
        Metric { name, digits, spread: false, ratio: true }
    }

    pub const fn spread(name: &'static str, digits: usize) -> Self {
        Metric { name, digits, spread: true, ratio: true }
    }

    /// Not compared.
    pub const fn plain(name: &'static str, digits: usize) -> Self {
        Metric { name, digits, spread: false, ratio: false }
    }
}

struct Row {
    name: String,
    /// For each metric, a sample of each round.
    samples: Vec<Vec<f64>>,
}

/// A table of medians. Ratios are medians of the rounds' ratios, so that a machine that drifts
/// from round to round drifts out of them.
pub struct Table {
    title: String,
    metrics: Vec<Metric>,
    rows: Vec<Row>,
    /// The rows, by name, that the others are compared with.
    ours: &'static [&'static str],
}

impl Table {
    pub fn new(
        title: impl Into<String>,
        metrics: impl Into<Vec<Metric>>,
        ours: &'static [&'static str],
    ) -> Self {
        Table { title: title.into(), metrics: metrics.into(), rows: Vec::new(), ours }
    }

    /// Adds one sample of every metric to a contestant's row.
    pub fn add(&mut self, name: &str, sample: &[f64]) {
        assert_eq!(sample.len(), self.metrics.len());
        let at = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            let samples = vec![Vec::new(); self.metrics.len()];
            self.rows.push(Row { name: name.to_owned(), samples });
            self.rows.len() - 1
        });
        for (samples, value) in self.rows[at].samples.iter_mut().zip(sample) {
            samples.push(*value);
        }
        let shown = self
            .metrics
            .iter()
            .zip(sample)
            .map(|(m, v)| format!("{} {}", number(*v, m.digits), m.name));
        eprintln!("{}: {name}: {}", self.title, shown.collect::<Vec<_>>().join(", "));
    }

    fn compared(&self, metric: &Metric) -> impl Iterator<Item = (&'static str, &Row)> {
        let row = |name: &&'static str| Some((*name, self.rows.iter().find(|r| r.name == *name)?));
        let ours = if metric.ratio { self.ours } else { &[] };
        ours.iter().filter_map(row)
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut header = String::from("| |");
        for metric in &self.metrics {
            header += &format!(" {} |", metric.name);
            if metric.spread {
                header += " spread |";
            }
            for (ours, _) in self.compared(metric) {
                header += &format!(" {} ÷ |", ours.trim_start_matches("pilot, "));
            }
        }
        let columns = header.matches('|').count() - 1;
        let mut text = format!("\n### {}\n\n{header}\n|---|", self.title);
        text += &"--:|".repeat(columns - 1);
        for row in &self.rows {
            text += &format!("\n| {} |", row.name);
            for (m, metric) in self.metrics.iter().enumerate() {
                let sorted = sorted(row.samples[m].clone());
                text += &format!(" {} |", number(quantile(&sorted, 0.5), metric.digits));
                if metric.spread {
                    let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
                    let of = |value| number(value, metric.digits);
                    text += &format!(" {}–{} |", of(least), of(most));
                }
                for (_, ours) in self.compared(metric) {
                    let ratios = ours.samples[m].iter().zip(&row.samples[m]).map(|(a, b)| a / b);
                    let ratio = quantile(&self::sorted(ratios.collect()), 0.5);
                    text += &format!(" {} |", number(ratio, 2));
                }
            }
        }
        text + "\n"
    }

    /// With every sample.
    pub fn json(&self) -> Value {
        let row = |row: &Row| {
            let metrics = self.metrics.iter().zip(&row.samples);
            let samples: serde_json::Map<_, _> =
                metrics.map(|(metric, s)| (metric.name.to_owned(), json!(s))).collect();
            json!({ "name": row.name, "samples": samples })
        };
        json!({ "title": self.title, "rows": self.rows.iter().map(row).collect::<Vec<_>>() })
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// With commas between thousands; a dash for what a contestant does not have (NaN).
fn number(value: f64, digits: usize) -> String {
    if value.is_nan() {
        return "–".to_owned();
    }
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    for (i, c) in whole.chars().enumerate() {
        let left = whole.len() - i;
        if c.is_ascii_digit() && out.ends_with(|c: char| c.is_ascii_digit()) && left % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    out + rest
}
