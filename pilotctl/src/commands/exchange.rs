//! Echo.

use super::Context;
use crate::api::{EchoReport, EchoRequest};
use crate::cli::agent;
use crate::cli::values::Span;
use crate::error::Failure;
use crate::output::{bytes, time};
use hyper::Method;
use std::time::Duration;

/// Patience with an echo whose time was not limited.
const ECHO_MAX: Duration = Duration::from_secs(24 * 3600);
pub(super) fn millis(span: Option<Span>) -> Option<u64> {
    span.map(|span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX))
}

pub(super) async fn echo(cx: &Context, args: agent::Echo) -> Result<(), Failure> {
    let body = EchoRequest {
        to: args.agent.to_string(),
        network: args.at.network,
        count: args.count,
        bytes: args.bytes,
        timeout_ms: millis(args.timeout.timeout),
    };
    let limit = args.timeout.timeout.map_or(ECHO_MAX, |span| span.0);
    let report: EchoReport =
        cx.client().send_within(Method::POST, "/v1/echo", &body, Some(limit)).await?;
    cx.out.show(&report, |r| {
        let us = |us| time(Duration::from_micros(us));
        let mut text = String::new();
        for (i, rtt) in r.rtts_us.iter().enumerate() {
            text += &format!("{}: {}\n", i + 1, us(*rtt));
        }
        text += &format!(
            "{} {}: rtt min {}, median {}, 99% {}, max {}",
            r.address,
            r.path,
            us(r.min_us),
            us(r.p50_us),
            us(r.p99_us),
            us(r.max_us)
        );
        if let Some(rate) = r.bytes_per_second {
            let (size, each) = (bytes(r.bytes), bytes(rate as u64));
            text += &format!("; {size} there and back in {}, {each}/s each way", us(r.burst_us));
        }
        text
    });
    Ok(())
}
