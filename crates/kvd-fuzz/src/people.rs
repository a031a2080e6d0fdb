//! What people write: requests of the REST interface, configuration files, lines to import.

use base64::Engine as _;
use bytes::Bytes;
use kvd_server::config::{Config, LoadError};
use kvd_types::Key;

pub mod rest;

/// The lines of kvctl's imports. A program has no library, so its source is read a second time here.
#[path = "../../kvctl/src/line.rs"]
mod line;

/// A configuration file. What is understood is shown to people as such a file again; that must be understood alike.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let load = |text: &str| {
        Config::from_args_and_env(["--config", "kvd.toml"], [], |_path| Ok(text.to_owned()))
            .map(|loaded| loaded.config)
    };
    let config = match load(text) {
        Ok(config) => config,
        Err(LoadError::Invalid(problems)) => {
            assert!(!problems.to_string().is_empty(), "a refusal says why");
            return;
        }
        Err(LoadError::Usage(error)) => panic!("a file is not a command line: {error}"),
    };
    let shown = config.to_toml().expect("what came from TOML can be written as TOML");
    let again = load(&shown).unwrap_or_else(|error| panic!("{shown}\nis not understood: {error}"));
    let secret = config.cluster_token.clone();
    assert_eq!(Config { cluster_token: secret, ..again }, config, "{shown}");
}

/// A few files.
#[must_use]
pub fn config_seeds() -> Vec<Vec<u8>> {
    let whole = Config::default().resolve().expect("the defaults are sound").to_toml().expect("TOML");
    [
        "",
        "data_dir = \"/d\"\nseeds = [\"a:1\", \"b:2\"]\nzone = \"n\"\nweight = 200\n",
        "[raft]\nheartbeat_ms = 50\nelection_timeout_min_ms = 300\nelection_timeout_max_ms = 500\n",
        "[storage]\nengine = \"memory\"\nlog_segment_bytes = 1048576\ncache_bytes = 1\n",
        "listen_client = \"0.0.0.0:7400\"\nadvertise_client = \"host:7400\"\ncluster_token = \"t\"\n",
        "listen_http = \"[::1]:0\"\n[limits]\nvalue_bytes_max = 1\nconnections_max = 10\n[log]\nformat = \"json\"\n",
        "unknown = 1\n[raft]\nheartbeat_ms = \"x\"\n",
        &whole,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// A line to import. What is understood is exported as a line that is understood alike.
pub fn import_lines(bytes: &[u8]) {
    match line::parse(bytes) {
        Ok((key, value)) => {
            let exported = serde_json::to_vec(&line::Line::new(&key, &value)).expect("strings are JSON");
            assert!(!exported.contains(&b'\n'), "a line is one line");
            assert_eq!(line::parse(&exported), Ok((key, value)));
        }
        Err(why) => assert!(!why.is_empty(), "a refusal says why"),
    }
    // Bytes as they are, not as somebody's line.
    let Some((&length, rest)) = bytes.split_first() else { return };
    let (key, value) = rest.split_at(usize::from(length).min(rest.len()));
    let Ok(key) = Key::new(key.to_vec()) else { return };
    let value = Bytes::copy_from_slice(value);
    let exported = serde_json::to_vec(&line::Line::new(&key, &value)).expect("strings are JSON");
    assert!(exported.len() <= line::LINE_BYTES_MAX);
    assert_eq!(line::parse(&exported), Ok((key, value)));
}

/// A few lines.
#[must_use]
pub fn import_lines_seeds() -> Vec<Vec<u8>> {
    let base64 = base64::prelude::BASE64_STANDARD.encode(b"\xff\0\xfe");
    [
        r#"{"key":"a","value":""}"#.to_owned(),
        r#"{"value": "\u00e9\n", "key": "a b", "revision": "7"}"#.to_owned(),
        format!(r#"{{"key_base64":"{base64}","value_base64":"{base64}"}}"#),
        r#"{"key":"k","key_base64":"aw==","value":"v"}"#.to_owned(),
        r#"{"key":"k","value_base64":"!"}"#.to_owned(),
        "\u{3}abc".to_owned(),
    ]
    .map(String::into_bytes)
    .into()
}
