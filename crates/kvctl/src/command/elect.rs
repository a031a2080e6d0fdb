//! `elect`.

use futures::TryStreamExt as _;
use kvd_client::{Client, Election};

use super::{
    Stdout,
    interrupt::{Interrupts, code_of},
    tell,
};
use crate::{
    cli::Elect,
    failure::{Failure, Result},
};

pub(super) async fn elect(client: &Client, arguments: Elect, output: &mut Stdout) -> Result<()> {
    let mut interrupts = Interrupts::new()?;
    let election = client.election(&arguments.name)?;
    match arguments.value {
        Some(value) => {
            let value = value.into_encoded_bytes();
            let leadership = tokio::select! {
                won = election.campaign(&value[..], arguments.ttl) => won?,
                signal = interrupts.next() => return Err(Failure::Exit(code_of(signal.as_raw()))),
            };
            output.elected(leadership.key(), &value, leadership.token())?;
            output.flush()?;
            tokio::select! {
                error = leadership.lost() => {
                    return Err(Failure::Lost(format!(
                        "the leadership in {} was lost: {error}", arguments.name
                    )));
                }
                _ = interrupts.next() => {}
            }
            if let Err(error) = leadership.resign().await {
                tell(&format!(
                    "kvctl: the leadership was not resigned and ends after its time to live: {error}"
                ));
            }
            Ok(())
        }
        None => listen(&election, &mut interrupts, output).await,
    }
}

async fn listen(election: &Election, interrupts: &mut Interrupts, output: &mut Stdout) -> Result<()> {
    let mut leaders = election.observe();
    loop {
        let leader = tokio::select! {
            leader = leaders.try_next() => leader?,
            _ = interrupts.next() => return Ok(()),
        };
        let Some(leader) = leader else { return Ok(()) };
        if !output.leader(leader.as_ref())? {
            tell("nobody leads");
        }
        output.flush()?;
    }
}
