//! Whether nodes are ready, asked of their HTTP ports.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::NodePlan;

const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The most of an answer that is read.
const ANSWER_BYTES_MAX: u64 = 16 << 10;

/// Waits until every node says that it is ready, all in one round.
pub(super) async fn all(nodes: &[NodePlan]) {
    while !missing(nodes).await.is_empty() {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// The nodes that aren't ready, each with its reason.
pub(super) async fn missing(nodes: &[NodePlan]) -> Vec<(u16, String)> {
    let asked = nodes.iter().map(|node| async {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask(node.http)).await;
        let reason = match answer {
            Ok(Ok(None)) => return None,
            Ok(Ok(Some(reason))) => reason,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        Some((node.number, reason))
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

/// Nothing if the node is ready, else what it says.
async fn ask(address: SocketAddr) -> std::io::Result<Option<String>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\nhost: kvd\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let is_ready = head.split(' ').nth(1) == Some("200");
    Ok((!is_ready).then(|| body.lines().skip(1).collect::<Vec<_>>().join("; ")))
}
