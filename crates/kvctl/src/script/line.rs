//! One line of a transaction: a compare or a request.

use std::{iter::Peekable, vec::IntoIter};

use bytes::Bytes;
use kvd_types::{Compare, Key, LeaseId, Lifetime, Relation, Revision, Subject, TxnOp};

use super::words::{Cursor, Word, words};
use crate::cli::{lease_id, positive_duration};

const COMPARE_FORM: &str = "a compare is written as mod(\"key\") > \"0\"";

/// A compare: `mod("key") > "0"`.
pub(super) fn compare(line: &[u8]) -> Result<Compare, String> {
    let mut cursor = Cursor::new(line);
    let target = cursor.take_until(b"(").trim_ascii();
    if !cursor.take(b'(') {
        return Err(format!("there is no ( in this; {COMPARE_FORM}"));
    }
    let key = cursor.word(b")")?.ok_or(COMPARE_FORM)?;
    cursor.rest();
    if !cursor.take(b')') {
        return Err(format!("there is no ) after the key; {COMPARE_FORM}"));
    }
    cursor.rest();
    let relation = relation(&cursor.take_all_of(b"=!<>").escape_ascii().to_string())?;
    let value =
        cursor.word(b"")?.ok_or_else(|| format!("there is nothing to compare with; {COMPARE_FORM}"))?;
    match cursor.rest() {
        b"" => {}
        rest => return Err(format!("nothing may follow the compare, but there is {}", rest.escape_ascii())),
    }
    let subject = subject(&target.escape_ascii().to_string(), value.bytes.into())?;
    Ok(Compare { key: key_of(key)?, subject, relation })
}

/// How two values are compared.
pub(super) fn relation(op: &str) -> Result<Relation, String> {
    match op {
        "=" => Ok(Relation::Equal),
        "!=" => Ok(Relation::NotEqual),
        "<" => Ok(Relation::Less),
        ">" => Ok(Relation::Greater),
        "" => Err(format!("there is none of = != < > after the key; {COMPARE_FORM}")),
        other => Err(format!("{other} is no way to compare; use one of = != < >")),
    }
}

/// What is compared with what.
pub(super) fn subject(target: &str, value: Bytes) -> Result<Subject, String> {
    let number = || {
        let text = std::str::from_utf8(&value).ok().filter(|text| !text.starts_with('+'));
        text.and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("{target} is compared with a whole number, not {}", value.escape_ascii()))
    };
    match target {
        "m" | "mod" => number().map(Revision).map(Subject::Revision),
        "c" | "create" => number().map(Revision).map(Subject::CreateRevision),
        "ver" | "version" => number().map(Subject::Version),
        "lease" => lease_or_none(&value).map(Subject::Lease),
        "val" | "value" => Ok(Subject::Value(value)),
        other => Err(format!("{other} can't be compared; use one of mod, create, version, value and lease")),
    }
}

/// A lease, or 0 for none.
fn lease_or_none(value: &[u8]) -> Result<LeaseId, String> {
    match std::str::from_utf8(value) {
        Ok(zeros) if !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0') => Ok(LeaseId(0)),
        Ok(text) => lease_id(text).map_err(|wrong| format!("lease: {wrong}; 0 is none")),
        Err(_) => Err("lease: an id is hexadecimal digits".into()),
    }
}

/// A request: `get k`, `put k v`, `del k`, with flags.
pub(super) fn request(line: &[u8]) -> Result<TxnOp, String> {
    let mut words = words(line)?.into_iter().peekable();
    let Some(verb) = words.next() else { return Err("there is no request".into()) };
    match &verb.bytes[..] {
        b"get" => {
            let ([key], _) = operands(words, "get KEY", &[])?;
            Ok(TxnOp::Get(key_of(key)?))
        }
        b"put" => {
            const FORM: &str = "put KEY VALUE [--ttl DURATION | --lease ID] [--prev-kv]";
            let ([key, value], flags) = operands(words, FORM, &["--ttl", "--lease", "--prev-kv"])?;
            Ok(TxnOp::Put {
                key: key_of(key)?,
                value: value.bytes.into(),
                lifetime: lifetime(flags.ttl.as_deref(), flags.lease.as_deref())?,
                want_previous: flags.prev_kv,
            })
        }
        b"del" | b"delete" => {
            let ([key], flags) = operands(words, "del KEY [--prev-kv]", &["--prev-kv"])?;
            Ok(TxnOp::Delete { key: key_of(key)?, want_previous: flags.prev_kv })
        }
        _ => Err(format!("{} is no request of a transaction; use one of get, put and del", verb.shown())),
    }
}

/// Until when a key is there, by the texts of a time to live and a lease.
pub(super) fn lifetime(ttl: Option<&str>, lease: Option<&str>) -> Result<Lifetime, String> {
    match (ttl, lease) {
        (None, None) => Ok(Lifetime::Forever),
        (Some(ttl), None) => {
            let ttl = positive_duration(ttl).map_err(|wrong| format!("ttl: {wrong}"))?;
            Ok(Lifetime::Ttl(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)))
        }
        (None, Some(lease)) => {
            lease_id(lease).map(Lifetime::Lease).map_err(|wrong| format!("lease: {wrong}"))
        }
        (Some(_), Some(_)) => Err("a key has a ttl or a lease, not both".into()),
    }
}

#[derive(Debug, Default)]
struct Flags {
    ttl: Option<String>,
    lease: Option<String>,
    prev_kv: bool,
}

/// The words that are no flags, exactly so many, and the flags, of those allowed.
fn operands<const N: usize>(
    mut words: Peekable<IntoIter<Word>>,
    form: &str,
    allowed: &[&str],
) -> Result<([Word; N], Flags), String> {
    let (mut operands, mut flags, mut only_operands) = (Vec::new(), Flags::default(), false);
    while let Some(word) = words.next() {
        let is_flag = !only_operands && !word.quoted && word.bytes.starts_with(b"--");
        if !is_flag {
            operands.push(word);
            continue;
        }
        let text = word.shown();
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (&text[..], None),
        };
        let value = |words: &mut Peekable<IntoIter<Word>>| {
            inline
                .clone()
                .or_else(|| words.next().map(|word| word.shown()))
                .ok_or_else(|| format!("{name} takes a value: {form}"))
        };
        match name {
            "--" if inline.is_none() => only_operands = true,
            _ if !allowed.contains(&name) => {
                return Err(format!("{name} is no flag of this request: {form}"));
            }
            "--ttl" => flags.ttl = Some(value(&mut words)?),
            "--lease" => flags.lease = Some(value(&mut words)?),
            _ if inline.is_some() => return Err(format!("{name} takes no value: {form}")),
            _ => flags.prev_kv = true,
        }
    }
    let count = operands.len();
    let operands = operands.try_into().map_err(|_| {
        format!("this takes {N} {}, not {count}: {form}", if N == 1 { "word" } else { "words" })
    })?;
    Ok((operands, flags))
}

fn key_of(word: Word) -> Result<Key, String> {
    Key::new(word.bytes).map_err(|error| error.message)
}
