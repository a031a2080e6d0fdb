//! What came of transactions.

use std::io::{self, Write};

use kvd_client::{TxnOutcome, TxnResult};
use kvd_types::TxnOp;
use serde::Serialize;

use super::{Output, Row};
use crate::cli::Format;

#[derive(Serialize)]
struct OutcomeJson {
    succeeded: bool,
    revision: String,
    results: Vec<ResultJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum ResultJson {
    /// `null`: there is no such key.
    Get(Option<Row>),
    Put {
        create_revision: String,
        version: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        previous: Option<Row>,
    },
    Del {
        deleted: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        previous: Option<Row>,
    },
}

impl ResultJson {
    fn new(result: &TxnResult, of: &TxnOp) -> Self {
        match result {
            TxnResult::Got(record) => {
                Self::Get(record.as_ref().map(|record| Row::new(Some(of.key()), record)))
            }
            TxnResult::Put { create_revision, version, previous } => Self::Put {
                create_revision: create_revision.to_string(),
                version: version.to_string(),
                previous: previous.as_ref().map(|record| Row::new(None, record)),
            },
            TxnResult::Deleted { existed, previous } => Self::Del {
                deleted: *existed,
                previous: previous.as_ref().map(|record| Row::new(None, record)),
            },
        }
    }
}

impl<W: Write> Output<W> {
    /// What came of a transaction whose operations that were done are these. As lines: `SUCCESS` or `FAILURE`, and after an empty
    /// line each, what the same request alone would print.
    pub(crate) fn txn(&mut self, outcome: &TxnOutcome, done: &[TxnOp]) -> io::Result<()> {
        let results = outcome.results.iter().zip(done);
        if self.format == Format::Json {
            return self.json(&OutcomeJson {
                succeeded: outcome.succeeded,
                revision: outcome.revision.to_string(),
                results: results.map(|(result, of)| ResultJson::new(result, of)).collect(),
            });
        }
        writeln!(self.to, "{}", if outcome.succeeded { "SUCCESS" } else { "FAILURE" })?;
        for (result, of) in results {
            writeln!(self.to)?;
            match result {
                TxnResult::Got(None) => {}
                TxnResult::Got(Some(record)) => {
                    self.bytes_line(of.key().as_bytes())?;
                    self.bytes_line(&record.value)?;
                }
                TxnResult::Put { previous, .. } => {
                    writeln!(self.to, "OK")?;
                    self.previous(previous.as_ref())?;
                }
                TxnResult::Deleted { existed, previous } => {
                    writeln!(self.to, "{}", u8::from(*existed))?;
                    self.previous(previous.as_ref())?;
                }
            }
        }
        Ok(())
    }
}
