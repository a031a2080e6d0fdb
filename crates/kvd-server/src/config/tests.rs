//! Precedence, sources, relations, the example file, and what a pod's environment may hold.

use std::{io, path::Path};

use super::{
    load::is_service_link,
    settings::{Kind, SETTINGS, host_and_port},
    *,
};

const EXAMPLE: &str = include_str!("../../../../deploy/kvd.example.toml");

fn load(args: &[&str], env: &[(&str, &str)], file: &str) -> Result<Loaded, Problems> {
    let mut args: Vec<String> = args.iter().map(ToString::to_string).collect();
    if !file.is_empty() {
        args.push("--config=kvd.toml".to_owned());
    }
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let read = |path: &Path| {
        if path == Path::new("kvd.toml") { Ok(file.to_owned()) } else { Err(io::ErrorKind::NotFound.into()) }
    };
    Config::from_args_and_env(args, env, read).map_err(|error| match error {
        LoadError::Invalid(problems) => problems,
        LoadError::Usage(error) => panic!("{error}"),
    })
}

fn problem(args: &[&str], env: &[(&str, &str)], file: &str) -> String {
    load(args, env, file).expect_err("must be refused").to_string()
}

#[test]
fn nothing_given_is_one_node_on_loopback() {
    let loaded = load(&[], &[], "").unwrap();
    assert_eq!(loaded.config, Config::default().resolve().unwrap());
    assert_eq!(loaded.config.advertise_peer, "127.0.0.1:7401");
    assert_eq!(loaded.config.node_name, "127.0.0.1:7401");
    assert_eq!((loaded.config.cluster.initial_nodes, loaded.config.cluster.replication_factor), (1, 1));
    assert!(loaded.warnings.is_empty() && loaded.sources.is_empty());
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let flag: &[&str] = &["--weight", "4"];
    let env: &[(&str, &str)] = &[("KVD_WEIGHT", "3")];
    let file = "weight = 2";
    let from_file = Source::File("kvd.toml".into());
    let from_env = Source::Environment("KVD_WEIGHT".to_owned());
    let from_flag = Source::Flag("--weight".to_owned());
    for (args, env, file, weight, source) in [
        (&[] as &[&str], &[] as &[(&str, &str)], "", 100, None),
        (&[], &[], file, 2, Some(&from_file)),
        (&[], env, file, 3, Some(&from_env)),
        (&[], env, "", 3, Some(&from_env)),
        (flag, env, file, 4, Some(&from_flag)),
        (flag, &[], file, 4, Some(&from_flag)),
        (&["--weight=9", "--weight=4"], &[], "", 4, Some(&from_flag)),
        (&[], &[("KVD_WEIGHT", "")], file, 2, Some(&from_file)),
    ] {
        let loaded = load(args, env, file).unwrap();
        assert_eq!(loaded.config.weight, weight, "{args:?} {env:?} {file:?}");
        assert_eq!(loaded.sources.get("weight"), source, "{args:?} {env:?} {file:?}");
    }
}

#[test]
fn the_file_may_be_named_by_the_environment_and_the_flag_beats_it() {
    let file = |path: &Path| match path.to_str() {
        Some("a.toml") => Ok("weight = 1".to_owned()),
        Some("b.toml") => Ok("weight = 2".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let env = || [("KVD_CONFIG".to_owned(), "a.toml".to_owned())];
    let weight = |args: &[&str]| Config::from_args_and_env(args, env(), file).unwrap().config.weight;
    assert_eq!(weight(&[]), 1);
    assert_eq!(weight(&["--config", "b.toml"]), 2);
    let error = Config::from_args_and_env(["--config=c.toml"], env(), file).unwrap_err().to_string();
    assert!(error.contains("c.toml") && error.contains("from the flag --config"), "{error}");
}

#[test]
fn every_setting_can_be_given_in_each_way() {
    for setting in SETTINGS {
        let text = match &setting.kind {
            Kind::Integer(_) => "3",
            Kind::Bytes(_) => "1048576",
            Kind::Listen => "127.0.0.1:9999",
            Kind::Advertise | Kind::Peers => "host:9999",
            Kind::Word(words) => words.last().unwrap(),
            Kind::Text(_) | Kind::Secret | Kind::Path | Kind::Filter => "trace",
        };
        // Whether it fits the other settings is not the question here: a problem about it must name this source.
        let named = |result: Result<Loaded, Problems>, source: &Source| match result {
            Ok(loaded) => loaded.sources.get(setting.path) == Some(source),
            Err(problems) => problems
                .0
                .iter()
                .all(|problem| problem.source == *source || problem.source == Source::Default),
        };
        let variable = setting.variable();
        assert!(
            named(load(&[], &[(&variable, text)], ""), &Source::Environment(variable.clone())),
            "{variable}"
        );
        if let Some(flag) = setting.flag {
            assert_eq!(flag, setting.path.replace(['.', '_'], "-"));
            let flag = format!("--{flag}");
            assert!(named(load(&[&flag, text], &[], ""), &Source::Flag(flag.clone())), "{flag}");
        }
        let value = match setting.kind {
            Kind::Integer(_) | Kind::Bytes(_) => text.to_owned(),
            Kind::Peers => format!("[\"{text}\"]"),
            _ => format!("\"{text}\""),
        };
        let file = format!("{} = {value}", setting.path);
        assert!(named(load(&[], &[], &file), &Source::File("kvd.toml".into())), "{file}");
    }
}

#[test]
fn the_table_lists_what_the_type_has() {
    let toml = toml::Table::try_from(Config::default()).unwrap();
    let mut paths = Vec::new();
    for (name, value) in &toml {
        match value.as_table() {
            Some(section) => paths.extend(section.keys().map(|inner| format!("{name}.{inner}"))),
            None => paths.push(name.clone()),
        }
    }
    let mut listed: Vec<String> = SETTINGS.iter().map(|setting| setting.path.to_owned()).collect();
    paths.sort();
    listed.sort();
    assert_eq!(listed, paths);
}

#[test]
fn the_example_is_the_defaults_and_names_every_setting() {
    let loaded = load(&[], &[], EXAMPLE).unwrap();
    assert_eq!(loaded.config, Config::default().resolve().unwrap());

    // With the derived ones taken in, nothing is missing.
    let all = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest)
            if rest
                .split_once(" = ")
                .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')) =>
        {
            rest
        }
        _ => line,
    });
    let all = all.collect::<Vec<_>>().join("\n");
    let loaded = load(&[], &[], &all).unwrap();
    let missing: Vec<_> =
        SETTINGS.iter().filter(|setting| !loaded.sources.contains_key(setting.path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_stands_badly_to_each_other_is_refused_with_its_source() {
    for (file, wanted) in [
        (
            "raft.heartbeat_ms = 201",
            &["raft.heartbeat_ms = 201", "from kvd.toml", "lower it to 133 or raise the timeout to 603"][..],
        ),
        (
            "raft.election_timeout_max_ms = 400",
            &["raft.election_timeout_min_ms = 400", "the default", "below"],
        ),
        ("cluster.replication_factor = 2", &["replication_factor = 2", "1, 3 or 5"]),
        ("cluster.replication_factor = 3", &["replication_factor = 3", "initial_nodes = 1"]),
        ("seeds = ['a:1', 'b:1']", &["replication_factor = 3", "initial_nodes = 2"]),
        ("seeds = ['a:1', 'b:1', 'a:1']", &["seeds", "names a:1 twice"]),
        ("listen_peer = '0.0.0.0:7401'", &["advertise_peer", "listen_peer = 0.0.0.0:7401 is a wildcard"]),
        ("advertise_client = '0.0.0.0:7400'", &["advertise_client = 0.0.0.0:7400", "nobody can connect"]),
        ("advertise_client = '[::]:7400'", &["advertise_client = [::]:7400", "nobody can connect"]),
        (
            "listen_http = '127.0.0.1:7400'",
            &["listen_http = 127.0.0.1:7400", "has the port of listen_client"],
        ),
        ("listen_http = '127.0.0.1:0'", &["listen_http", "port from 1"]),
        ("data_dir = ''", &["data_dir", "name the directory"]),
        ("storage.log_segment_bytes = '1MiB'", &["log_segment_bytes", "8388608"]),
    ] {
        let error = problem(&[], &[], file);
        assert!(wanted.iter().all(|part| error.contains(part)), "{file}: {error}");
    }
}

#[test]
fn wrong_values_and_names_are_refused_with_a_way_out() {
    for (args, env, file, wanted) in [
        (&["--weight=0"][..], &[][..], "", &["weight = \"0\"", "--weight", "1 to 10000"][..]),
        (&[], &[("KVD_WEIGHT", "heavy")], "", &["weight = \"heavy\"", "KVD_WEIGHT", "whole number"]),
        (&[], &[], "weight = '100'", &["weight = \"100\"", "kvd.toml", "whole number"]),
        (&[], &[], "wieght = 100", &["wieght", "kvd.toml", "no such setting", "weight was probably meant"]),
        (&[], &[], "[raft]\nhartbeat_ms = 1", &["raft.hartbeat_ms", "raft.heartbeat_ms was probably meant"]),
        (&[], &[], "raft = 1", &["raft", "write [raft]"]),
        (&[], &[], "weight = ", &["config = kvd.toml", "not TOML", "line 1"]),
        (&[], &[("KVD_SEED", "a:1")], "", &["KVD_SEED", "KVD_SEEDS was probably meant"]),
        (&[], &[("KVD_STORAGE_ENGINE", "rocks")], "", &["storage.engine = \"rocks\"", "sled, fjall, memory"]),
        (&["--log-filter=a=b=c"], &[], "", &["log.filter", "must be a filter"]),
        (&["--seeds=http://a:1"], &[], "", &["seeds", "host:port"]),
        (&["--limits-value-bytes-max=2MiB"], &[], "", &["limits.value_bytes_max", "1048576"]),
        (&["--zone", &"z".repeat(256)], &[], "", &["zone", "255"]),
    ] {
        let error = problem(args, env, file);
        assert!(wanted.iter().all(|part| error.contains(part)), "{error}");
    }
    let both = problem(&["--weight=0"], &[], "zone = 7");
    assert_eq!(both.lines().count(), 2, "every problem is told at once: {both}");
}

#[test]
fn what_kubernetes_puts_into_a_pod_breaks_nothing() {
    let injected = [
        ("KVD_PORT", "tcp://10.0.0.1:7400"),
        ("KVD_SERVICE_HOST", "10.0.0.1"),
        ("KVD_SERVICE_PORT", "7400"),
        ("KVD_SERVICE_PORT_GRPC", "7400"),
        ("KVD_PORT_7400_TCP", "tcp://10.0.0.1:7400"),
        ("KVD_PORT_7400_TCP_PROTO", "tcp"),
        ("KVD_PORT_7400_TCP_PORT", "7400"),
        ("KVD_PORT_7400_TCP_ADDR", "10.0.0.1"),
        ("KVD_CLIENT_SERVICE_HOST", "10.0.0.1"),
        ("KVD_CLIENT_PORT", "tcp://10.0.0.1:7400"),
        ("KVD_CLIENT_PORT_7402_TCP_ADDR", "10.0.0.1"),
        ("KUBERNETES_PORT", "tcp://10.0.0.1:443"),
    ];
    let loaded = load(&[], &injected, "").unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);

    for other in ["KVD_ENDPOINTS", "KVD_NODE", "KVD_TOKEN", "KVD_TEST_SEED"] {
        let loaded = load(&[], &[(other, "a:1")], "").unwrap();
        assert!(loaded.warnings.iter().any(|warning| warning.contains(other)), "{other} is somebody else's");
    }

    let shadowed: Vec<_> = SETTINGS.iter().filter(|setting| is_service_link(&setting.variable())).collect();
    assert!(shadowed.is_empty(), "no setting may look like one of them: {shadowed:?}");
    assert!(
        !is_service_link("KVD_PORT_7400_TCP_ADDR_X")
            && !is_service_link("KVD_PORT_X_TCP")
            && !is_service_link("PORT")
    );
}

#[test]
fn a_pod_of_a_stateful_set() {
    let args = ["--listen-client=0.0.0.0:7400", "--listen-peer=0.0.0.0:7401", "--listen-http=0.0.0.0:7402"];
    let env = [
        ("KVD_ADVERTISE_CLIENT", "kvd-0.kvd-nodes.default.svc:7400"),
        ("KVD_ADVERTISE_PEER", "kvd-0.kvd-nodes.default.svc:7401"),
        ("KVD_ADVERTISE_HTTP", "kvd-0.kvd-nodes.default.svc:7402"),
        (
            "KVD_SEEDS",
            "kvd-0.kvd-nodes.default.svc:7401, kvd-1.kvd-nodes.default.svc:7401,kvd-2.kvd-nodes.default.svc:7401",
        ),
        ("KVD_CLUSTER_TOKEN", "hush-hush"),
    ];
    let loaded = load(&args, &env, "").unwrap();
    assert_eq!(
        loaded.config.cluster,
        Cluster { shards: 12, replication_factor: 3, initial_nodes: 3, ..Config::default().cluster }
    );
    assert_eq!(loaded.config.addresses().http, "kvd-0.kvd-nodes.default.svc:7402");
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);

    let open = load(&args, &env[..4], "").unwrap();
    assert!(open.warnings.iter().any(|warning| warning.contains("KVD_CLUSTER_TOKEN")));
}

#[test]
fn a_token_is_never_shown() {
    let loaded = load(&[], &[("KVD_CLUSTER_TOKEN", "hush-hush")], "").unwrap();
    assert_eq!(loaded.config.cluster_token.reveal(), "hush-hush");
    let shown = loaded.config.to_toml().unwrap();
    assert!(shown.contains(REDACTED) && !shown.contains("hush"), "{shown}");
    assert!(!format!("{loaded:?}").contains("hush"));
    assert!(!problem(&[], &[("KVD_CLUSTER_TOKEN", "hush\u{1}")], "").contains("hush"));
}

#[test]
fn what_is_shown_is_what_is_run() {
    let loaded = load(&["--seeds=a:1,b:1,c:1", "--zone=north"], &[], "").unwrap();
    let shown = loaded.config.to_toml().unwrap();
    assert_eq!(load(&[], &[], &shown).unwrap().config, loaded.config);
}

#[test]
fn addresses() {
    for good in ["a:1", "node-1.example:7401", "10.0.0.1:65535", "[::1]:7401"] {
        assert!(host_and_port(good).is_ok(), "{good}");
    }
    for bad in ["", "a", ":1", "a:", "a:0", "a:65536", "a:1/x", "http://a:1", "a b:1", "::1:7401", "[a]:1"] {
        assert!(host_and_port(bad).is_err(), "{bad}");
    }
}
