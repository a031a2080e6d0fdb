//! The client library, with a record of all that it does.

use bytes::Bytes;
use kvd_client::{Client, Conditional, DeleteResult, IntoBytes, PutResult};
use kvd_types::{Condition, Error, Key, Record, Result, Revision};

use super::{Action, Answer, Completion, Process, Recorder, Version};

/// A client whose operations are recorded. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RecordingClient {
    client: Client,
    recorder: Recorder,
    process: Process,
}

impl RecordingClient {
    /// Records what a client does as what this process did.
    #[must_use]
    pub const fn new(client: Client, recorder: Recorder, process: Process) -> Self {
        Self { client, recorder, process }
    }

    /// The same client as another process.
    #[must_use]
    pub fn process(&self, process: Process) -> Self {
        Self { process, ..self.clone() }
    }

    /// The client, for what is not recorded. It must not change any key that is in the history.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Where it records.
    #[must_use]
    pub const fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Reads a key, linearizably.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get(&self, key: impl IntoBytes) -> Result<Option<Record>> {
        let key = Key::new(key.into_bytes())?;
        let invocation = self.recorder.invoke(self.process, key.clone(), Action::Get);
        let result = self.client.get(&key).await;
        invocation.complete(match &result {
            Ok(found) => Completion::Ok(Answer::got(found.as_ref())),
            Err(error) => Completion::of_error(&Action::Get, error),
        });
        result
    }

    /// Reads many keys: recorded as a get of each, all at the same time.
    ///
    /// # Errors
    /// As [`Client::batch_get`].
    pub async fn batch_get<K: IntoBytes>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Record>>> {
        let keys = keys.into_iter().map(|key| Key::new(key.into_bytes())).collect::<Result<Vec<Key>>>()?;
        let invocations: Vec<_> =
            keys.iter().map(|key| self.recorder.invoke(self.process, key.clone(), Action::Get)).collect();
        let result = self.client.batch_get(&keys).await;
        for (place, invocation) in invocations.into_iter().enumerate() {
            invocation.complete(match &result {
                Ok(found) => Completion::Ok(Answer::got(found.get(place).and_then(Option::as_ref))),
                Err(error) => Completion::of_error(&Action::Get, error),
            });
        }
        result
    }

    /// Sets a key.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn put(&self, key: impl IntoBytes, value: impl IntoBytes) -> Result<PutResult> {
        unconditional(self.put_if(key, value, Condition::Always, false).await?)
    }

    /// Sets a key that does not exist. Asks for the current value, should the condition fail.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn put_if_absent(
        &self,
        key: impl IntoBytes,
        value: impl IntoBytes,
    ) -> Result<Conditional<PutResult>> {
        self.put_if(key, value, Condition::Absent, true).await
    }

    /// Sets a key whose current version was written at this revision. Asks for the version before.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn put_if_revision(
        &self,
        key: impl IntoBytes,
        value: impl IntoBytes,
        revision: Revision,
    ) -> Result<Conditional<PutResult>> {
        self.put_if(key, value, Condition::RevisionIs(revision), true).await
    }

    /// Sets a key on any condition.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn put_if(
        &self,
        key: impl IntoBytes,
        value: impl IntoBytes,
        condition: Condition,
        want_previous: bool,
    ) -> Result<Conditional<PutResult>> {
        let (key, value) = (Key::new(key.into_bytes())?, value.into_bytes());
        let action = Action::Put { value: value.clone(), condition, want_previous };
        let invocation = self.recorder.invoke(self.process, key.clone(), action.clone());
        let result = self.send_put(&key, value, condition, want_previous).await;
        invocation.complete(match &result {
            Ok(Conditional::Done(put)) => Completion::Ok(Answer::Put {
                revision: put.revision,
                create_revision: put.create_revision,
                version: put.version,
                previous: put.previous.as_ref().map(Version::from),
            }),
            Ok(Conditional::Failed { current }) => {
                Completion::Ok(Answer::condition_failed(&action, current.as_ref()))
            }
            Err(error) => Completion::of_error(&action, error),
        });
        result
    }

    async fn send_put(
        &self,
        key: &Key,
        value: Bytes,
        condition: Condition,
        want_previous: bool,
    ) -> Result<Conditional<PutResult>> {
        let mut put = self.client.put(key, value);
        if want_previous {
            put = put.return_previous();
        }
        match condition {
            Condition::Always => put.await.map(Conditional::Done),
            Condition::Absent => put.if_absent().await,
            Condition::RevisionIs(revision) => put.if_revision(revision).await,
        }
    }

    /// Removes a key.
    ///
    /// # Errors
    /// As [`Client::delete`].
    pub async fn delete(&self, key: impl IntoBytes) -> Result<DeleteResult> {
        unconditional(self.delete_if(key, None, true).await?)
    }

    /// Removes a key whose current version was written at this revision. Asks for the version before.
    ///
    /// # Errors
    /// As [`Client::delete`].
    pub async fn delete_if_revision(
        &self,
        key: impl IntoBytes,
        revision: Revision,
    ) -> Result<Conditional<DeleteResult>> {
        self.delete_if(key, Some(revision), true).await
    }

    /// Removes a key: as it is, or at a revision.
    ///
    /// # Errors
    /// As [`Client::delete`].
    pub async fn delete_if(
        &self,
        key: impl IntoBytes,
        revision: Option<Revision>,
        want_previous: bool,
    ) -> Result<Conditional<DeleteResult>> {
        let key = Key::new(key.into_bytes())?;
        let condition = revision.map_or(Condition::Always, Condition::RevisionIs);
        let action = Action::Delete { condition, want_previous };
        let invocation = self.recorder.invoke(self.process, key.clone(), action.clone());
        let result = self.send_delete(&key, revision, want_previous).await;
        invocation.complete(match &result {
            Ok(Conditional::Done(DeleteResult { revision: Some(revision), previous })) => {
                Completion::Ok(Answer::Deleted {
                    revision: *revision,
                    previous: previous.as_ref().map(Version::from),
                })
            }
            Ok(Conditional::Done(DeleteResult { revision: None, .. })) => Completion::Ok(Answer::NotFound),
            Ok(Conditional::Failed { current }) => {
                Completion::Ok(Answer::condition_failed(&action, current.as_ref()))
            }
            Err(error) => Completion::of_error(&action, error),
        });
        result
    }

    async fn send_delete(
        &self,
        key: &Key,
        revision: Option<Revision>,
        want_previous: bool,
    ) -> Result<Conditional<DeleteResult>> {
        let mut delete = self.client.delete(key);
        if want_previous {
            delete = delete.return_previous();
        }
        match revision {
            None => delete.await.map(Conditional::Done),
            Some(revision) => delete.if_revision(revision).await,
        }
    }
}

/// Without a condition: what came of the write.
fn unconditional<T>(result: Conditional<T>) -> Result<T> {
    result.done().ok_or_else(|| Error::internal("a condition failed where there was none"))
}
