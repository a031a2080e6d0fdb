//! Transactions in JSON: for programs.

use bytes::Bytes;
use kvd_types::{Compare, Key, Txn, TxnOp};
use serde::Deserialize;

use super::line::{lifetime, relation, subject};
use crate::line::bytes;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TxnJson {
    #[serde(default)]
    compares: Vec<CompareJson>,
    #[serde(default)]
    then: Vec<OpJson>,
    #[serde(default, alias = "else")]
    otherwise: Vec<OpJson>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CompareJson {
    key: Option<String>,
    key_base64: Option<String>,
    target: String,
    op: String,
    value: Option<TextOrNumber>,
    value_base64: Option<String>,
}

/// Numbers of 64 bits are strings in JSON; small ones may stand as they are.
#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Text(String),
    Number(u64),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum OpJson {
    Get(KeyJson),
    Put(PutJson),
    #[serde(alias = "delete")]
    Del(KeyJson),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyJson {
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    prev_kv: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutJson {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    ttl: Option<String>,
    lease: Option<String>,
    #[serde(default)]
    prev_kv: bool,
}

/// A whole transaction in JSON.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn from_json(json: &[u8]) -> Result<Txn, String> {
    let txn: TxnJson = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let in_order = |name: &str, operations: Vec<OpJson>| -> Result<Vec<TxnOp>, String> {
        let numbered = operations.into_iter().zip(1..);
        numbered
            .map(|(op, number)| op.read().map_err(|wrong| format!("{name}, number {number}: {wrong}")))
            .collect()
    };
    let compares = txn.compares.into_iter().zip(1..);
    Ok(Txn {
        compares: compares
            .map(|(compare, number)| {
                compare.read().map_err(|wrong| format!("compares, number {number}: {wrong}"))
            })
            .collect::<Result<_, String>>()?,
        then: in_order("then", txn.then)?,
        otherwise: in_order("otherwise", txn.otherwise)?,
    })
}

impl CompareJson {
    fn read(self) -> Result<Compare, String> {
        let value = self.value.map(|value| match value {
            TextOrNumber::Text(text) => text,
            TextOrNumber::Number(number) => number.to_string(),
        });
        let value = bytes("value", value, self.value_base64)?;
        Ok(Compare {
            key: key(self.key, self.key_base64)?,
            subject: subject(&self.target, value)?,
            relation: relation(&self.op)?,
        })
    }
}

impl OpJson {
    fn read(self) -> Result<TxnOp, String> {
        match self {
            Self::Get(get) if get.prev_kv => Err("a get has no prev_kv".into()),
            Self::Get(get) => Ok(TxnOp::Get(key(get.key, get.key_base64)?)),
            Self::Put(put) => Ok(TxnOp::Put {
                key: key(put.key, put.key_base64)?,
                value: bytes("value", put.value, put.value_base64)?,
                lifetime: lifetime(put.ttl.as_deref(), put.lease.as_deref())?,
                want_previous: put.prev_kv,
            }),
            Self::Del(delete) => {
                Ok(TxnOp::Delete { key: key(delete.key, delete.key_base64)?, want_previous: delete.prev_kv })
            }
        }
    }
}

fn key(text: Option<String>, base64: Option<String>) -> Result<Key, String> {
    let key: Bytes = bytes("key", text, base64)?;
    Key::new(key).map_err(|error| error.message)
}
