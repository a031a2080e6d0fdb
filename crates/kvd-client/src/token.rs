//! Where a scan or watch is, for whoever wants to go on later, in this process or another one.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use kvd_proto::token;
use kvd_types::{Error, Result};

/// Where a scan or watch is: opaque, to be handed back for the same request. As text it is safe in URLs.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Bytes);

impl Token {
    /// A token from bytes that [`Token::as_bytes`] gave. They are checked when it is used.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// As bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) const fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&token::to_text(&self.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        token::from_text(text).map(Self)
    }
}
