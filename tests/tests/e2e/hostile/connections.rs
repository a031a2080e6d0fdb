//! Too many connections, and connections that say nothing or nothing for long.

use super::*;

/// Connections that a flood tries to have on one port.
const FLOOD: usize = 1000;

/// Opens so many connections and says nothing on them.
async fn flood(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        // Refused is as good as closed.
        if let Ok(connection) = TcpStream::connect(address).await {
            connections.push(connection);
        }
    }
    connections
}

fn open(connections: &[TcpStream]) -> usize {
    connections.iter().filter(|connection| !has_hung_up(connection)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_silent_connections_takes_no_more_than_the_limit_and_is_closed_soon() {
    let mut scene = Scene::start().await;
    let before = scene.vitals[0].handles();
    for (name, address) in scene.ports(0) {
        let connections = flood(address, FLOOD).await;
        until(&format!("the {name} port to close what is beyond its limit"), async || {
            let open = open(&connections);
            if open <= CONNECTIONS_MAX { Ok(()) } else { Err(format!("{open} are open")) }
        })
        .await;
        scene.check().await;
        // Nobody hangs up but the node.
        until(&format!("the {name} port to close all that say nothing"), async || match open(&connections) {
            0 => Ok(()),
            open => Err(format!("{open} are open")),
        })
        .await;
        until("the file handles to come back", async || {
            let now = scene.vitals[0].handles();
            if now <= before + 20 { Ok(()) } else { Err(format!("{before} before, {now} now")) }
        })
        .await;
    }
    scene.check().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_silent_connections_keeps_nobody_out() {
    let mut scene = Scene::start().await;
    let address = scene.cluster.node(0).client_address();
    let http = scene.cluster.node(0).http_address();
    let mut connections = Vec::new();
    // While as many as it takes are there, newcomers who have something to say are served.
    for turn in 0..5 {
        connections.extend(flood(address, CONNECTIONS_MAX).await);
        connections.extend(flood(http, CONNECTIONS_MAX).await);
        let key = format!("newcomer/{turn}");
        let put = v1::PutRequest { key: key.clone().into(), value: "here".into(), ..Default::default() };
        let written = guest(address).await.put(put).await.expect("a newcomer is served");
        assert!(written.into_inner().succeeded);
        let answer = scene.cluster.node(0).get(&format!("/store/{key}")).await.expect("a newcomer is served");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    scene.check().await;
    drop(connections);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_a_byte_now_and_then_is_hung_up_on() {
    let mut scene = Scene::start().await;
    let mut slow = Vec::new();
    for (name, address) in scene.ports(0) {
        for sent in
            [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"GET /store/a HTTP/1.1\r\nhost: kvd\r\nx-slow: "]
        {
            let sent = [sent, &b"a".repeat(10_000)].concat();
            slow.push(tokio::spawn(async move {
                let (mut from, mut to) = TcpStream::connect(address).await.expect("a port").into_split();
                let drip = tokio::spawn(async move {
                    for byte in sent {
                        if to.write_all(&[byte]).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                });
                let mut said = Vec::new();
                let read = tokio::time::timeout(PATIENCE, from.read_to_end(&mut said)).await;
                drip.abort();
                assert!(read.is_ok(), "the {name} port bears with it");
            }));
        }
    }
    scene.check().await;
    for slow in slow {
        slow.await.expect("each is hung up on");
    }
    scene.check().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_no_ping_is_hung_up_on() {
    let mut scene = Scene::start().await;
    let node = scene.cluster.node(0);
    // As if the other end had vanished without a word: its system still acknowledges what is sent, and nobody reads it.
    let mut vanished = Vec::new();
    for address in [node.client_address(), node.peer_address()] {
        let mut connection = http2::connect(address).await;
        let call = http2::frame(http2::HEADERS, http2::END_HEADERS, 1, &http2::call("/kvd.v1.Kv/Pipeline"));
        connection.write_all(&call).await.expect("a node that listens");
        vanished.push(connection);
    }
    vanished.push(TcpStream::connect(node.http_address()).await.expect("a node that listens"));
    scene.check().await;
    for connection in &mut vanished {
        hung_up("a vanished client", connection).await;
    }
    scene.end().await;
}
