//! What can be done to HTTP/2 on one connection: streams begun and reset, streams begun and never ended, headers without
//! end, frames and messages that say they are huge.

use super::*;

const PATHS: [(usize, &str); 2] = [(0, "/kvd.v1.Kv/Get"), (1, "/kvd.peer.v1.Peer/Probe")];

/// Sends the same in many rounds, until all is sent or the other end has had enough. Reads nothing.
async fn send_rounds(connection: &mut TcpStream, rounds: u32, mut round: impl FnMut(u32) -> Vec<u8>) {
    for number in 0..rounds {
        let sent = tokio::time::timeout(PATIENCE, connection.write_all(&round(number))).await;
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(_cut)) => return,
            Err(_elapsed) => panic!("a node neither reads nor hangs up"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_begun_and_reset_by_the_thousand_end_their_connection() {
    let mut scene = Scene::start().await;
    for (port, path) in PATHS {
        let (name, address) = scene.ports(0)[port];
        let mut connection = http2::connect(address).await;
        let headers = http2::call(path);
        send_rounds(&mut connection, 50_000, |round| {
            let stream = 2 * round + 1;
            let begun = http2::frame(http2::HEADERS, http2::END_HEADERS, stream, &headers);
            let reset = http2::frame(http2::RESET, 0, stream, &8_u32.to_be_bytes());
            [begun, reset].concat()
        })
        .await;
        hung_up(&format!("rapid resets at the {name} port"), &mut connection).await;
        scene.check().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_limit_are_refused_and_those_that_never_end_harm_nobody() {
    let mut scene = Scene::start().await;
    for (port, path) in PATHS {
        let (name, address) = scene.ports(0)[port];
        let mut connection = http2::connect(address).await;
        let headers = http2::call(path);
        // Never ended, each with a message that is announced as large and never comes.
        let announced = [&[0][..], &(4_u32 << 20).to_be_bytes(), b"few"].concat();
        let (mut from, mut to) = connection.split();
        let send = async {
            for round in 0..3000_u32 {
                let stream = 2 * round + 1;
                let begun = http2::frame(http2::HEADERS, http2::END_HEADERS, stream, &headers);
                let data = http2::frame(http2::DATA, 0, stream, &announced);
                if to.write_all(&[begun, data].concat()).await.is_err() {
                    break;
                }
            }
        };
        // A refused stream is reset, with REFUSED_STREAM or with what came for it afterwards.
        let mut said = Vec::new();
        let read = async {
            let mut piece = [0; 4096];
            let mut resets = 0;
            while resets < 100 {
                let read = from.read(&mut piece).await.unwrap_or(0);
                if read == 0 {
                    return true;
                }
                said.extend_from_slice(&piece[..read]);
                while let Some((kind, rest)) = split_frame(&said) {
                    resets += usize::from(kind == http2::RESET);
                    said = rest.to_vec();
                }
            }
            true
        };
        let both = async { tokio::join!(send, read).1 };
        let refused = tokio::time::timeout(PATIENCE, both).await;
        assert!(refused.is_ok(), "the {name} port takes any number of streams");
        scene.check().await;
    }
    scene.end().await;
}

/// The kind of the first whole frame, and what comes after it.
fn split_frame(said: &[u8]) -> Option<(u8, &[u8])> {
    let (head, rest) = said.split_at_checked(9)?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    rest.split_at_checked(length).map(|(_, after)| (head[3], after))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_end_are_cut_off() {
    let mut scene = Scene::start().await;
    for (port, path) in PATHS {
        let (name, address) = scene.ports(0)[port];
        // In one field after the other, and in frames that always have another one to follow.
        let mut field = b"\x00\x01x\x7f\x81\x0f".to_vec();
        field.extend(b"y".repeat(2062));
        let mut connection = http2::connect(address).await;
        let begun = http2::frame(http2::HEADERS, 0, 1, &http2::call(path));
        send_rounds(&mut connection, 30_000, |round| match round {
            0 => begun.clone(),
            _ => http2::frame(http2::CONTINUATION, 0, 1, &field),
        })
        .await;
        hung_up(&format!("headers without end at the {name} port"), &mut connection).await;
        scene.check().await;
    }
    let (_, http) = scene.ports(0)[2];
    let mut connection = TcpStream::connect(http).await.expect("a node that listens");
    let line = format!("x-long: {}\r\n", "y".repeat(1000));
    send_rounds(&mut connection, 30_000, |round| match round {
        0 => b"GET /store/a HTTP/1.1\r\nhost: kvd\r\n".to_vec(),
        _ => line.clone().into_bytes(),
    })
    .await;
    hung_up("headers without end at the http port", &mut connection).await;
    scene.check().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_says_it_is_a_gibibyte_is_refused_before_it_is_there() {
    let mut scene = Scene::start().await;
    for (port, path) in PATHS.into_iter().chain([(0, "/kvd.v1.Kv/Pipeline"), (1, "/kvd.peer.v1.Peer/Lane")]) {
        let (name, address) = scene.ports(0)[port];
        let mut connections = Vec::new();
        for _ in 0..50 {
            let mut connection = http2::connect(address).await;
            let begun = http2::frame(http2::HEADERS, http2::END_HEADERS, 1, &http2::call(path));
            let announced = [&[0][..], &(1_u32 << 30).to_be_bytes(), b"and so on"].concat();
            let data = http2::frame(http2::DATA, 0, 1, &announced);
            connection.write_all(&[begun, data].concat()).await.expect("a node that listens");
            connections.push(connection);
        }
        for mut connection in connections {
            // The status comes in headers, and ends the stream.
            let mut said = Vec::new();
            let read = async {
                let mut piece = [0; 4096];
                loop {
                    let read = connection.read(&mut piece).await.unwrap_or(0);
                    said.extend_from_slice(&piece[..read]);
                    let mut rest = said.as_slice();
                    while let Some((kind, after)) = split_frame(rest) {
                        if kind == http2::HEADERS {
                            return true;
                        }
                        rest = after;
                    }
                    if read == 0 {
                        return false;
                    }
                }
            };
            let answered = tokio::time::timeout(PATIENCE, read).await;
            assert!(answered.is_ok_and(|answered| answered), "{path} at the {name} port is not answered");
        }
        scene.check().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_and_settings_without_end_harm_nobody() {
    let mut scene = Scene::start().await;
    for port in [0, 1] {
        let (_, address) = scene.ports(0)[port];
        for flood in [http2::frame(http2::PING, 0, 0, &[7; 8]), http2::frame(http2::SETTINGS, 0, 0, &[])] {
            let mut connection = http2::connect(address).await;
            // The answers are never read. Either the node stops reading or it hangs up.
            let flood = flood.repeat(1000);
            for _ in 0..500 {
                let sent = tokio::time::timeout(Duration::from_secs(2), connection.write_all(&flood)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    break;
                }
            }
            scene.check().await;
        }
    }
    assert_eq!((http2::ACK, http2::END_STREAM), (1, 1));
    scene.end().await;
}
