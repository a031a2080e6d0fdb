//! `kvctl` as scripts and people use it: what it prints where, with which exit code, and what is in the store then.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use kvd_tests::{Cluster, PATIENCE, kvctl, until};
use serde_json::{Value, json};

/// A value of the most bytes that most stores are asked for, and that one request has to carry.
const MEBIBYTE: usize = 1 << 20;

/// How a run of `kvctl` ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

impl Ended {
    /// What it printed, having done what it was asked for without a word beside it.
    #[track_caller]
    fn quietly(self) -> String {
        assert_eq!(self.err, "", "{:?}", self.code);
        self.done()
    }

    /// What it printed, having done what it was asked for.
    #[track_caller]
    fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.err);
        String::from_utf8(self.out).unwrap()
    }

    /// What it complained of, having printed nothing.
    #[track_caller]
    fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(String::from_utf8_lossy(&self.out), "", "{}", self.err);
        assert_ne!(self.err, "", "a refusal is explained");
        self.err
    }

    /// The one line of JSON that it printed, quietly.
    #[track_caller]
    fn json(self) -> Value {
        let said = self.quietly();
        assert_eq!(said.lines().count(), 1, "{said}");
        let json = serde_json::from_str(&said).unwrap();
        check_numbers(&said, "", &json);
        json
    }
}

/// 64-bit numbers must be strings: what reads JSON in other languages has 53 bits for a number.
#[track_caller]
fn check_numbers(said: &str, name: &str, json: &Value) {
    match json {
        Value::Number(number) => {
            let is_small = number.is_f64() || ["id", "shard", "weight", "replication_factor"].contains(&name);
            assert!(is_small, "{name} is the number {number} in {said}");
        }
        Value::Array(items) => items.iter().for_each(|item| check_numbers(said, name, item)),
        Value::Object(fields) => fields.iter().for_each(|(name, field)| check_numbers(said, name, field)),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Runs `kvctl` with these words, and this on its standard input.
async fn run_with(cluster: &Cluster, words: &[&str], input: impl Into<Vec<u8>>) -> Ended {
    let mut command = Command::new(kvctl());
    command.env_remove("KVCTL_ENDPOINTS").arg(format!("--endpoints={}", cluster.endpoints())).args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = format!("{command:?}");
    let input = input.into();
    let running = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Beside the reading: otherwise each could wait for the other. It may well end without reading it all.
        let writer = thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    });
    let ended = tokio::time::timeout(PATIENCE, running).await;
    let output = ended.unwrap_or_else(|_elapsed| panic!("{shown} does not end")).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    Ended { code: output.status.code(), out: output.stdout, err }
}

/// Runs `kvctl` with these words.
async fn run(cluster: &Cluster, words: &[&str]) -> Ended {
    run_with(cluster, words, "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_is_got_until_it_is_deleted() {
    let cluster = Cluster::of(3).start().await;
    assert_eq!(run(&cluster, &["put", "greeting", "hello"]).await.quietly(), "OK\n");
    assert_eq!(run(&cluster, &["get", "greeting"]).await.quietly(), "greeting\nhello\n");
    let put = run(&cluster, &["put", "greeting", "again", "--prev-kv"]).await;
    assert_eq!(put.quietly(), "OK\nhello\n");
    assert_eq!(run(&cluster, &["put", "new", "value", "--prev-kv"]).await.quietly(), "OK\n");
    // In the order asked for; those that are there even if others are not.
    let got = run(&cluster, &["mget", "new", "greeting", "--print-value-only"]).await;
    assert_eq!(got.quietly(), "value\nagain\n");
    let got = run(&cluster, &["mget", "none", "greeting", "neither"]).await;
    assert_eq!((got.code, got.out.as_slice()), (Some(3), &b"greeting\nagain\n"[..]));
    assert!(got.err.contains("none") && got.err.contains("neither"), "{}", got.err);

    assert_eq!(run(&cluster, &["del", "greeting", "--prev-kv"]).await.quietly(), "1\nagain\n");
    assert!(run(&cluster, &["get", "greeting"]).await.refused(3).contains("key greeting does not exist"));
    let deleted = run(&cluster, &["del", "greeting"]).await;
    assert_eq!((deleted.code, deleted.out.as_slice()), (Some(3), &b"0\n"[..]));
    assert!(deleted.err.contains("key greeting does not exist"), "{}", deleted.err);

    // Values of any bytes, from standard input and from a file.
    let bytes: Vec<u8> = (0..=255).cycle().take(MEBIBYTE).collect();
    let file = cluster.dir().join("value");
    fs::write(&file, &bytes).unwrap();
    let put = ["put", "from file", "--file", file.to_str().unwrap()];
    assert_eq!(run(&cluster, &put).await.quietly(), "OK\n");
    for words in [&["put", "from input"][..], &["put", "from input", "-", "--prev-kv"]] {
        assert_eq!(run_with(&cluster, words, bytes.clone()).await.code, Some(0));
    }
    assert_eq!(run_with(&cluster, &["put", "empty"], "").await.quietly(), "OK\n");
    for key in ["from file", "from input"] {
        let got = run(&cluster, &["get", key, "--print-value-only"]).await;
        let (end, value) = got.out.split_last().unwrap();
        assert!(got.code == Some(0) && value == bytes && *end == b'\n', "{key}: {} bytes", value.len());
    }
    assert_eq!(run(&cluster, &["get", "empty", "--print-value-only"]).await.quietly(), "\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_say_what_happened_and_only_results_are_on_standard_output() {
    let mut cluster = Cluster::of(3).start().await;

    // 0 and 4: done, and a condition that fails, with the current version in JSON.
    assert_eq!(run(&cluster, &["put", "key", "first", "--if-absent"]).await.quietly(), "OK\n");
    let said = run(&cluster, &["put", "key", "second", "--if-absent"]).await.refused(4);
    let got = run(&cluster, &["get", "key", "-o", "json"]).await.json();
    let revision = got["revision"].as_str().unwrap();
    assert!(said.contains("key key is at revision") && said.contains(revision), "{said}");
    assert_eq!(got["value"], "first");
    let put = run(&cluster, &["put", "key", "third", "--if-revision", revision, "-o", "json"]).await.json();
    assert_eq!((&put["succeeded"], &put["version"]), (&json!(true), &json!("2")));
    for words in
        [&["put", "key", "fourth", "--if-revision", revision][..], &["del", "key", "--if-revision", revision]]
    {
        run(&cluster, words).await.refused(4);
        let failed = run(&cluster, &[words, &["-o", "json", "--prev-kv"]].concat()).await;
        let json: Value = serde_json::from_slice(&failed.out).unwrap();
        assert_eq!((failed.code, &json["succeeded"]), (Some(4), &json!(false)));
        assert_eq!(
            (&json["current"]["revision"], &json["current"]["value"]),
            (&put["revision"], &json!("third"))
        );
        assert!(failed.err.contains("the condition failed"), "{}", failed.err);
    }
    run(&cluster, &["put", "none", "value", "--if-revision", revision]).await.refused(4);
    let now = put["revision"].as_str().unwrap();
    assert_eq!(run(&cluster, &["del", "key", "--if-revision", now]).await.quietly(), "1\n");

    // 2: wrongly used.
    for words in [
        &["put"][..],
        &["frobnicate"],
        &["get"],
        &["get", ""],
        &["put", "key", "value", "--file", "file"],
        &["put", "key", "value", "--if-absent", "--if-revision", "1"],
        &["put", "key", "--file", "/nowhere/at/all"],
        &["import", "/nowhere/at/all"],
        &["get", "key", "--timeout", "1h"],
        &["shard", "move-leader", "one", "--to", "2"],
    ] {
        run(&cluster, words).await.refused(2);
    }
    let said = run(&cluster, &["put", "key", "--file", "/nowhere/at/all"]).await.refused(2);
    assert!(said.contains("/nowhere/at/all"), "{said}");
    let too_long = vec![b'x'; MEBIBYTE + 1];
    run_with(&cluster, &["put", "key"], too_long).await.refused(2);

    // 3: not found.
    run(&cluster, &["get", "key"]).await.refused(3);
    let deleted = run(&cluster, &["del", "key", "-o", "json"]).await;
    let json: Value = serde_json::from_slice(&deleted.out).unwrap();
    assert_eq!((deleted.code, &json["deleted"]), (Some(3), &json!(false)));

    // 5: unavailable, and help is offered.
    cluster.kill_all();
    for words in [&["get", "key"][..], &["put", "key", "value"], &["del", "key"], &["export"], &["status"]] {
        let said = run(&cluster, &[words, &["--timeout", "300ms"]].concat()).await.refused(5);
        assert!(said.starts_with("kvctl: ") && said.contains("--endpoints"), "{words:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_can_be_looked_at_and_its_leaders_moved() {
    let cluster = Cluster::of(3).start().await;
    let nodes = run(&cluster, &["node", "list", "-o", "json"]).await.json();
    let nodes: BTreeMap<&str, &str> = nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["client_address"].as_str().unwrap(), node["id"].as_str().unwrap()))
        .collect();
    let addresses: BTreeSet<String> =
        cluster.nodes().iter().map(|node| node.client_address().to_string()).collect();
    assert!(nodes.keys().copied().eq(addresses.iter().map(String::as_str)), "{nodes:?}");
    let shown = run(&cluster, &["node", "list"]).await.quietly();
    assert!(addresses.iter().all(|address| shown.contains(address)), "{shown}");
    assert_eq!(shown.lines().count(), 1 + 3, "{shown}");

    // All say the same of the shards.
    let shards = run(&cluster, &["shard", "list", "-o", "json"]).await.json();
    let shards = shards.as_array().unwrap();
    assert_eq!(shards.len(), 6);
    let share: f64 = shards.iter().map(|shard| shard["share"].as_f64().unwrap()).sum();
    assert!((share - 1.0).abs() < 1e-6, "the shards share the whole: {share}");
    assert_eq!(run(&cluster, &["shard", "list"]).await.quietly().lines().count(), 1 + 6);
    let located = run(&cluster, &["shard", "locate", "some key", "-o", "json"]).await.json();
    assert!(shards.iter().any(|shard| shard["id"] == located["shard"]["id"]), "{located}");
    assert_eq!(located["hash"].as_str().unwrap().len(), 16, "{located}");
    // The part in braces decides.
    let together = run(&cluster, &["shard", "locate", "{some key}/more", "-o", "json"]).await.json();
    assert_eq!(together["hash"], located["hash"]);
    let status = run(&cluster, &["status", "-o", "json"]).await.json();
    for (list, count) in [("nodes", 3), ("shards", 6)] {
        assert_eq!(status[list].as_array().unwrap().len(), count, "{status}");
    }
    for node in status["nodes"].as_array().unwrap() {
        assert_eq!((&node["reachable"], &node["version"]), (&json!(true), &json!(env!("CARGO_PKG_VERSION"))));
    }
    let shown = run(&cluster, &["status"]).await.quietly();
    assert!(addresses.iter().all(|address| shown.contains(address)), "{shown}");

    // A leader goes where it is sent.
    let moved = located["shard"]["id"].to_string();
    let leader_of = async || {
        let status = run(&cluster, &["status", "-o", "json"]).await.json();
        let shards = status["shards"].as_array().unwrap().clone();
        let shard = shards.iter().find(|shard| shard["id"] == located["shard"]["id"]).unwrap();
        shard["leader"].as_str().unwrap_or("").to_owned()
    };
    for &to in nodes.values() {
        let said = run(&cluster, &["shard", "move-leader", &moved, "--to", to]).await.quietly();
        assert_eq!(said, format!("shard {moved} is led by node {to}\n"));
        until("status to show it", async || {
            let leader = leader_of().await;
            if leader == to { Ok(()) } else { Err(format!("{leader} leads, and {to} was told to")) }
        })
        .await;
        assert_eq!(run(&cluster, &["put", "some key", to]).await.quietly(), "OK\n");
    }
    let said = run(&cluster, &["shard", "move-leader", &moved, "--to", "12345"]).await;
    assert!(said.code != Some(0) && said.err.contains("12345"), "{said:?}");
    let said = run(&cluster, &["shard", "move-leader", "4711", "--to", "1"]).await;
    assert!(said.code != Some(0) && said.err.contains("4711"), "{said:?}");

    // What needs no cluster.
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(run(&cluster, &["version"]).await.quietly(), format!("kvctl {version}\n"));
    assert_eq!(run(&cluster, &["version", "-o", "json"]).await.json(), json!({ "version": version }));
    let script = run(&cluster, &["completion", "bash"]).await.quietly();
    assert!(script.contains("complete -F _kvctl") && script.contains("move-leader"), "{script}");
    let checked = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn();
    if let Ok(mut bash) = checked {
        bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(bash.wait().unwrap().success(), "bash can't read it");
    }
}

/// Lines of an import, one text.
fn text_of(lines: &[Value]) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        writeln!(text, "{line}").unwrap();
        text
    })
}

/// What is in the store after these lines: per key the last one, as an export shows it.
fn outcome(lines: &[Value]) -> BTreeMap<String, Value> {
    lines.iter().map(|line| (name_of(line), line.clone())).collect()
}

/// A line's key. In an order of its own, but the same key for the same bytes.
fn name_of(line: &Value) -> String {
    match (line["key"].as_str(), line["key_base64"].as_str()) {
        (Some(text), None) => format!("text {text}"),
        (None, Some(base64)) => format!("base64 {base64}"),
        _ => panic!("one key in a line: {line}"),
    }
}

/// Checks that an export gives these and no others, each once and in key order.
async fn check_export(cluster: &Cluster, prefix: &str, expected: &BTreeMap<String, Value>) {
    let exported = run(cluster, &["export", "--prefix", prefix]).await.quietly();
    let exported: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<&str> = exported.iter().filter_map(|line| line["key"].as_str()).collect();
    assert!(texts.is_sorted(), "in key order");
    assert_eq!(exported.len(), expected.len(), "each key once");
    for line in exported {
        let name = name_of(&line);
        let is_same = expected.get(&name) == Some(&line);
        let shown: String = line.to_string().chars().take(200).collect();
        assert!(is_same, "{name} is {shown}");
    }
}

/// Lines of every kind that an import takes, written as an export writes them.
fn all_kinds() -> Vec<Value> {
    let mut lines = Vec::new();
    for number in 0..1000 {
        lines.push(json!({ "key": format!("key-{number}"), "value": format!("value {number}") }));
        lines.push(json!({ "key": format!("ключ/{number}/鍵"), "value": format!("значение\n\"{number}\" \u{1f511}\0") }));
        // In base64 a slash and digits stand for bytes that begin with 0xff, which no text does.
        lines
            .push(json!({ "key_base64": format!("/{number:07}"), "value_base64": format!("/{number:011}") }));
        lines.push(json!({ "key": format!("bytes/{number}"), "value_base64": format!("/{number:03}") }));
        // Few keys again and again, and some twice in a row: the last line counts.
        lines.push(json!({ "key": format!("again-{}", number % 300), "value": number.to_string() }));
        lines.push(json!({ "key": format!("again-{}", number % 7), "value": format!("{number} once more") }));
    }
    lines.push(json!({ "key": "empty", "value": "" }));
    lines.push(json!({ "key": "large", "value": "x".repeat(MEBIBYTE) }));
    lines.push(json!({ "key": "large and escaped", "value": "\u{1}".repeat(MEBIBYTE) }));
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_gives_what_was_imported_and_a_bad_line_tells_what_is_in() {
    let cluster = Cluster::of(3).start().await;
    let lines = all_kinds();
    let file = cluster.dir().join("import");
    fs::write(&file, text_of(&lines)).unwrap();
    let imported = run(&cluster, &["import", file.to_str().unwrap(), "-o", "json"]).await;
    check_nothing_but_progress(&imported.err);
    assert_eq!(imported.done(), format!("{{\"imported\":\"{}\"}}\n", lines.len()));
    check_export(&cluster, "", &outcome(&lines)).await;

    // An export is an import: from standard input, as some other cluster would take it.
    let exported = run(&cluster, &["export", "--prefix", "again-"]).await.quietly();
    assert_eq!(run(&cluster, &["del", "again-1"]).await.quietly(), "1\n");
    let imported = run_with(&cluster, &["import", "-"], exported.clone()).await;
    check_nothing_but_progress(&imported.err);
    assert_eq!(imported.done(), "");
    assert_eq!(run(&cluster, &["export", "--prefix", "again-"]).await.quietly(), exported);

    // It stops at a bad line, after which nothing is written and before which all is. Empty lines are none.
    let good: Vec<Value> =
        (1..=700).map(|number| json!({ "key": format!("bad/{number}"), "value": "value" })).collect();
    let endless = "x".repeat(9 * MEBIBYTE);
    for (bad, why) in [
        (r#"{"key":"bad/701"}"#, "there is neither value nor value_base64"),
        (r#"{"key":"","value":""}"#, "the key is empty"),
        ("no JSON", "not a JSON object"),
        (&endless, "longer than"),
    ] {
        let more = text_of(&[json!({ "key": "bad/702", "value": "value" })]).repeat(300);
        let text = format!("{}\n{bad}\n{more}", text_of(&good));
        let ended = run_with(&cluster, &["import", "-"], text).await;
        let said = ended.refused(1);
        assert!(said.contains(&format!("kvctl: line 702: {why}")), "{said}");
        assert!(said.contains("700 lines were written; lines 1 to 701 are certainly in"), "{said}");
        check_export(&cluster, "bad/", &outcome(&good)).await;
    }
    // And at one that is right by itself and can't be written.
    let too_long = json!({ "key": "bad/701", "value": "x".repeat(MEBIBYTE + 1) });
    let ended = run_with(&cluster, &["import", "-"], text_of(&[good.clone(), vec![too_long]].concat())).await;
    let said = ended.refused(1);
    assert!(said.contains("kvctl: line 701: ") && said.contains("lines 1 to 700 are certainly in"), "{said}");
    check_export(&cluster, "bad/", &outcome(&good)).await;
}

/// On standard error is how many lines were written, and no complaint.
#[track_caller]
fn check_nothing_but_progress(said: &str) {
    for line in said.lines() {
        let (count, rest) = line.split_once(" lines, ").unwrap_or(("none", line));
        let rate = rest.split_once("/s").map(|(rate, _)| rate);
        assert!(
            count.parse::<u64>().is_ok() && rate.is_some_and(|rate| rate.parse::<u64>().is_ok()),
            "{said}"
        );
    }
    assert!(said.contains(" lines, "), "it says how much was done: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_does_not_notice_the_kill_of_a_node() {
    let mut cluster = Cluster::of(3).start().await;
    let client = cluster.client().await;
    let lines: Vec<Value> = (0..20_000)
        .map(|number| json!({ "key": format!("key-{number:05}"), "value": format!("value {number}") }))
        .collect();
    let file = cluster.dir().join("import");
    fs::write(&file, text_of(&lines)).unwrap();
    let importing = import_in_background(&cluster, &file);
    until("the import to be under way", async || match client.get("key-03000").await {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    cluster.node_mut(1).kill();
    let last = client.get("key-19999").await.unwrap();
    assert!(last.is_none() && !importing.is_finished(), "the kill comes too late to be one in the middle");

    let ended = importing.await.unwrap();
    check_nothing_but_progress(&ended.err);
    assert_eq!(ended.done(), "");
    check_export(&cluster, "", &outcome(&lines)).await;
}

/// Begins an import, to be waited for.
fn import_in_background(cluster: &Cluster, file: &Path) -> tokio::task::JoinHandle<Ended> {
    let mut command = Command::new(kvctl());
    command.env_remove("KVCTL_ENDPOINTS").arg(format!("--endpoints={}", cluster.endpoints()));
    command.arg("import").arg(file).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || {
        let output = command.output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        Ended { code: output.status.code(), out: output.stdout, err }
    })
}
