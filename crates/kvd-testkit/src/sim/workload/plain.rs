//! Requests as a client without our library makes them: once, to any node, with no session, under a deadline that is often
//! too short.
//!
//! The library hides what a server says of one try behind the next one. Here each answer is taken at its word: a write that was
//! said not to have been applied must never be seen.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use kvd_client::{Error, Key, Result};
use kvd_proto::{
    error::from_status,
    net::Dialer,
    operation::{reply_from_wire, request_to_wire},
    v1::{Operation, PipelineRequest, kv_client::KvClient, operation_result::Response as WireReply},
};
use kvd_types::{
    Condition, Lifetime, Outcome, Write, WriteOp,
    operation::{Request, Response},
};
use rand::{RngExt as _, rngs::StdRng};
use tonic::transport::{Channel, Endpoint};

use super::{Workload, key};
use crate::{
    history::{Action, Answer, Completion, Process, RecordingClient},
    sim::network::SimDial,
};

const KEYS: u64 = 4;
const KEY_LASTS: Duration = Duration::from_secs(5);
/// How long an answer is waited for: longer than any deadline, so that the server's own word is heard.
const PATIENCE: Duration = Duration::from_secs(4);
const KEEP_ALIVE: Duration = Duration::from_secs(1);

pub(crate) struct Plain {
    process: Process,
    written: u64,
    channels: BTreeMap<String, Channel>,
}

impl Plain {
    pub(crate) const fn new(process: Process) -> Self {
        Self { process, written: 0, channels: BTreeMap::new() }
    }

    async fn act(&mut self, client: &RecordingClient, rng: &mut StdRng) -> Result<()> {
        let key = Key::new(key("p", rng.random_range(0..KEYS), KEY_LASTS))?;
        let (request, action) = self.draw(&key, rng);
        let deadline_ms = rng.random_range(1..1500);
        let nodes = client.client().topology();
        let Some(node) = nodes.nodes.get(rng.random_range(0..nodes.nodes.len().max(1))) else {
            return Err(Error::unavailable("no node is known"));
        };
        let address = node.client_address.clone();

        let invocation = client.recorder().invoke(self.process, key, action.clone());
        let answered = self.ask(address, request, deadline_ms).await;
        let completion = match &answered {
            Ok(Response::Got(found)) => Completion::Ok(Answer::got(found.as_ref().map(|(_, record)| record))),
            Ok(Response::Put(Outcome::Refused(why)) | Response::Deleted(Outcome::Refused(why))) => {
                Completion::Fail(format!("{why:?}"))
            }
            Ok(Response::Put(outcome) | Response::Deleted(outcome)) => {
                match Answer::of_write(&action, outcome) {
                    Some(answer) => Completion::Ok(answer),
                    None => Completion::Unknown(format!("answered with {outcome:?}")),
                }
            }
            Ok(other) => Completion::Unknown(format!("answered with {other:?}")),
            Err(error) => Completion::of_error(&action, error),
        };
        invocation.complete(completion);
        answered.map(drop)
    }

    fn draw(&mut self, key: &Key, rng: &mut StdRng) -> (Request, Action) {
        let key = key.clone();
        let condition = if rng.random_bool(0.2) { Condition::Absent } else { Condition::Always };
        let (op, action) = match rng.random_range(0..10) {
            0..4 => return (Request::get(key), Action::Get),
            4..9 => {
                self.written += 1;
                let value = format!("{}.{}.{:x}", self.process.0, self.written, rng.random::<u32>());
                let value = Bytes::from(value);
                let action = Action::Put { value: value.clone(), condition, want_previous: false };
                let lifetime = Lifetime::Forever;
                (WriteOp::Put { key, value, lifetime, condition, want_previous: false }, action)
            }
            _ => {
                let condition = Condition::Always;
                let action = Action::Delete { condition, want_previous: true };
                (WriteOp::Delete { key, condition, want_previous: true }, action)
            }
        };
        (Request::write(Write { session: None, op }), action)
    }

    async fn ask(&mut self, address: String, request: Request, deadline_ms: u32) -> Result<Response> {
        let mut client = KvClient::new(self.channel(address)?);
        let operation = Operation { id: 1, deadline_ms, request: Some(request_to_wire(request)) };
        let frames = stream::iter([PipelineRequest { operations: vec![operation] }]).chain(stream::pending());
        let answered = async move {
            let mut responses = client.pipeline(frames).await?.into_inner();
            Ok::<_, tonic::Status>(
                responses.message().await?.and_then(|frame| frame.results.into_iter().next()),
            )
        };
        let no_answer = || Error::unknown("there was no answer");
        let answered = tokio::time::timeout(PATIENCE, answered).await.map_err(|_elapsed| no_answer())?;
        let result = answered.map_err(|status| from_status(&status))?.ok_or_else(no_answer)?;
        let reply: WireReply = result.response.ok_or_else(no_answer)?;
        Ok(reply_from_wire(reply)?.response)
    }

    fn channel(&mut self, address: String) -> Result<Channel> {
        if let Some(channel) = self.channels.get(&address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Error::invalid(format!("{address}: {error}")))?
            .connect_timeout(KEEP_ALIVE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let channel = Dialer::new(Arc::new(SimDial)).connect_lazily(&endpoint);
        self.channels.insert(address, channel.clone());
        Ok(channel)
    }
}

impl Workload for Plain {
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>> {
        self.act(client, rng).boxed()
    }
}
