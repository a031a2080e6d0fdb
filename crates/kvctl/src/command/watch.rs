//! `watch`.
//!
//! Changes come in batches, each with a token that covers it. A watch that stops within a batch, because it has told as many as
//! it should, can only name the token from before it: to go on there tells the first ones of the batch again, and that is said.

use futures::StreamExt as _;
use kvd_client::{Client, Event, Revision, Token, WatchItem, WatchStream};

use super::{
    Stdout, child,
    interrupt::Interrupts,
    select::{Alone, Selection},
    tell,
};
use crate::{
    cli::{Kind, Watch},
    failure::{Failure, Result},
};

pub(super) async fn watch(client: &Client, arguments: &Watch, output: &mut Stdout) -> Result<()> {
    let mut interrupts = Interrupts::new()?;
    let watch = request(client, arguments)?;
    let mut teller = Teller { arguments, told: 0, covered: None, beyond: 0, failed: 0 };
    let result = teller.run(watch.stream(), &mut interrupts, output).await;
    let result = result.and(output.flush().map_err(Failure::from));
    // Where the output has failed, nobody knows what of it was seen.
    if !matches!(result, Err(Failure::Io(_))) {
        teller.end();
    }
    result?;
    match teller.failed {
        0 => Ok(()),
        failed => Err(Failure::Command {
            message: format!("the command failed for {failed} of {} changes", teller.told),
            code: 1,
        }),
    }
}

fn request(client: &Client, arguments: &Watch) -> Result<kvd_client::Watch> {
    let mut watch = Selection::new(&arguments.keys, Alone::Key)?.watch(client);
    if let Some(revision) = arguments.rev.filter(|&revision| revision > 0) {
        // The first one told is at this revision.
        watch = watch.after(Revision(revision - 1));
    }
    if let Some(token) = &arguments.resume {
        watch = watch.resume(token.parse()?);
    }
    if arguments.prev_kv {
        watch = watch.previous();
    }
    if arguments.filter.contains(&Kind::Put) {
        watch = watch.no_puts();
    }
    if arguments.filter.contains(&Kind::Delete) {
        watch = watch.no_deletes();
    }
    if let Some(interval) = arguments.progress {
        watch = watch.progress_every(interval);
    }
    Ok(watch)
}

struct Teller<'a> {
    arguments: &'a Watch,
    /// Changes that were told.
    told: u64,
    /// Goes on after the batches that were told whole.
    covered: Option<Token>,
    /// Changes that were told since.
    beyond: u64,
    /// Changes for which the command failed.
    failed: u64,
}

impl Teller<'_> {
    /// Tells what comes, until it is enough or interrupted.
    async fn run(
        &mut self,
        mut changes: WatchStream,
        interrupts: &mut Interrupts,
        output: &mut Stdout,
    ) -> Result<()> {
        loop {
            let item = tokio::select! {
                item = changes.next() => item,
                _ = interrupts.next() => return Ok(()),
            };
            let Some(item) = item else { return Ok(()) };
            if self.batch(item?, interrupts, output).await? {
                return Ok(());
            }
        }
    }

    /// Tells a batch; whether it is enough.
    async fn batch(
        &mut self,
        item: WatchItem,
        interrupts: &mut Interrupts,
        output: &mut Stdout,
    ) -> Result<bool> {
        let last = item.events.len().saturating_sub(1);
        for (place, event) in item.events.iter().enumerate() {
            let is_last = place == last;
            output.event(event, is_last.then_some(&item.token))?;
            self.told += 1;
            self.beyond += 1;
            let mut is_interrupted = false;
            if !self.arguments.command.is_empty() {
                output.flush()?;
                is_interrupted = self.run_command(event, interrupts).await?;
            }
            // Not before its command has run: whoever goes on from the token would miss that.
            if is_last {
                self.cover(&item.token);
            }
            if is_interrupted || self.arguments.count.is_some_and(|count| self.told >= count) {
                return Ok(true);
            }
        }
        self.cover(&item.token);
        if item.progress && self.arguments.progress.is_some() && !output.progress(&item.token)? {
            tell(&format!("nothing was missed up to here; to go on: --resume {}", item.token));
        }
        output.flush()?;
        Ok(false)
    }

    fn cover(&mut self, token: &Token) {
        self.covered = Some(token.clone());
        self.beyond = 0;
    }

    /// Runs the command for a change; whether kvctl was told to end meanwhile.
    async fn run_command(&mut self, event: &Event, interrupts: &mut Interrupts) -> Result<bool> {
        let mut command = child::command(&self.arguments.command)?;
        let mut left_out = Vec::new();
        let mut set = |name: &'static str, bytes: Option<&[u8]>| {
            let Some(bytes) = bytes else {
                command.env_remove(name);
                return;
            };
            if !child::set(&mut command, name, bytes) {
                left_out.push(name);
            }
        };
        set("KVD_WATCH_EVENT_TYPE", Some(if event.record.is_some() { b"PUT" } else { b"DELETE" }));
        set("KVD_WATCH_KEY", Some(event.key.as_bytes()));
        set("KVD_WATCH_VALUE", event.record.as_ref().map(|record| &record.value[..]));
        set("KVD_WATCH_REVISION", Some(event.revision.to_string().as_bytes()));
        set("KVD_WATCH_PREV_VALUE", event.previous.as_ref().map(|record| &record.value[..]));
        if !left_out.is_empty() {
            tell(&format!(
                "kvctl: {} of key {} is left out: no variable can hold it",
                left_out.join(", "),
                event.key
            ));
        }
        let ended = child::wait(&mut child::start(&mut command)?, interrupts).await?;
        if !ended.status.success() {
            self.failed += 1;
            tell(&format!("kvctl: the command for key {} failed: {}", event.key, ended.status));
        }
        Ok(ended.interrupted)
    }

    /// Says how to go on.
    fn end(&self) {
        let Some(token) = &self.covered else { return };
        match self.beyond {
            0 => tell(&format!("to go on: --resume {token}")),
            1 => tell(&format!("to go on, with the last change again: --resume {token}")),
            beyond => tell(&format!("to go on, with the last {beyond} changes again: --resume {token}")),
        }
    }
}
