//! Transactions and lifetimes, between wire and domain. They stand in logs as they come over the wire: keep stable.

use kvd_types::{Compare, Error, Key, LeaseId, Lifetime, Relation, Result, Revision, Subject, Txn, TxnOp};

use crate::v1;

pub(crate) fn lifetime_to_wire(lifetime: Lifetime) -> Option<v1::Lifetime> {
    use v1::lifetime::Kind;
    let kind = match lifetime {
        Lifetime::Forever => return None,
        Lifetime::Ttl(ttl_ms) => Kind::TtlMs(ttl_ms),
        Lifetime::Lease(lease) => Kind::Lease(lease.get()),
    };
    Some(v1::Lifetime { kind: Some(kind) })
}

pub(crate) fn lifetime_from_wire(wire: Option<v1::Lifetime>) -> Result<Lifetime> {
    use v1::lifetime::Kind;
    match wire.map(|lifetime| lifetime.kind) {
        None => Ok(Lifetime::Forever),
        Some(Some(Kind::TtlMs(ttl_ms))) => Ok(Lifetime::Ttl(ttl_ms)),
        Some(Some(Kind::Lease(lease))) => Ok(Lifetime::Lease(LeaseId(lease))),
        Some(None) => Err(Error::invalid("a lifetime of an unknown kind")),
    }
}

pub(crate) fn txn_to_wire(txn: Txn) -> v1::TxnRequest {
    let operations = |operations: Vec<TxnOp>| operations.into_iter().map(operation_to_wire).collect();
    v1::TxnRequest {
        compares: txn.compares.into_iter().map(compare_to_wire).collect(),
        then: operations(txn.then),
        otherwise: operations(txn.otherwise),
        ..v1::TxnRequest::default()
    }
}

pub(crate) fn txn_from_wire(wire: v1::TxnRequest) -> Result<Txn> {
    let operations = |operations: Vec<v1::TxnOperation>| {
        operations.into_iter().map(operation_from_wire).collect::<Result<_>>()
    };
    Ok(Txn {
        compares: wire.compares.into_iter().map(compare_from_wire).collect::<Result<_>>()?,
        then: operations(wire.then)?,
        otherwise: operations(wire.otherwise)?,
    })
}

fn compare_to_wire(compare: Compare) -> v1::Compare {
    let relation = match compare.relation {
        Relation::Equal => v1::compare::Relation::Equal,
        Relation::NotEqual => v1::compare::Relation::NotEqual,
        Relation::Less => v1::compare::Relation::Less,
        Relation::Greater => v1::compare::Relation::Greater,
    };
    let subject = match compare.subject {
        Subject::Revision(revision) => v1::compare::Subject::Revision(revision.get()),
        Subject::CreateRevision(revision) => v1::compare::Subject::CreateRevision(revision.get()),
        Subject::Version(version) => v1::compare::Subject::Version(version),
        Subject::Lease(lease) => v1::compare::Subject::Lease(lease.get()),
        Subject::Value(value) => v1::compare::Subject::Value(value),
    };
    v1::Compare { key: compare.key.into_bytes(), relation: relation.into(), subject: Some(subject) }
}

fn compare_from_wire(wire: v1::Compare) -> Result<Compare> {
    let relation = match wire.relation() {
        v1::compare::Relation::Equal => Relation::Equal,
        v1::compare::Relation::NotEqual => Relation::NotEqual,
        v1::compare::Relation::Less => Relation::Less,
        v1::compare::Relation::Greater => Relation::Greater,
        v1::compare::Relation::Unspecified => return Err(Error::invalid("a compare of an unknown kind")),
    };
    let subject = match wire.subject.ok_or_else(|| Error::invalid("a compare with nothing"))? {
        v1::compare::Subject::Revision(revision) => Subject::Revision(Revision(revision)),
        v1::compare::Subject::CreateRevision(revision) => Subject::CreateRevision(Revision(revision)),
        v1::compare::Subject::Version(version) => Subject::Version(version),
        v1::compare::Subject::Lease(lease) => Subject::Lease(LeaseId(lease)),
        v1::compare::Subject::Value(value) => Subject::Value(value),
    };
    Ok(Compare { key: Key::new(wire.key)?, subject, relation })
}

fn operation_to_wire(operation: TxnOp) -> v1::TxnOperation {
    use v1::txn_operation::Kind;
    let kind = match operation {
        TxnOp::Get(key) => Kind::Get(v1::TxnGet { key: key.into_bytes() }),
        TxnOp::Put { key, value, lifetime, want_previous } => Kind::Put(v1::TxnPut {
            key: key.into_bytes(),
            value,
            lifetime: lifetime_to_wire(lifetime),
            prev_kv: want_previous,
        }),
        TxnOp::Delete { key, want_previous } => {
            Kind::Delete(v1::TxnDelete { key: key.into_bytes(), prev_kv: want_previous })
        }
    };
    v1::TxnOperation { kind: Some(kind) }
}

fn operation_from_wire(wire: v1::TxnOperation) -> Result<TxnOp> {
    use v1::txn_operation::Kind;
    Ok(match wire.kind.ok_or_else(|| Error::invalid("an operation of an unknown kind"))? {
        Kind::Get(get) => TxnOp::Get(Key::new(get.key)?),
        Kind::Put(put) => TxnOp::Put {
            key: Key::new(put.key)?,
            value: put.value,
            lifetime: lifetime_from_wire(put.lifetime)?,
            want_previous: put.prev_kv,
        },
        Kind::Delete(delete) => TxnOp::Delete { key: Key::new(delete.key)?, want_previous: delete.prev_kv },
    })
}
