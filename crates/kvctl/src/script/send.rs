//! A transaction of the vocabulary as a request of the client library.

use std::time::Duration;

use kvd_client::{Client, Compare, CompareNumber, CompareValue, Txn, TxnOp};
use kvd_types::{Lifetime, Relation, Subject};

/// The request, in the client's namespace.
pub(crate) fn to_request(client: &Client, txn: kvd_types::Txn) -> Txn {
    let request = txn.compares.into_iter().map(compare).fold(client.txn(), Txn::when);
    let request = txn.then.into_iter().map(operation).fold(request, Txn::then);
    txn.otherwise.into_iter().map(operation).fold(request, Txn::or_else)
}

fn compare(compare: kvd_types::Compare) -> Compare {
    let kvd_types::Compare { key, subject, relation } = compare;
    match subject {
        Subject::Revision(revision) => number(Compare::revision(key), relation, revision),
        Subject::CreateRevision(revision) => number(Compare::create_revision(key), relation, revision),
        Subject::Version(version) => number(Compare::version(key), relation, version),
        Subject::Lease(lease) => number(Compare::lease(key), relation, lease),
        Subject::Value(bytes) => value(Compare::value(key), relation, bytes),
    }
}

fn number<T>(of: CompareNumber<T>, relation: Relation, with: T) -> Compare {
    match relation {
        Relation::Equal => of.equal(with),
        Relation::NotEqual => of.not_equal(with),
        Relation::Less => of.less(with),
        Relation::Greater => of.greater(with),
    }
}

fn value(of: CompareValue, relation: Relation, with: bytes::Bytes) -> Compare {
    match relation {
        Relation::Equal => of.equal(with),
        Relation::NotEqual => of.not_equal(with),
        Relation::Less => of.less(with),
        Relation::Greater => of.greater(with),
    }
}

fn operation(operation: kvd_types::TxnOp) -> TxnOp {
    match operation {
        kvd_types::TxnOp::Get(key) => TxnOp::get(key),
        kvd_types::TxnOp::Put { key, value, lifetime, want_previous } => {
            let put = TxnOp::put(key, value);
            let put = match lifetime {
                Lifetime::Forever => put,
                Lifetime::Ttl(ttl_ms) => put.ttl(Duration::from_millis(ttl_ms)),
                Lifetime::Lease(lease) => put.lease(lease),
            };
            if want_previous { put.return_previous().into() } else { put.into() }
        }
        kvd_types::TxnOp::Delete { key, want_previous } => {
            let delete = TxnOp::delete(key);
            if want_previous { delete.return_previous().into() } else { delete.into() }
        }
    }
}
