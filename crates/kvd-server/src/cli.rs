//! The command line.

use std::{
    io::{self, Write as _},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use kvd_server::{
    config::{self, Config, Loaded, Problems},
    local::{self, Directory, Plan},
};

mod serve;
mod signals;

/// Something failed while running.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong; nothing was started.
const REFUSED: u8 = 2;

/// The whole command line.
pub(super) fn command() -> Command {
    let serve = Command::new("serve").about("Run a node").args(config::flags()).arg(
        Arg::new(local::STOP_ON_STDIN_CLOSE)
            .long(local::STOP_ON_STDIN_CLOSE)
            .action(ArgAction::SetTrue)
            .hide(true)
            .help("Stop when standard input closes"),
    );
    let config = Command::new("config")
        .about("Look at a configuration")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("check").about("Say what is wrong with it").args(config::flags()))
        .subcommand(
            Command::new("show").about("Print it whole as TOML, secrets redacted").args(config::flags()),
        );
    Command::new("kvd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A strongly consistent, sharded, replicated key-value store")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve)
        .subcommand(local_command())
        .subcommand(config)
        .subcommand(Command::new("version").about("Print the version"))
}

fn local_command() -> Command {
    Command::new("local")
        .about("Run a whole cluster on this machine")
        .arg(
            Arg::new("nodes")
                .long("nodes")
                .value_name("COUNT")
                .value_parser(value_parser!(u16))
                .help("Nodes [default: as many as the directory has, or 3]"),
        )
        .arg(
            Arg::new("data-dir")
                .long("data-dir")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .default_value("./kvd-data")
                .help("Where data, logs and pid files go"),
        )
        .arg(
            Arg::new("base-port")
                .long("base-port")
                .value_name("PORT")
                .value_parser(value_parser!(u16))
                .default_value("7400")
                .help("Node i has gRPC on PORT + 10 (i - 1), peers on the next port, HTTP on the one after"),
        )
        .arg(
            Arg::new("shards").long("shards").value_name("COUNT").value_parser(value_parser!(u32)).help(
                "Shards of a new cluster; unless told otherwise about as many as this machine has cores",
            ),
        )
        .arg(
            Arg::new("replication-factor")
                .long("replication-factor")
                .value_name("COUNT")
                .value_parser(value_parser!(u32))
                .help("Replicas of each shard of a new cluster: 1, 3 or 5"),
        )
        .arg(
            Arg::new("restart")
                .long("restart")
                .action(ArgAction::SetTrue)
                .help("Start a node again when its process has died"),
        )
}

/// Does what the command line says.
pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    match matches.subcommand() {
        Some(("serve", matches)) => match load(matches) {
            Ok(loaded) => serve::run(&loaded, matches.get_flag(local::STOP_ON_STDIN_CLOSE)),
            Err(code) => code,
        },
        Some(("local", matches)) => run_local(matches),
        Some(("config", matches)) => run_config(matches),
        _ => print(&format!("kvd {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

fn run_config(matches: &ArgMatches) -> ExitCode {
    let Some((name, matches)) = matches.subcommand() else { return ExitCode::from(REFUSED) };
    let loaded = match load(matches) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    for warning in &loaded.warnings {
        complain(&format!("warning: {warning}"));
    }
    if name == "check" {
        return print("the configuration is good\n");
    }
    match loaded.config.to_toml() {
        Ok(toml) => print(&toml),
        Err(error) => {
            complain(&format!("error: the configuration can't be shown: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

fn run_local(matches: &ArgMatches) -> ExitCode {
    let options = local::Options {
        nodes: matches.get_one("nodes").copied(),
        dir: matches.get_one("data-dir").cloned().unwrap_or_default(),
        base_port: matches.get_one("base-port").copied().unwrap_or(local::BASE_PORT_DEFAULT),
        shards: matches.get_one("shards").copied(),
        replication_factor: matches.get_one("replication-factor").copied(),
        restart: matches.get_flag("restart"),
        cores: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    };
    let planned = Directory::lock(&options.dir).and_then(|directory| {
        let plan = Plan::new(&options, directory.path(), directory.existing_nodes())?;
        Ok((directory, plan))
    });
    let (directory, plan) = match planned {
        Ok(planned) => planned,
        Err(error) => {
            complain(&format!("error: {error}"));
            return ExitCode::from(REFUSED);
        }
    };
    // Found out here, once, and not by each child for itself.
    if let Some(first) = plan.nodes.first()
        && let Err(error) = Config::from_args_and_env(first.args.iter().skip(1), environment(), read_file)
    {
        complain(&format!("error: {error}"));
        return ExitCode::from(REFUSED);
    }
    let outcome = serve::block_on(None, async |stop| {
        let program = std::env::current_exe()?;
        let (mut out, mut log) = (io::stdout(), io::stderr());
        Ok(local::run(&program, &plan, &directory, stop, &mut out, &mut log).await?)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            let refused = error.downcast_ref().is_some_and(local::Error::is_refusal);
            ExitCode::from(if refused { REFUSED } else { FAILED })
        }
    }
}

fn load(matches: &ArgMatches) -> Result<Loaded, ExitCode> {
    config::from_matches(matches, environment(), read_file).map_err(|Problems(problems)| {
        for problem in problems {
            complain(&format!("error: {problem}"));
        }
        ExitCode::from(REFUSED)
    })
}

fn read_file(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

/// The environment, as far as it is text; what isn't becomes an error where it is a setting.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

/// Says something to a person; if even that can't be written, nobody is there to hear it.
fn complain(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

#[cfg(test)]
mod tests;
