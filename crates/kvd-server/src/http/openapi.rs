//! `GET /openapi.json`: the REST interface, described for machines (OpenAPI 3.1).
//!
//! It is made of the handlers and of the types that they read and write, so that it can't fall behind them; a test compares it
//! with the table of routes, and another one with the file `openapi.json` of this crate, where a review sees what a change
//! does to whoever uses the interface.

use std::sync::LazyLock;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use utoipa::{
    OpenApi,
    openapi::{
        Content, Header, Object, Ref, RefOr, Required, ResponseBuilder, Type,
        path::{Operation, ParameterBuilder, ParameterIn, PathItem},
    },
};

use super::{
    answer::{Failure, SESSION_HEADER},
    rest,
    v1::{kv, leases, ranges, txn, watch},
};

#[derive(OpenApi)]
#[openapi(
    info(title = "kvd", description = "A sharded, replicated, strongly consistent key-value store."),
    paths(
        rest::put,
        rest::get,
        rest::delete,
        kv::get,
        kv::put,
        kv::delete,
        kv::batch_get,
        txn::txn,
        ranges::scan,
        ranges::delete_range,
        watch::watch,
        leases::grant,
        leases::list,
        leases::look,
        leases::revoke,
        leases::keep_alive,
        super::livez,
        super::readyz,
        super::show_metrics,
        show,
    ),
    components(schemas(Failure))
)]
struct Description;

/// What any request may be answered with, beside what its handler says.
const FAILURES: [(StatusCode, &str); 6] = [
    (StatusCode::BAD_REQUEST, "The request makes no sense, or is over a limit"),
    (StatusCode::CONFLICT, "The state of the cluster or of the lease does not allow it"),
    (StatusCode::TOO_MANY_REQUESTS, "There is too much to do: retry after the pause that the header says"),
    (StatusCode::INTERNAL_SERVER_ERROR, "A bug, or damaged data"),
    (StatusCode::SERVICE_UNAVAILABLE, "There is no quorum or leader just now: retry"),
    (StatusCode::GATEWAY_TIMEOUT, "The time was over; with outcome unknown a write may have been applied"),
];
/// What a request with a body may be answered with.
const BODY_FAILURES: [(StatusCode, &str); 2] = [
    (StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time"),
    (StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
];

/// The description.
pub(super) fn description() -> utoipa::openapi::OpenApi {
    let mut description = Description::openapi();
    // Part of the protocol, not of what runs it: it changes with what is described.
    "1".clone_into(&mut description.info.version);
    for item in description.paths.paths.values_mut() {
        for operation in operations(item) {
            let is_about_data = !operation.tags.iter().flatten().any(|tag| tag == "node");
            let has_body = operation.request_body.is_some();
            let of_data = FAILURES.iter().filter(|_| is_about_data);
            if is_in_session(operation) {
                add_session_header(operation);
            }
            for (status, why) in of_data.chain(BODY_FAILURES.iter().filter(|_| has_body)) {
                add_failure(operation, *status, why);
            }
        }
    }
    description
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, .. } = item;
    [get, put, post, delete].into_iter().flatten()
}

/// Whether it takes what a client has seen, and says what it has then.
fn is_in_session(operation: &Operation) -> bool {
    operation
        .parameters
        .iter()
        .flatten()
        .any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.name == "session"))
}

fn add_session_header(operation: &mut Operation) {
    let parameter = ParameterBuilder::new()
        .name(SESSION_HEADER)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("What has been seen, like the parameter `session`; both together count"))
        .schema(Some(Object::with_type(Type::String)))
        .build();
    operation.parameters.get_or_insert_default().push(RefOr::T(parameter));
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            let header = Header::new(Object::with_type(Type::String));
            response.headers.insert(SESSION_HEADER.to_owned(), RefOr::T(header));
        }
    }
}

fn add_failure(operation: &mut Operation, status: StatusCode, why: &str) {
    let failure = Content::new(Some(Ref::from_schema_name("Failure")));
    let mut response = ResponseBuilder::new().description(why).content("application/json", failure);
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response = response.header("Retry-After", Header::new(Object::with_type(Type::Integer)));
    }
    let response = response.build();
    let responses = &mut operation.responses.responses;
    responses.entry(status.as_u16().to_string()).or_insert(RefOr::T(response));
}

/// Describes this interface.
#[utoipa::path(
    get, path = "/openapi.json", tag = "node", operation_id = "openapi",
    responses((status = 200, description = "This document", body = Object, content_type = "application/json")),
)]
pub(super) async fn show() -> Response {
    static TEXT: LazyLock<Result<Bytes, serde_json::Error>> =
        LazyLock::new(|| serde_json::to_vec(&description()).map(Bytes::from));
    match &*TEXT {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text.clone()).into_response(),
        Err(error) => Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            format!("can't write the description: {error}"),
        )
        .into_response(),
    }
}
