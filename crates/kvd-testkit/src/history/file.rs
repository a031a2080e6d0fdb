//! Histories as JSON lines: one event a line, in the order of the events.
//!
//! ```text
//! {"event":"invoke","sequence":0,"time_ns":1200,"operation":0,"process":3,"key":"a","action":{"put":{"value":"3.1"}}}
//! {"event":"note","sequence":1,"time_ns":1300,"text":"node 2 was killed"}
//! {"event":"complete","sequence":2,"time_ns":9000,"operation":0,"completion":{"unknown":"the deadline has passed"}}
//! {"event":"shard","key":"a","shard":4}
//! ```
//!
//! Keys and values are strings if they are UTF-8, else `{"hex":"00ff"}`. The operation's number pairs a completion with its
//! invocation and means nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::Path,
};

use bytes::Bytes;
use kvd_types::{Condition, Key, Revision, ShardId};
use serde::{Deserialize, Serialize};

use super::{Action, Completion, History, Moment, Note, Operation, Process};

/// A history that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file.
    #[error("can't read or write the history: {0}")]
    Io(#[from] io::Error),
    /// A line of it.
    #[error("line {line} of the history: {why}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
}

/// A condition as it is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Condition", rename_all = "snake_case")]
pub(super) enum ConditionText {
    Always,
    Absent,
    RevisionIs(Revision),
}

/// Whether a condition need not be written.
pub(super) const fn is_always(condition: &Condition) -> bool {
    matches!(condition, Condition::Always)
}

/// A line.
#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Invoke {
        sequence: u64,
        time_ns: u64,
        operation: u64,
        process: Process,
        #[serde(with = "byte_text")]
        key: Bytes,
        action: Action,
    },
    Complete {
        sequence: u64,
        time_ns: u64,
        operation: u64,
        completion: Completion,
    },
    Note {
        sequence: u64,
        time_ns: u64,
        text: String,
    },
    Shard {
        #[serde(with = "byte_text")]
        key: Bytes,
        shard: ShardId,
    },
}

impl History {
    /// Writes it, an event a line.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_to(&self, writer: impl Write) -> Result<(), FileError> {
        let mut writer = BufWriter::new(writer);
        for (_, event) in self.events() {
            serde_json::to_writer(&mut writer, &event).map_err(io::Error::from)?;
            writer.write_all(b"\n")?;
        }
        writer.flush()?;
        Ok(())
    }

    /// Writes it to a file, which it makes or replaces.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        self.write_to(File::create(path)?)
    }

    /// Reads what [`History::write_to`] wrote.
    ///
    /// # Errors
    /// The reader's; or the line that is not an event, or not one that can come there.
    pub fn read_from(reader: impl io::Read) -> Result<Self, FileError> {
        let mut builder = Builder::default();
        for (number, line) in BufReader::new(reader).lines().enumerate() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let event = serde_json::from_str(&line).map_err(|error| error.to_string());
            event
                .and_then(|event| builder.add(event))
                .map_err(|why| FileError::Line { line: number + 1, why })?;
        }
        Ok(builder.finish())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`History::read_from`].
    pub fn load(path: &Path) -> Result<Self, FileError> {
        Self::read_from(File::open(path)?)
    }

    /// Its events in order, shards last.
    fn events(&self) -> Vec<(u64, Event)> {
        let mut events = Vec::with_capacity(self.operations.len() * 2 + self.notes.len() + self.shards.len());
        for (number, operation) in (0..).zip(&self.operations) {
            let Moment { sequence, time_ns } = operation.invoked;
            let (process, key) = (operation.process, operation.key.bytes().clone());
            let action = operation.action.clone();
            events.push((
                sequence,
                Event::Invoke { sequence, time_ns, operation: number, process, key, action },
            ));
            if let Some(Moment { sequence, time_ns }) = operation.completed {
                let completion = operation.completion.clone();
                events.push((sequence, Event::Complete { sequence, time_ns, operation: number, completion }));
            }
        }
        for Note { at: Moment { sequence, time_ns }, text } in &self.notes {
            let (sequence, time_ns) = (*sequence, *time_ns);
            events.push((sequence, Event::Note { sequence, time_ns, text: text.clone() }));
        }
        events.sort_by_key(|&(sequence, _)| sequence);
        let shards = self.shards.iter();
        events.extend(
            shards.map(|(key, shard)| (u64::MAX, Event::Shard { key: key.bytes().clone(), shard: *shard })),
        );
        events
    }
}

/// A history that is being read.
#[derive(Default)]
struct Builder {
    history: History,
    /// Places of operations by their numbers in the file.
    places: BTreeMap<u64, usize>,
    sequences: BTreeSet<u64>,
}

impl Builder {
    fn add(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Invoke { sequence, time_ns, operation, process, key, action } => {
                let invoked = self.moment(sequence, time_ns)?;
                if self.places.insert(operation, self.history.operations.len()).is_some() {
                    return Err(format!("operation {operation} is invoked a second time"));
                }
                let key = Key::new(key).map_err(|error| error.message)?;
                let completion = Completion::Unknown("the history ended before".to_owned());
                let operation = Operation { process, key, action, invoked, completed: None, completion };
                self.history.operations.push(operation);
            }
            Event::Complete { sequence, time_ns, operation, completion } => {
                let completed = self.moment(sequence, time_ns)?;
                let place = self.places.get(&operation);
                let Some(found) = place.and_then(|&place| self.history.operations.get_mut(place)) else {
                    return Err(format!("operation {operation} completes but was not invoked before"));
                };
                if found.completed.is_some() {
                    return Err(format!("operation {operation} completes a second time"));
                }
                if found.invoked.sequence >= sequence {
                    return Err(format!("operation {operation} completes before it is invoked"));
                }
                found.completed = Some(completed);
                found.completion = completion;
            }
            Event::Note { sequence, time_ns, text } => {
                let at = self.moment(sequence, time_ns)?;
                self.history.notes.push(Note { at, text });
            }
            Event::Shard { key, shard } => {
                let key = Key::new(key).map_err(|error| error.message)?;
                self.history.shards.insert(key, shard);
            }
        }
        Ok(())
    }

    fn moment(&mut self, sequence: u64, time_ns: u64) -> Result<Moment, String> {
        if self.sequences.insert(sequence) {
            Ok(Moment { sequence, time_ns })
        } else {
            Err(format!("sequence number {sequence} is there a second time"))
        }
    }

    fn finish(mut self) -> History {
        self.history.operations.sort_by_key(|operation| operation.invoked.sequence);
        self.history.notes.sort_by_key(|note| note.at.sequence);
        self.history
    }
}

/// Bytes as text where they are text.
pub(super) mod byte_text {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

    /// As written.
    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    pub(in crate::history) enum Text {
        Utf8(String),
        Hex { hex: String },
    }

    impl From<&Bytes> for Text {
        fn from(bytes: &Bytes) -> Self {
            match std::str::from_utf8(bytes) {
                Ok(text) => Self::Utf8(text.to_owned()),
                Err(_) => Self::Hex { hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect() },
            }
        }
    }

    impl TryFrom<Text> for Bytes {
        type Error = String;

        fn try_from(text: Text) -> Result<Self, Self::Error> {
            let hex = match text {
                Text::Utf8(text) => return Ok(text.into()),
                Text::Hex { hex } => hex,
            };
            let digit = |digit: u8| {
                let digit = char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                digit.ok_or_else(|| format!("{hex} is not hexadecimal"))
            };
            let byte = |pair: &[u8]| match pair {
                [high, low] => Ok(digit(*high)? << 4 | digit(*low)?),
                _ => Err(format!("{hex} has an odd number of digits")),
            };
            hex.as_bytes().chunks(2).map(byte).collect()
        }
    }

    pub(in crate::history) fn serialize<S: Serializer>(
        bytes: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Text::from(bytes).serialize(serializer)
    }

    pub(in crate::history) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        Text::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
    }
}

/// The same, where there may be none.
pub(super) mod optional_byte_text {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

    use super::byte_text::Text;

    #[expect(clippy::ref_option, reason = "the signature that serde wants")]
    pub(in crate::history) fn serialize<S: Serializer>(
        bytes: &Option<Bytes>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(Text::from).serialize(serializer)
    }

    pub(in crate::history) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Bytes>, D::Error> {
        let text = Option::<Text>::deserialize(deserializer)?;
        text.map(|text| text.try_into().map_err(D::Error::custom)).transpose()
    }
}
