//! `txn`.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Read},
    path::Path,
};

use kvd_client::Client;
use kvd_types::{Txn, limits::REQUEST_BYTES_MAX};

use super::{Stdout, open, tell};
use crate::{
    cli::{AckBy, TxnArgs},
    failure::{Failure, Result},
    script::{Parser, Part, from_json, from_text, to_request},
};

/// Longest transaction as it is written, in bytes: the largest request with every byte escaped.
const SCRIPT_BYTES_MAX: u64 = REQUEST_BYTES_MAX as u64 * 6;

/// Reads the transaction.
pub(super) fn read(arguments: &TxnArgs) -> Result<Txn> {
    let from_stdin = arguments.file.as_deref().is_none_or(|path| path == Path::new("-"));
    if arguments.interactive || (from_stdin && !arguments.json && io::stdin().is_terminal()) {
        return ask();
    }
    let (name, text) = match &arguments.file {
        Some(path) if !from_stdin => (path.display().to_string(), text_of(open(path)?)?),
        _ => ("standard input".to_owned(), text_of(io::stdin().lock())?),
    };
    let txn =
        if arguments.json { from_json(&text) } else { from_text(&text).map_err(|wrong| wrong.to_string()) };
    txn.map_err(|wrong| Failure::Input(format!("{name}: {wrong}")))
}

fn text_of(input: impl Read) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    input.take(SCRIPT_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > SCRIPT_BYTES_MAX {
        return Err(Failure::Input(format!(
            "the transaction is longer than {SCRIPT_BYTES_MAX} bytes; a request has at most {REQUEST_BYTES_MAX}"
        )));
    }
    Ok(text)
}

/// Asks for each part. A line that is wrong may be written anew.
fn ask() -> Result<Txn> {
    let (mut parser, mut input) = (Parser::new(), io::stdin().lock());
    let mut asked = Part::End;
    while parser.part() != Part::End {
        if parser.part() != asked {
            asked = parser.part();
            tell(match asked {
                Part::Compares => "compares:",
                Part::Then => "success requests (get, put, del):",
                Part::Otherwise | Part::End => "failure requests (get, put, del):",
            });
        }
        let mut line = Vec::new();
        if input.by_ref().take(SCRIPT_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if let Err(wrong) = parser.line(&line) {
            tell(&format!("{}; the line was not taken", wrong.message));
        }
    }
    Ok(parser.finish())
}

pub(super) async fn txn(client: &Client, arguments: &TxnArgs, txn: Txn, output: &mut Stdout) -> Result<()> {
    let mut request = to_request(client, txn.clone());
    if arguments.ack == AckBy::All {
        request = request.ack_all();
    }
    let outcome = request.await?;
    let done = if outcome.succeeded { &txn.then } else { &txn.otherwise };
    output.txn(&outcome, done)?;
    if arguments.check && !outcome.succeeded {
        return Err(Failure::ConditionFailed("a compare did not hold".into()));
    }
    Ok(())
}
