//! What a watch hands out, and when.

use bytes::Bytes;

use super::*;

fn event(key: &str, revision: u64) -> v1::Event {
    v1::Event { key: Bytes::copy_from_slice(key.as_bytes()), revision, ..v1::Event::default() }
}

fn answer(events: &[(&str, u64)], resume: &'static str, is_progress: bool) -> v1::WatchResponse {
    let events = events.iter().map(|&(key, revision)| event(key, revision)).collect();
    v1::WatchResponse { events, resume: resume.into(), is_progress }
}

#[test]
fn events_come_with_the_token_that_covers_them() {
    let mut buffer = Buffer::default();
    assert_eq!(buffer.take(answer(&[("a", 1)], "", true)).unwrap(), None);
    assert_eq!(buffer.take(answer(&[("b", 2)], "", false)).unwrap(), None);
    let item = buffer.take(answer(&[("c", 3)], "t", false)).unwrap().unwrap();
    assert_eq!(item.events.iter().map(|event| event.revision.get()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((item.token, item.progress), (Token::new("t"), true));
    let item = buffer.take(answer(&[], "u", false)).unwrap().unwrap();
    assert_eq!((item.events.len(), item.progress), (0, false), "each once");
}

#[test]
fn events_without_a_token_are_bounded() {
    let mut buffer = Buffer::default();
    let large = || v1::WatchResponse {
        events: vec![v1::Event {
            kv: Some(v1::KeyValue { value: vec![0; 1 << 20].into(), ..v1::KeyValue::default() }),
            ..event("a", 1)
        }],
        ..v1::WatchResponse::default()
    };
    let taken = (0..100).take_while(|_| buffer.take(large()).is_ok()).count();
    assert_eq!(taken, (BUFFER_BYTES_MAX >> 20) - 1);
}
