//! What a node says over HTTP.

use std::{net::SocketAddr, time::Duration};

use reqwest::Method;

/// An answer is waited for so long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// An answer over HTTP.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The seconds after which to try again, if it names them.
    pub retry_after_s: Option<u64>,
    /// The body.
    pub body: String,
}

/// Sends a request, with a body of JSON if it isn't empty.
///
/// # Errors
/// There is no answer.
pub async fn request(
    method: Method,
    address: SocketAddr,
    path: &str,
    body: impl Into<String>,
) -> reqwest::Result<Answer> {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build()?;
    let mut request = client.request(method, format!("http://{address}{path}"));
    let body = body.into();
    if !body.is_empty() {
        request = request.header("content-type", "application/json").body(body);
    }
    let response = request.send().await?;
    let retry_after = response.headers().get("retry-after");
    Ok(Answer {
        status: response.status().as_u16(),
        retry_after_s: retry_after.and_then(|value| value.to_str().ok()?.parse().ok()),
        body: response.text().await?,
    })
}
