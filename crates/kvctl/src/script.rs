//! Transactions as people write them: etcdctl's text, or JSON.
//!
//! # The text
//! Three parts, each ended by an empty line or the end of the input: compares, what is done if all hold, and what is done if one
//! doesn't. A line is one compare, `mod("key") > "0"`, or one request, `put key "a value" --ttl 5s`. It is bytes: what
//! stands in it unescaped need not be UTF-8.
//!
//! # The approach
//! The text is taken line by line ([`Parser::line`]), so that the same parser serves files and people who are asked for one line
//! after the other. [`words`] splits lines, [`mod@line`] understands them, [`json`] reads the other form. All of them make a
//! [`Txn`] of the vocabulary; [`send`] hands it to the client.
//!
//! # What it deliberately does not do
//! It doesn't check limits, nor that all keys share a shard: the cluster knows, and its errors say more.

use std::fmt;

use kvd_types::Txn;

mod json;
mod line;
mod send;
mod words;

pub(crate) use json::from_json;
pub(crate) use send::to_request;

/// What is wrong with a line of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// The line, counted from 1.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) message: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// The parts of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// What must hold.
    Compares,
    /// What is done if it does.
    Then,
    /// What is done if it doesn't.
    Otherwise,
    /// Nothing may follow.
    End,
}

/// Takes a transaction's text, line by line.
#[derive(Debug)]
pub(crate) struct Parser {
    part: Part,
    lines: usize,
    txn: Txn,
}

impl Parser {
    pub(crate) fn new() -> Self {
        Self { part: Part::Compares, lines: 0, txn: Txn::default() }
    }

    /// The part that the next line belongs to.
    pub(crate) const fn part(&self) -> Part {
        self.part
    }

    /// Takes the next line, with or without its end. A line that is wrong leaves everything as it was.
    pub(crate) fn line(&mut self, text: &[u8]) -> Result<(), Wrong> {
        self.lines += 1;
        let wrong = |message| Wrong { line: self.lines, message };
        let text = text.trim_ascii();
        match self.part {
            _ if text.is_empty() => self.part = self.part.next(),
            Part::Compares => self.txn.compares.push(line::compare(text).map_err(wrong)?),
            Part::Then => self.txn.then.push(line::request(text).map_err(wrong)?),
            Part::Otherwise => self.txn.otherwise.push(line::request(text).map_err(wrong)?),
            Part::End => {
                return Err(wrong(
                    "a transaction has three parts, and this would be in a fourth: compares, requests if they hold, and \
                     requests if not, with one empty line after each"
                        .into(),
                ));
            }
        }
        Ok(())
    }

    /// The transaction.
    pub(crate) fn finish(self) -> Txn {
        self.txn
    }
}

impl Part {
    const fn next(self) -> Self {
        match self {
            Self::Compares => Self::Then,
            Self::Then => Self::Otherwise,
            Self::Otherwise | Self::End => Self::End,
        }
    }
}

/// A whole transaction in text.
pub(crate) fn from_text(text: &[u8]) -> Result<Txn, Wrong> {
    let mut parser = Parser::new();
    text.split_inclusive(|&byte| byte == b'\n').try_for_each(|line| parser.line(line))?;
    Ok(parser.finish())
}

#[cfg(test)]
mod tests;
