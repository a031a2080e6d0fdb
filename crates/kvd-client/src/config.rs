//! How a client finds the cluster and how long it tries.

use std::{sync::Arc, time::Duration};

use kvd_proto::net::{Dial, Dialer};
use kvd_types::{
    Error, Result,
    limits::{REQUEST_DEADLINE_DEFAULT, REQUEST_DEADLINE_MAX},
};

/// How long a connection attempt may take, unless told otherwise.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
/// How long one node is waited for before another one is asked, unless told otherwise. A leader that falls silent without a
/// word is replaced within about as long, so whoever waited for it longer would only lose time.
pub const TRY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
/// Most endpoints that a client is given.
pub const ENDPOINTS_MAX: usize = 64;

/// How a client finds the cluster and how long it tries.
///
/// ```
/// use std::time::Duration;
/// let config = kvd_client::Config::new(["10.0.0.1:7400", "10.0.0.2:7400"]).deadline(Duration::from_secs(2));
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) endpoints: Vec<String>,
    pub(crate) deadline: Duration,
    pub(crate) try_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) zone: Option<String>,
    pub(crate) dialer: Dialer,
}

impl Config {
    /// A configuration with the addresses (`host:port`) of some of the cluster's nodes: any that is up will do, the
    /// others are learned from it.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            deadline: REQUEST_DEADLINE_DEFAULT,
            try_timeout: TRY_TIMEOUT_DEFAULT,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            zone: None,
            dialer: Dialer::default(),
        }
    }

    /// How long each request is tried before it fails, unless the request says otherwise. Five seconds if not set; at
    /// most [`REQUEST_DEADLINE_MAX`].
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long one node is waited for before another one is asked. See [`TRY_TIMEOUT_DEFAULT`].
    #[must_use]
    pub const fn try_timeout(mut self, timeout: Duration) -> Self {
        self.try_timeout = timeout;
        self
    }

    /// How long a connection attempt may take. See [`CONNECT_TIMEOUT_DEFAULT`].
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The failure domain that this client stands in: reads that any replica may serve, and watches, go to nodes of the same
    /// zone where there are some.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into()).filter(|zone: &String| !zone.is_empty());
        self
    }

    /// Connects by other means than TCP: a simulated network, a tunnel.
    #[must_use]
    pub fn dial(mut self, dial: Arc<dyn Dial>) -> Self {
        self.dialer = Dialer::new(dial);
        self
    }

    /// The configuration with its endpoints brought to the form `host:port`.
    pub(crate) fn checked(mut self) -> Result<Self> {
        for endpoint in &mut self.endpoints {
            let address = endpoint.trim().trim_end_matches('/');
            *endpoint = address.strip_prefix("http://").unwrap_or(address).to_owned();
        }
        self.endpoints.retain(|endpoint| !endpoint.is_empty());
        if self.endpoints.is_empty() || self.endpoints.len() > ENDPOINTS_MAX {
            return Err(Error::invalid(format!(
                "{} endpoints were given; a client needs 1 to {ENDPOINTS_MAX}, each as host:port",
                self.endpoints.len()
            )));
        }
        if self.try_timeout.is_zero() || self.connect_timeout.is_zero() {
            return Err(Error::invalid("the try and connect timeouts must be longer than zero"));
        }
        check_deadline(self.deadline)?;
        Ok(self)
    }
}

/// Whether a request may have this deadline.
pub(crate) fn check_deadline(deadline: Duration) -> Result<()> {
    if deadline.is_zero() || deadline > REQUEST_DEADLINE_MAX {
        return Err(Error::invalid(format!(
            "the deadline is {deadline:?}; a request has more than zero and at most {REQUEST_DEADLINE_MAX:?}"
        )));
    }
    Ok(())
}

/// Addresses separated by commas.
impl From<&str> for Config {
    fn from(endpoints: &str) -> Self {
        Self::new(endpoints.split(','))
    }
}

impl<E: Into<String>, const N: usize> From<[E; N]> for Config {
    fn from(endpoints: [E; N]) -> Self {
        Self::new(endpoints)
    }
}

impl<E: Into<String>> From<Vec<E>> for Config {
    fn from(endpoints: Vec<E>) -> Self {
        Self::new(endpoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_brought_to_one_form() {
        let config = Config::from(" http://a:1/, b:2,,").checked().unwrap();
        assert_eq!(config.endpoints, ["a:1", "b:2"]);
        let error = Config::from(",").checked().unwrap_err();
        assert!(error.message.starts_with("0 endpoints"), "{error}");
    }

    #[test]
    fn a_deadline_has_a_limit() {
        let error = Config::from("a:1").deadline(Duration::from_secs(61)).checked().unwrap_err();
        assert!(error.message.contains("60s"), "{error}");
        assert!(Config::from("a:1").deadline(Duration::ZERO).checked().is_err());
    }
}
