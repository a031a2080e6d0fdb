//! The REST interface without a port, for `kvd-fuzz`.

use std::sync::Arc;

use http::{Request, Response};

use crate::{http::answer_without_port, store::Store};

/// What a request is answered with.
pub async fn answer(store: Arc<dyn Store>, request: Request<Vec<u8>>) -> Response<Vec<u8>> {
    answer_without_port(store, request).await
}
