//! What transactions mean, and what is said of wrong ones.

use kvd_types::{Compare, Key, LeaseId, Lifetime, Relation, Revision, Subject, TxnOp};
use proptest::prelude::*;

use super::*;

fn key(name: &str) -> Key {
    Key::try_from(name).unwrap()
}

fn put(name: &str, value: &'static [u8], lifetime: Lifetime, want_previous: bool) -> TxnOp {
    TxnOp::Put { key: key(name), value: value.into(), lifetime, want_previous }
}

#[test]
fn a_transaction_has_three_parts() {
    let text = b"mod(\"k\") > \"0\"\n\nput k \"overwrote k\"\nget k\n\nput k created\ndel other --prev-kv\n";
    let expected = Txn {
        compares: vec![Compare {
            key: key("k"),
            subject: Subject::Revision(Revision(0)),
            relation: Relation::Greater,
        }],
        then: vec![put("k", b"overwrote k", Lifetime::Forever, false), TxnOp::Get(key("k"))],
        otherwise: vec![
            put("k", b"created", Lifetime::Forever, false),
            TxnOp::Delete { key: key("other"), want_previous: true },
        ],
    };
    assert_eq!(from_text(text), Ok(expected.clone()));
    let with_carriage_returns = String::from_utf8(text.to_vec()).unwrap().replace('\n', "\r\n");
    assert_eq!(from_text(with_carriage_returns.as_bytes()), Ok(expected));
}

#[test]
fn parts_may_be_empty_and_more_empty_lines_may_follow() {
    assert_eq!(from_text(b""), Ok(Txn::default()));
    let only_then = from_text(b"\nget k").unwrap();
    assert_eq!(only_then, Txn { then: vec![TxnOp::Get(key("k"))], ..Txn::default() });
    let only_otherwise = from_text(b"\n\nget k\n\n\n\n").unwrap();
    assert_eq!(only_otherwise, Txn { otherwise: vec![TxnOp::Get(key("k"))], ..Txn::default() });
}

#[test]
fn compares() {
    for (line, name, subject, relation) in [
        ("mod(\"k\") = \"7\"", "k", Subject::Revision(Revision(7)), Relation::Equal),
        ("m(k)!=7", "k", Subject::Revision(Revision(7)), Relation::NotEqual),
        ("create ( \"k\" ) < \"7\"", "k", Subject::CreateRevision(Revision(7)), Relation::Less),
        ("c(\"k\") > \"7\"", "k", Subject::CreateRevision(Revision(7)), Relation::Greater),
        ("ver(\"k\") = \"1\"", "k", Subject::Version(1), Relation::Equal),
        ("version('k') = 1", "k", Subject::Version(1), Relation::Equal),
        ("val(\"k)\") = \"a \\\"b\\\"\"", "k)", Subject::Value("a \"b\"".into()), Relation::Equal),
        ("value(`k`) < ''", "k", Subject::Value("".into()), Relation::Less),
        ("lease(\"k\") = \"1f\"", "k", Subject::Lease(LeaseId(31)), Relation::Equal),
        ("lease(\"k\") != 0", "k", Subject::Lease(LeaseId(0)), Relation::NotEqual),
    ] {
        let compare = line::compare(line.as_bytes());
        assert_eq!(compare, Ok(Compare { key: key(name), subject, relation }), "{line}");
    }
}

#[test]
fn requests() {
    for (line, operation) in [
        ("get k", TxnOp::Get(key("k"))),
        ("put k v", put("k", b"v", Lifetime::Forever, false)),
        ("put 'a key' \"\\x00\\101\\u00e9\\n\"", put("a key", b"\0A\xc3\xa9\n", Lifetime::Forever, false)),
        ("put --ttl 5s k v", put("k", b"v", Lifetime::Ttl(5000), false)),
        ("put k v --ttl=5s --prev-kv", put("k", b"v", Lifetime::Ttl(5000), true)),
        ("put k v --lease 1f", put("k", b"v", Lifetime::Lease(LeaseId(31)), false)),
        ("put k \"--ttl\"", put("k", b"--ttl", Lifetime::Forever, false)),
        ("put -- k --ttl", put("k", b"--ttl", Lifetime::Forever, false)),
        ("put k it's", put("k", b"it's", Lifetime::Forever, false)),
        ("put k \"\"", put("k", b"", Lifetime::Forever, false)),
        ("del k", TxnOp::Delete { key: key("k"), want_previous: false }),
        ("del --prev-kv k", TxnOp::Delete { key: key("k"), want_previous: true }),
    ] {
        assert_eq!(line::request(line.as_bytes()), Ok(operation), "{line}");
    }
}

#[test]
fn wrong_lines_are_numbered_and_say_what_is_wrong() {
    for (text, line, what) in [
        ("mod \"k\" > \"0\"", 1, "there is no ("),
        ("mod(\"k\" > \"0\"", 1, "there is no ) after the key"),
        ("mod(\"k > 0", 1, "there is no \" that ends the quotes"),
        ("mod(\"k\") \"0\"", 1, "none of = != < >"),
        ("mod(\"k\") >= \"0\"", 1, ">= is no way to compare"),
        ("mod(\"k\") >", 1, "nothing to compare with"),
        ("mod(\"k\") > \"x\"", 1, "mod is compared with a whole number, not x"),
        ("mod(\"k\") > \"-1\"", 1, "not -1"),
        ("mod(\"k\") > \"18446744073709551616\"", 1, "a whole number"),
        ("mod(\"k\") > \"0\" x", 1, "nothing may follow the compare, but there is x"),
        ("size(\"k\") > \"0\"", 1, "size can't be compared"),
        ("mod(\"\") > \"0\"", 1, "the key is empty"),
        ("mod() > \"0\"", 1, "a compare is written as"),
        ("lease(\"k\") = \"xyz\"", 1, "hexadecimal"),
        ("put k v", 1, "there is no ("),
        ("mod(\"k\") > \"0\"\n\nput k", 3, "this takes 2 words, not 1: put KEY VALUE"),
        ("\nput k v w", 2, "not 3"),
        ("\nget a b", 2, "this takes 1 word, not 2: get KEY"),
        ("\nget k --prev-kv", 2, "--prev-kv is no flag of this request: get KEY"),
        ("\nget", 2, "not 0"),
        ("\nput k v --ttl", 2, "--ttl takes a value"),
        ("\nput k v --ttl soon", 2, "ttl: write whole numbers"),
        ("\nput k v --ttl 0", 2, "ttl: it must be longer than zero"),
        ("\nput k v --ttl 1s --lease 1", 2, "a ttl or a lease, not both"),
        ("\nput k v --prev-kv=yes", 2, "--prev-kv takes no value"),
        ("\nput k \"v", 2, "there is no \" that ends the quotes"),
        ("\nput k \"v\"w", 2, "a space must follow the quotes around v"),
        ("\nput k \"\\q\"", 2, "\\q is no escape"),
        ("\nput k \"\\xg0\"", 2, "\\x takes two hexadecimal digits"),
        ("\nput k \"\\400\"", 2, "up to \\377"),
        ("\nput k \"\\ud800\"", 2, "\\u takes 4 hexadecimal digits of a character"),
        ("\nput k 'v", 2, "there is no ' that ends the quotes"),
        ("\nwatch k", 2, "watch is no request of a transaction"),
        ("\nget k\n\nget k\n\nget k", 6, "three parts"),
    ] {
        let wrong = from_text(text.as_bytes()).unwrap_err();
        assert!(wrong.line == line && wrong.message.contains(what), "{text:?}: {wrong}");
    }
}

#[test]
fn a_wrong_line_leaves_the_parser_as_it_was() {
    let mut parser = Parser::new();
    assert!(parser.line(b"nonsense").is_err());
    parser.line(b"ver(k) = 0").unwrap();
    parser.line(b"").unwrap();
    assert_eq!(parser.part(), Part::Then);
    assert_eq!(parser.line(b"nonsense").unwrap_err().line, 4);
    parser.line(b"get k").unwrap();
    assert_eq!(parser.finish(), from_text(b"ver(k) = 0\n\nget k").unwrap());
}

#[test]
fn json_means_the_same() {
    let json = br#"{
        "compares": [
            {"key": "k", "target": "mod", "op": ">", "value": "7"},
            {"key": "k", "target": "version", "op": "!=", "value": 3},
            {"key": "k", "target": "value", "op": "=", "value_base64": "/w=="},
            {"key": "k", "target": "lease", "op": "=", "value": "1f"}],
        "then": [{"put": {"key_base64": "aw==", "value": "v", "ttl": "5s", "prev_kv": true}}, {"get": {"key": "k"}}],
        "else": [{"del": {"key": "k"}}, {"put": {"key": "j", "value": "", "lease": "1f"}}]}"#;
    let text = b"mod(k) > 7\nver(k) != 3\nval(k) = \"\\xff\"\nlease(k) = 1f\n\n\
                 put k v --ttl 5s --prev-kv\nget k\n\ndel k\nput j '' --lease 1f\n";
    assert_eq!(from_json(json), Ok(from_text(text).unwrap()));
}

#[test]
fn wrong_json_says_what_is_wrong_and_where() {
    for (json, what) in [
        ("", "EOF"),
        ("{\n\"when\": []}", "unknown field `when`, expected"),
        (
            r#"{"then": [{"get": {"key": "k"}}, {"get": {}}]}"#,
            "then, number 2: there is neither key nor key_base64",
        ),
        (r#"{"otherwise": [{"put": {"key": "k"}}]}"#, "otherwise, number 1: there is neither value"),
        (r#"{"then": [{"watch": {"key": "k"}}]}"#, "unknown variant `watch`"),
        (r#"{"then": [{"get": {"key": "k", "prev_kv": true}}]}"#, "a get has no prev_kv"),
        (
            r#"{"compares": [{"key": "k", "target": "mod", "op": "~", "value": "0"}]}"#,
            "compares, number 1: ~ is no way to compare",
        ),
        (r#"{"compares": [{"key": "k", "target": "mod", "op": "=", "value": "x"}]}"#, "not x"),
    ] {
        let wrong = from_json(json.as_bytes()).unwrap_err();
        assert!(wrong.contains(what), "{json}: {wrong}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        text in r#"(mod|val|put|get|del|[()"'`\\=<> a-]|--ttl|\n|\\[xu0-9]){0,24}"#,
    ) {
        for text in [&bytes[..], text.as_bytes()] {
            let _parsed = (from_text(text).is_ok(), from_json(text).is_ok());
        }
    }

    #[test]
    fn any_bytes_can_be_written_as_escapes(value in proptest::collection::vec(any::<u8>(), 0..20)) {
        let hexadecimal: String = value.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        let octal: String = value.iter().map(|byte| format!("\\{byte:03o}")).collect();
        for escaped in [hexadecimal, octal] {
            let operation = line::request(format!("put k \"{escaped}\"").as_bytes()).unwrap();
            let expected = TxnOp::Put {
                key: key("k"), value: value.clone().into(), lifetime: Lifetime::Forever, want_previous: false,
            };
            prop_assert_eq!(operation, expected);
        }
    }
}
