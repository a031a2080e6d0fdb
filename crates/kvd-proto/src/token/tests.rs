//! A token is decoded as it was encoded, or not at all.

use proptest::prelude::*;

use super::*;

const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

fn revisions() -> impl Strategy<Value = BTreeMap<ShardId, Revision>> {
    proptest::collection::btree_map(any::<u32>().prop_map(ShardId), any::<u64>().prop_map(Revision), 0..20)
}

fn scan() -> impl Strategy<Value = ScanToken> {
    (any::<(u64, u64)>(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|((request, at), next)| {
        ScanToken { cluster_id: CLUSTER.into(), request, revision: Revision(at), next: next.into() }
    })
}

fn watch() -> impl Strategy<Value = WatchToken> {
    (any::<u64>(), revisions()).prop_map(|(request, positions)| WatchToken {
        cluster_id: CLUSTER.into(),
        request,
        positions,
    })
}

fn session() -> impl Strategy<Value = SessionToken> {
    revisions().prop_map(|revisions| SessionToken { cluster_id: CLUSTER.into(), revisions })
}

proptest! {
    #[test]
    fn tokens_survive(scan in scan(), watch in watch(), session in session()) {
        let text = |token: &[u8]| from_text(&to_text(token)).unwrap();
        prop_assert_eq!(&ScanToken::decode(&text(&scan.encode()), CLUSTER, scan.request).unwrap(), &scan);
        prop_assert_eq!(&WatchToken::decode(&text(&watch.encode()), CLUSTER, watch.request).unwrap(), &watch);
        prop_assert_eq!(&SessionToken::decode(&text(&session.encode()), CLUSTER).unwrap(), &session);
    }

    #[test]
    fn a_changed_or_cut_token_is_refused(scan in scan(), watch in watch(), session in session(), change in 1_u8..) {
        for (token, kind) in [(scan.encode(), 0), (watch.encode(), 1), (session.encode(), 2)] {
            let refused = |token: &[u8]| match kind {
                0 => ScanToken::decode(token, CLUSTER, scan.request).is_err(),
                1 => WatchToken::decode(token, CLUSTER, watch.request).is_err(),
                _ => SessionToken::decode(token, CLUSTER).is_err(),
            };
            prop_assert!(!refused(&token));
            for place in 0..token.len() {
                let mut damaged = token.to_vec();
                damaged[place] ^= change;
                prop_assert!(refused(&damaged), "byte {place} of {} changed", token.len());
                prop_assert!(refused(&token[..place]), "cut after {place} of {} bytes", token.len());
            }
        }
    }

    #[test]
    fn whatever_comes_is_refused_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..100), text: String) {
        prop_assert!(ScanToken::decode(&bytes, CLUSTER, 0).is_err());
        prop_assert!(from_text(&text).map_or(true, |bytes| SessionToken::decode(&bytes, CLUSTER).is_err()));
    }
}

#[test]
fn what_is_wrong_with_a_token_is_told() {
    let watch = WatchToken { cluster_id: CLUSTER.into(), request: 7, positions: BTreeMap::new() };
    let message = |result: Result<WatchToken>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind, kvd_types::ErrorKind::InvalidArgument);
        error.message
    };
    let session = SessionToken { cluster_id: CLUSTER.into(), ..SessionToken::default() };
    assert!(
        message(WatchToken::decode(&session.encode(), CLUSTER, 7)).contains("of a session, not of a watch")
    );
    assert!(message(WatchToken::decode(&watch.encode(), "other", 7)).contains("this is cluster other"));
    assert!(message(WatchToken::decode(&watch.encode(), CLUSTER, 8)).contains("another request"));
    assert!(message(WatchToken::decode(b"", CLUSTER, 7)).contains("damaged"));
}

#[test]
fn tokens_of_earlier_versions_are_understood() {
    let token = SessionToken {
        cluster_id: "c".into(),
        revisions: BTreeMap::from([(ShardId(1), Revision(300)), (ShardId(2), Revision(1))]),
    };
    let golden = b"\x03U#\xd8\x1c\xd9\x9d\x9c\x9f\n\x01c\x12\x05\x08\x01\x10\xac\x02\x12\x04\x08\x02\x10\x01";
    assert_eq!(token.encode().as_ref(), golden, "{}", token.encode().escape_ascii());
    let numbers =
        (scan_request(b"a", b"b", true, Content::KeysOnly, Filter::default()), watch_request(b"a", b"b"));
    assert_eq!(numbers, (1_355_142_881_312_567_491, 16_437_996_823_183_618_278));
}

#[test]
fn another_range_or_order_is_another_request() {
    let filter = Filter { revision_min: Some(Revision(1)), ..Filter::default() };
    let requests = [
        scan_request(b"a", b"b", false, Content::All, Filter::default()),
        scan_request(b"a", b"c", false, Content::All, Filter::default()),
        scan_request(b"b", b"b", false, Content::All, Filter::default()),
        scan_request(b"a", b"b", true, Content::All, Filter::default()),
        scan_request(b"a", b"b", false, Content::KeysOnly, Filter::default()),
        scan_request(b"a", b"b", false, Content::All, filter),
    ];
    let distinct: std::collections::BTreeSet<_> = requests.iter().collect();
    assert_eq!(distinct.len(), requests.len());
    assert_ne!(watch_request(b"a", b"b"), watch_request(b"a", b""));
}
