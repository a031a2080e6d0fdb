//! What watches tell.

use std::io::{self, Write};

use kvd_client::{Event, Token};
use serde::Serialize;

use super::{Output, Row};
use crate::{cli::Format, line::text_or_base64};

#[derive(Default, Serialize)]
struct EventJson {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<String>,
}

impl<W: Write> Output<W> {
    /// A change, with the token that covers it and all before if it is the last of those. As lines: `PUT` or `DELETE`, the key
    /// and value before if they are shown, the key, and its value, which is empty for a delete.
    pub(crate) fn event(&mut self, event: &Event, token: Option<&Token>) -> io::Result<()> {
        if self.format == Format::Json {
            let (key, key_base64) = text_or_base64(event.key.as_bytes());
            return self.json(&EventJson {
                kind: if event.record.is_some() { "put" } else { "delete" },
                key,
                key_base64,
                revision: Some(event.revision.to_string()),
                record: event.record.as_ref().map(|record| Row::new(None, record)),
                previous: event.previous.as_ref().map(|record| Row::new(None, record)),
                resume: token.map(ToString::to_string),
            });
        }
        self.bytes_line(if event.record.is_some() { b"PUT" } else { b"DELETE" })?;
        if let Some(previous) = &event.previous {
            self.bytes_line(event.key.as_bytes())?;
            self.bytes_line(&previous.value)?;
        }
        self.bytes_line(event.key.as_bytes())?;
        self.bytes_line(event.record.as_ref().map_or(&[], |record| &record.value[..]))
    }

    /// Nothing was missed so far: in JSON. Whether it was written; people are told on standard error.
    pub(crate) fn progress(&mut self, token: &Token) -> io::Result<bool> {
        if self.format == Format::Table {
            return Ok(false);
        }
        let resume = Some(token.to_string());
        self.json(&EventJson { kind: "progress", resume, ..EventJson::default() }).map(|()| true)
    }
}
