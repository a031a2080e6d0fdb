//! Merging flags, environment, file and defaults, each value with its source.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Deserialize as _;
use toml::{Table, Value};

use super::{
    Config, Problem, Problems, Source, Sources, check,
    settings::{SETTINGS, Setting, find},
};

const CONFIG_FLAG: &str = "config";
const CONFIG_VARIABLE: &str = "KVD_CONFIG";
const PREFIX: &str = "KVD_";

/// A configuration, and what there is to say about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Derived and checked.
    pub config: Config,
    /// Where each setting came from.
    pub sources: Sources,
    /// What an operator should look at.
    pub warnings: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum LoadError {
    /// The command line makes no sense, or asks for help.
    Usage(clap::Error),
    /// Settings are wrong.
    Invalid(Problems),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(f),
            Self::Invalid(problems) => problems.fmt(f),
        }
    }
}

impl std::error::Error for LoadError {}

impl Config {
    /// The configuration of a node that is started with these arguments (those after `serve`) in this environment
    /// (names and values; those that don't begin with `KVD_` are passed over). `files` reads the file named by
    /// `--config` or `KVD_CONFIG`; nothing else is read from anywhere.
    ///
    /// # Errors
    /// What is wrong with the command line, or everything that is wrong with the settings.
    pub fn from_args_and_env<A: Into<OsString> + Clone>(
        args: impl IntoIterator<Item = A>,
        env: impl IntoIterator<Item = (String, String)>,
        files: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Loaded, LoadError> {
        let command = Command::new("serve").no_binary_name(true).args(flags());
        let matches = command.try_get_matches_from(args).map_err(LoadError::Usage)?;
        from_matches(&matches, env, files).map_err(LoadError::Invalid)
    }
}

/// A flag for each setting that may have one, and `--config`.
#[must_use]
pub fn flags() -> Vec<Arg> {
    let config = Arg::new(CONFIG_FLAG)
        .long(CONFIG_FLAG)
        .value_name("FILE")
        .help("TOML file with settings [env: KVD_CONFIG]");
    let of_setting = |setting: &'static Setting| {
        let flag = setting.flag?;
        let help = format!("{} [env: {}]", setting.help, setting.variable());
        // The last one counts, so that a script can append to a command line.
        Some(Arg::new(setting.path).long(flag).value_name("VALUE").action(ArgAction::Append).help(help))
    };
    std::iter::once(config).chain(SETTINGS.iter().filter_map(of_setting)).collect()
}

/// The configuration that parsed flags (of [`flags`]), an environment and a file make.
///
/// # Errors
/// Everything that is wrong with the settings.
pub fn from_matches(
    matches: &ArgMatches,
    env: impl IntoIterator<Item = (String, String)>,
    files: impl Fn(&Path) -> io::Result<String>,
) -> Result<Loaded, Problems> {
    let env: BTreeMap<String, String> =
        env.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    let mut layers = Layers::default();
    if let Some((path, source)) = config_path(matches, &env) {
        layers.add_file(&path, &source, files);
    }
    layers.add_environment(&env);
    layers.add_flags(matches);
    layers.finish()
}

fn config_path(matches: &ArgMatches, env: &BTreeMap<String, String>) -> Option<(PathBuf, Source)> {
    if let Some(path) = matches.get_one::<String>(CONFIG_FLAG) {
        return Some((path.into(), Source::Flag("--config".to_owned())));
    }
    let path = env.get(CONFIG_VARIABLE).filter(|path| !path.is_empty())?;
    Some((path.into(), Source::Environment(CONFIG_VARIABLE.to_owned())))
}

/// The values given so far, the stronger source having replaced the weaker.
#[derive(Default)]
struct Layers {
    given: BTreeMap<&'static str, Value>,
    sources: Sources,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Layers {
    fn add_file(&mut self, path: &Path, source: &Source, files: impl Fn(&Path) -> io::Result<String>) {
        let shown = path.display().to_string();
        let mut problem = |message| {
            let (setting, value) = (CONFIG_FLAG.to_owned(), Some(shown.clone()));
            self.problems.push(Problem { setting, value, source: source.clone(), message });
        };
        match files(path).map(|text| text.parse::<Table>()) {
            Err(error) => problem(format!("can't be read: {error}; name a file that this process may read")),
            Ok(Err(error)) => problem(format!("is not TOML: {error}")),
            Ok(Ok(table)) => self.add_table("", table, &Source::File(path.to_owned())),
        }
    }

    fn add_table(&mut self, prefix: &str, table: Table, source: &Source) {
        for (name, value) in table {
            let path = format!("{prefix}{name}");
            let inner = format!("{path}.");
            let is_section = SETTINGS.iter().any(|setting| setting.path.starts_with(&inner));
            match (find(&path), value) {
                (Some(setting), value) => self.add(setting, source.clone(), Ok(value)),
                (None, Value::Table(table)) if is_section => self.add_table(&inner, table, source),
                (None, _) if is_section => {
                    self.unknown(path.clone(), source.clone(), format!("is a section: write [{path}]"));
                }
                (None, _) => {
                    let message = format!("there is no such setting{}", suggestion(&path, paths()));
                    self.unknown(path, source.clone(), message);
                }
            }
        }
    }

    fn add_environment(&mut self, env: &BTreeMap<String, String>) {
        let variables: BTreeMap<String, &Setting> =
            SETTINGS.iter().map(|setting| (setting.variable(), setting)).collect();
        for (name, text) in env {
            if let Some(setting) = variables.get(name) {
                // An empty variable is one that a template left empty: as good as unset.
                if !text.is_empty() {
                    self.add(setting, Source::Environment(name.clone()), Err(text));
                }
            } else if name != CONFIG_VARIABLE && !is_service_link(name) {
                match nearest(name, variables.keys().map(String::as_str)) {
                    Some(near) => self.unknown(
                        name.clone(),
                        Source::Environment(name.clone()),
                        format!("there is no such setting; {near} was probably meant (or unset it)"),
                    ),
                    None => self.warnings.push(format!(
                        "the environment variable {name} is not a setting of kvd; it is ignored"
                    )),
                }
            }
        }
    }

    fn add_flags(&mut self, matches: &ArgMatches) {
        for setting in SETTINGS {
            let Some(flag) = setting.flag else { continue };
            if let Some(text) = matches.get_many::<String>(setting.path).and_then(Iterator::last) {
                self.add(setting, Source::Flag(format!("--{flag}")), Err(text));
            }
        }
    }

    /// Takes a value, or a text that stands for one.
    fn add(&mut self, setting: &'static Setting, source: Source, value: Result<Value, &String>) {
        let shown = match &value {
            Ok(value) => value.to_string(),
            Err(text) => format!("\"{text}\""),
        };
        let accepted = match value {
            Ok(value) => setting.kind.accept(value),
            Err(text) => setting.kind.parse(text),
        };
        match accepted {
            Ok(value) => {
                self.given.insert(setting.path, value);
                self.sources.insert(setting.path, source);
            }
            Err(message) => {
                let value = (!setting.is_secret()).then_some(shown);
                self.problems.push(Problem { setting: setting.path.to_owned(), value, source, message });
            }
        }
    }

    fn unknown(&mut self, setting: String, source: Source, message: String) {
        self.problems.push(Problem { setting, value: None, source, message });
    }

    fn finish(mut self) -> Result<Loaded, Problems> {
        if !self.problems.is_empty() {
            return Err(Problems(self.problems));
        }
        let mut config = self.build().map_err(|message| {
            Problems(vec![Problem {
                setting: "configuration".to_owned(),
                value: None,
                source: Source::Default,
                message,
            }])
        })?;
        config.derive();
        let problems = check::relations(&config, &self.sources);
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        self.warnings.extend(check::warnings(&config));
        Ok(Loaded { config, sources: self.sources, warnings: self.warnings })
    }

    /// The defaults with the given values in their places. Each value was accepted by its kind, so this doesn't fail.
    fn build(&mut self) -> Result<Config, String> {
        let mut table = Table::try_from(Config::default()).map_err(|error| error.to_string())?;
        for (path, value) in std::mem::take(&mut self.given) {
            match path.split_once('.') {
                None => drop(table.insert(path.to_owned(), value)),
                Some((section, name)) => {
                    let section = table.get_mut(section).and_then(Value::as_table_mut);
                    section.ok_or_else(|| format!("{path} has no section"))?.insert(name.to_owned(), value);
                }
            }
        }
        Config::deserialize(table).map_err(|error| error.to_string())
    }
}

fn paths() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|setting| setting.path)
}

fn suggestion(name: &str, known: impl Iterator<Item = &'static str>) -> String {
    nearest(name, known).map_or_else(
        || "; `kvd serve --help` lists them all".to_owned(),
        |near| format!("; {near} was probably meant"),
    )
}

/// The known name that is so few edits away that the other one must be a slip: two, or one of a short name.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|candidate| (edit_distance(name, candidate), candidate)).min()?;
    let letters = name.strip_prefix(PREFIX).unwrap_or(name).chars().count();
    (near.0 <= (letters / 3).clamp(1, 2)).then_some(near.1)
}

/// Insertions, deletions and replacements between two texts (Levenshtein), by rows of the usual table.
fn edit_distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (index, a) in from.chars().enumerate() {
        let mut left = index + 1;
        let mut diagonal = index;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (b, cell) in to.chars().zip(row.iter_mut().skip(1)) {
            let cost = usize::from(a != b);
            left = (diagonal + cost).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, left);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Whether a variable is one that Kubernetes sets in every pod for a Service named `kvd` or `kvd-…`:
/// `…SERVICE_HOST`, `…SERVICE_PORT`, `…SERVICE_PORT_<name>`, `…PORT`, `…PORT_<n>_<protocol>` and that with `_PROTO`,
/// `_PORT` and `_ADDR`.
pub(super) fn is_service_link(variable: &str) -> bool {
    let Some(rest) = variable.strip_prefix(PREFIX) else { return false };
    let padded = format!("_{rest}");
    if padded.ends_with("_SERVICE_HOST")
        || padded.ends_with("_SERVICE_PORT")
        || padded.contains("_SERVICE_PORT_")
    {
        return true;
    }
    if padded.ends_with("_PORT") && !padded.contains("_PORT_") {
        return true;
    }
    padded.match_indices("_PORT_").any(|(at, matched)| {
        let mut parts = padded[at + matched.len()..].split('_');
        let number = parts.next().is_some_and(|number| number.parse::<u16>().is_ok());
        let protocol = parts.next().is_some_and(|protocol| matches!(protocol, "TCP" | "UDP" | "SCTP"));
        let tail = matches!((parts.next(), parts.next()), (None | Some("PROTO" | "PORT" | "ADDR"), None));
        number && protocol && tail
    })
}
