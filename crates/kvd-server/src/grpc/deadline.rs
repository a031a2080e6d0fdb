//! The deadline of a unary call: its `grpc-timeout` header.
//!
//! The transport drops a call when that time is over, and then can't say whether a write was applied. So the store gets
//! a little less time than the caller gives, and its own answer, which knows, is the one that arrives.

use std::time::Duration;

use kvd_types::{Error, Result};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use crate::front::deadline_after;

const HEADER: &str = "grpc-timeout";
/// The most that is kept back for the way of the answer.
const MARGIN_MAX: Duration = Duration::from_millis(20);

/// The moment by which the store must answer.
///
/// # Errors
/// Invalid argument, for a header that makes no sense: guessing would make a write's outcome a matter of luck.
pub(super) fn of(metadata: &MetadataMap) -> Result<Instant> {
    timeout_of(metadata).map(deadline_after)
}

/// What the caller gives, less the margin.
fn timeout_of(metadata: &MetadataMap) -> Result<Option<Duration>> {
    let Some(header) = metadata.get(HEADER) else { return Ok(None) };
    let timeout = header.to_str().ok().and_then(parse).ok_or_else(|| {
        Error::invalid(format!(
            "{HEADER} = {header:?} must be up to 8 digits and one of the units H, M, S, m, u, n"
        ))
    })?;
    Ok(Some(timeout - (timeout / 10).min(MARGIN_MAX)))
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        for (text, wanted) in [
            ("5S", Some(Duration::from_secs(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("2H", Some(Duration::from_secs(7200))),
            ("100m", Some(Duration::from_millis(100))),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("123456789S", None),
            ("+5S", None),
            ("5é", None),
        ] {
            assert_eq!(parse(text), wanted, "{text}");
        }
    }

    #[test]
    fn the_answer_has_time_for_its_way() {
        let given = |header: Option<&'static str>| {
            let mut metadata = MetadataMap::new();
            if let Some(header) = header {
                metadata.insert(HEADER, header.parse().unwrap());
            }
            timeout_of(&metadata)
        };
        assert_eq!(given(None), Ok(None));
        assert_eq!(given(Some("1S")), Ok(Some(Duration::from_millis(980))));
        assert_eq!(given(Some("50m")), Ok(Some(Duration::from_millis(45))), "a tenth at most");
        assert!(given(Some("soon")).unwrap_err().message.contains("grpc-timeout"));
    }
}
