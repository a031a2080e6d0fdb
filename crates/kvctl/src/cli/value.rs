//! Values of flags as people write them: durations, lease ids, levels of consistency.

use std::{fmt, str::FromStr, time::Duration};

use kvd_client::LeaseId;

/// How recent a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Level {
    /// It sees every write that was finished before it was asked for.
    #[default]
    Linearizable,
    /// The same, as long as clocks run no faster than the cluster allows for.
    Lease,
    /// It sees what the session has seen.
    Session,
    /// It misses nothing that was finished this long ago.
    Bounded(Duration),
    /// It sees whatever the replica has.
    Local,
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("bounded", bound)) => duration(bound).map(Self::Bounded),
            None if text == "linearizable" => Ok(Self::Linearizable),
            None if text == "lease" => Ok(Self::Lease),
            None if text == "session" => Ok(Self::Session),
            None if text == "local" => Ok(Self::Local),
            _ => Err("it is one of linearizable, lease, session, bounded:DURATION and local".into()),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linearizable => f.write_str("linearizable"),
            Self::Lease => f.write_str("lease"),
            Self::Session => f.write_str("session"),
            Self::Bounded(bound) => write!(f, "bounded:{}ms", bound.as_millis()),
            Self::Local => f.write_str("local"),
        }
    }
}

/// A duration: whole numbers with units, as in `500ms`, `90`, `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "write whole numbers with ms, s, m, h or d, as in 500ms, 10s or 1h30m";
    if let Ok(seconds) = text.parse::<u64>()
        && !text.starts_with('+')
    {
        return Ok(Duration::from_secs(seconds));
    }
    if text.is_empty() {
        return Err(FORM.into());
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|character: char| character.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let number: u64 = number.parse().map_err(|_| FORM)?;
        let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
        let part = match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => seconds(1),
            "m" => seconds(60),
            "h" => seconds(60 * 60),
            "d" => seconds(24 * 60 * 60),
            "" => return Err(FORM.into()),
            _ => return Err(format!("{unit} is no unit of time here; use ms, s, m, h or d")),
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or("it is too long")?;
        rest = after;
    }
    Ok(total)
}

/// A duration of more than nothing.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be longer than zero".into()),
        longer => Ok(longer),
    }
}

/// A lease's id: up to 16 hexadecimal digits, as `lease grant` prints it.
pub(crate) fn lease_id(text: &str) -> Result<LeaseId, String> {
    const FORM: &str = "a lease's id is 1 to 16 hexadecimal digits, as lease grant prints it";
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.is_empty() || digits.len() > 16 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(FORM.into());
    }
    match u64::from_str_radix(digits, 16) {
        Ok(0) => Err("0 is no lease".into()),
        Ok(id) => Ok(LeaseId(id)),
        Err(_) => Err(FORM.into()),
    }
}
