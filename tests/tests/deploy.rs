//! The files under `deploy/` say what the server understands.
//!
//! There is neither a container engine nor a Kubernetes cluster where tests run, so this reads the files as those would:
//! it renders the kustomization (as far as that goes: `resources`, `namespace` and `labels`; any other field fails the
//! test), reads each object into its Kubernetes type and refuses fields that the type doesn't have, follows every
//! name from where it is used to where it is given, and hands the pod's arguments and environment to the server's own
//! parser.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails where it stands")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{Container, EnvVar, Namespace, PodSpec, Probe, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kvd_server::config::{Config, LogFormat};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

fn deploy() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(file: &str) -> String {
    fs::read_to_string(deploy().join(file)).unwrap_or_else(|error| panic!("deploy/{file}: {error}"))
}

/// What this test can render.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Kustomization {
    api_version: String,
    kind: String,
    namespace: String,
    labels: Vec<Labels>,
    resources: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
    /// Put on each object, but neither on selectors nor on pod templates.
    pairs: BTreeMap<String, String>,
}

/// The objects that `kubectl kustomize deploy/k8s` prints.
fn render() -> Vec<Value> {
    let kustomization: Kustomization = serde_yaml_ng::from_str(&read("k8s/kustomization.yaml")).unwrap();
    assert_eq!(kustomization.api_version, "kustomize.config.k8s.io/v1beta1");
    assert_eq!(kustomization.kind, "Kustomization");
    let mut objects = Vec::new();
    for file in &kustomization.resources {
        for document in serde_yaml_ng::Deserializer::from_str(&read(&format!("k8s/{file}"))) {
            let mut object = Value::deserialize(document).unwrap_or_else(|error| panic!("{file}: {error}"));
            if object["kind"] != "Namespace" {
                object["metadata"]["namespace"] = kustomization.namespace.clone().into();
            }
            for (name, value) in kustomization.labels.iter().flat_map(|labels| &labels.pairs) {
                object["metadata"]["labels"][name] = value.clone().into();
            }
            objects.push(object);
        }
    }
    objects
}

/// Reads an object. The types pass over fields that they don't know, so what comes out is compared with what went in.
fn strictly<T: DeserializeOwned + Serialize>(object: &Value) -> Result<T, String> {
    let typed: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    let again = serde_json::to_value(&typed).map_err(|error| error.to_string())?;
    let mut differences = Vec::new();
    compare(object, &again, "", &mut differences);
    if differences.is_empty() { Ok(typed) } else { Err(differences.join("; ")) }
}

/// Notes all that was given and not read, or read and not given.
fn compare(given: &Value, read: &Value, path: &str, differences: &mut Vec<String>) {
    match (given, read) {
        (Value::Object(given), Value::Object(read)) => {
            for name in given.keys().chain(read.keys()).collect::<BTreeSet<_>>() {
                let path = format!("{path}/{name}");
                match (given.get(name), read.get(name)) {
                    (Some(given), Some(read)) => compare(given, read, &path, differences),
                    (Some(_), None) => differences.push(format!("{path} is not a field of its type")),
                    _ => differences.push(format!("{path} is taken for granted, but not given")),
                }
            }
        }
        (Value::Array(given), Value::Array(read)) if given.len() == read.len() => {
            for (index, (given, read)) in given.iter().zip(read).enumerate() {
                compare(given, read, &format!("{path}/{index}"), differences);
            }
        }
        _ if given == read => {}
        _ => differences.push(format!("{path} is {given} and was read as {read}")),
    }
}

/// All objects, each read strictly.
struct Manifests {
    namespace: Namespace,
    account: ServiceAccount,
    peers: Service,
    clients: Service,
    budget: PodDisruptionBudget,
    set: StatefulSet,
}

impl Manifests {
    fn read() -> Self {
        let mut objects: BTreeMap<String, Value> = BTreeMap::new();
        for object in render() {
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            let name = format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]));
            assert!(objects.insert(name.clone(), object).is_none(), "{name} is there twice");
        }
        let manifests = Self {
            namespace: take(&mut objects, "Namespace/kvd"),
            account: take(&mut objects, "ServiceAccount/kvd"),
            peers: take(&mut objects, "Service/kvd-peers"),
            clients: take(&mut objects, "Service/kvd"),
            budget: take(&mut objects, "PodDisruptionBudget/kvd"),
            set: take(&mut objects, "StatefulSet/kvd"),
        };
        assert!(objects.is_empty(), "objects that no test looks at: {:?}", objects.keys());
        manifests
    }

    fn pod(&self) -> &PodSpec {
        self.set.spec.as_ref().unwrap().template.spec.as_ref().unwrap()
    }

    fn pod_labels(&self) -> &BTreeMap<String, String> {
        self.set.spec.as_ref().unwrap().template.metadata.as_ref().unwrap().labels.as_ref().unwrap()
    }

    fn container(&self) -> &Container {
        let [container] = self.pod().containers.as_slice() else { panic!("one container") };
        container
    }

    /// The container's ports by name.
    fn ports(&self) -> BTreeMap<&str, i32> {
        let ports = self.container().ports.as_ref().unwrap();
        ports.iter().map(|port| (port.name.as_deref().unwrap(), port.container_port)).collect()
    }
}

fn take<T: DeserializeOwned + Serialize>(objects: &mut BTreeMap<String, Value>, name: &str) -> T {
    let object = objects.remove(name).unwrap_or_else(|| panic!("{name} is missing"));
    strictly(&object).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn unknown_fields_and_wrong_types_are_refused() {
    let good = render().into_iter().find(|object| object["kind"] == "StatefulSet").unwrap();
    strictly::<StatefulSet>(&good).unwrap();
    let probe = "/spec/template/spec/containers/0/readinessProbe/httpGet";
    for (pointer, name, value, expected) in [
        ("/spec", "replica", Value::from(3), "/spec/replica is not a field"),
        (
            "/spec/template/spec",
            "hostnetwork",
            Value::from(true),
            "/spec/template/spec/hostnetwork is not a field",
        ),
        (probe, "prt", Value::from("http"), "/readinessProbe/httpGet/prt is not a field"),
        ("/spec", "replicas", Value::from("three"), "invalid type"),
    ] {
        let mut planted = good.clone();
        planted.pointer_mut(pointer).unwrap()[name] = value;
        let error = strictly::<StatefulSet>(&planted).map(|_| name).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn everything_is_in_one_namespace() {
    let manifests = Manifests::read();
    let namespace = manifests.namespace.metadata.name.clone();
    for metadata in [
        &manifests.account.metadata,
        &manifests.peers.metadata,
        &manifests.clients.metadata,
        &manifests.budget.metadata,
        &manifests.set.metadata,
    ] {
        assert_eq!(metadata.namespace, namespace);
    }
    assert_eq!(manifests.pod().service_account_name, manifests.account.metadata.name);
}

#[test]
fn selectors_find_the_pods() {
    let manifests = Manifests::read();
    let pod = manifests.pod_labels();
    let set = manifests.set.spec.as_ref().unwrap();
    let constraints = manifests.pod().topology_spread_constraints.as_ref().unwrap();
    let constraints = constraints.iter().map(|constraint| constraint.label_selector.as_ref().unwrap());
    let selectors = [&set.selector, manifests.budget.spec.as_ref().unwrap().selector.as_ref().unwrap()];
    let by_selector = selectors.into_iter().chain(constraints).map(|selector| {
        assert!(selector.match_expressions.is_none());
        selector.match_labels.as_ref().unwrap()
    });
    let services = [&manifests.peers, &manifests.clients];
    let by_service = services.map(|service| service.spec.as_ref().unwrap().selector.as_ref().unwrap());
    for labels in by_selector.chain(by_service) {
        assert!(!labels.is_empty());
        assert!(
            labels.iter().all(|(name, value)| pod.get(name) == Some(value)),
            "{labels:?} does not select {pod:?}"
        );
    }
}

#[test]
fn ports_lead_to_the_server() {
    let manifests = Manifests::read();
    let ports = manifests.ports();
    assert_eq!(ports, BTreeMap::from([("client", 7400), ("peer", 7401), ("http", 7402)]));
    for (service, names) in
        [(&manifests.peers, ["client", "peer", "http"].as_slice()), (&manifests.clients, &["client", "http"])]
    {
        let given = service.spec.as_ref().unwrap().ports.as_ref().unwrap();
        assert_eq!(given.iter().map(|port| port.name.as_deref().unwrap()).collect::<Vec<_>>(), names);
        for port in given {
            let Some(IntOrString::String(target)) = &port.target_port else { panic!("a target by name") };
            assert_eq!(ports.get(target.as_str()), Some(&port.port), "{target}");
        }
    }
    let peers = manifests.peers.spec.as_ref().unwrap();
    assert_eq!(peers.cluster_ip.as_deref(), Some("None"));
    assert_eq!(peers.publish_not_ready_addresses, Some(true));
    assert_eq!(manifests.set.spec.as_ref().unwrap().service_name, manifests.peers.metadata.name);
}

#[test]
fn probes_ask_the_http_port() {
    let manifests = Manifests::read();
    let container = manifests.container();
    let path = |probe: &Option<Probe>| {
        let http = probe.as_ref().unwrap().http_get.as_ref().unwrap();
        let IntOrString::String(port) = &http.port else { panic!("a port by name") };
        assert_eq!(manifests.ports().get(port.as_str()), Some(&7402));
        http.path.clone().unwrap()
    };
    assert_eq!(path(&container.startup_probe), "/livez");
    assert_eq!(path(&container.liveness_probe), "/livez");
    assert_eq!(path(&container.readiness_probe), "/readyz");
}

#[test]
fn the_pod_has_no_rights_that_it_does_not_need() {
    let manifests = Manifests::read();
    let pod = manifests.pod();
    assert_eq!(manifests.account.automount_service_account_token, Some(false));
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(pod.enable_service_links, Some(false));
    let of_pod = pod.security_context.as_ref().unwrap();
    assert_eq!(of_pod.run_as_non_root, Some(true));
    assert!(of_pod.run_as_user.unwrap() > 0);
    assert_eq!(of_pod.fs_group, of_pod.run_as_user);
    assert_eq!(of_pod.seccomp_profile.as_ref().unwrap().type_, "RuntimeDefault");
    let of_container = manifests.container().security_context.as_ref().unwrap();
    assert_eq!(of_container.allow_privilege_escalation, Some(false));
    assert_eq!(of_container.read_only_root_filesystem, Some(true));
    let capabilities = of_container.capabilities.as_ref().unwrap();
    assert_eq!(capabilities.drop.as_deref(), Some(["ALL".to_owned()].as_slice()));
    assert!(capabilities.add.is_none());
    let labels = manifests.namespace.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
}

#[test]
fn nodes_start_together_and_stop_one_by_one() {
    let manifests = Manifests::read();
    let set = manifests.set.spec.as_ref().unwrap();
    assert_eq!(set.replicas, Some(3));
    assert_eq!(set.pod_management_policy.as_deref(), Some("Parallel"));
    assert_eq!(set.update_strategy.as_ref().unwrap().type_.as_deref(), Some("RollingUpdate"));
    assert_eq!(manifests.budget.spec.unwrap().max_unavailable, Some(IntOrString::Int(1)));
}

/// The environment that a pod would be given, on a machine whose zone is `zone` (empty: unknown).
fn environment(container: &Container, pod: &str, zone: &str) -> Vec<(String, String)> {
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    let mut expand = |variable: &EnvVar| {
        let mut value = match (&variable.value, &variable.value_from) {
            (Some(value), None) => value.clone(),
            (None, Some(source)) => match (&source.field_ref, &source.secret_key_ref) {
                (Some(field), None) => match field.field_path.as_str() {
                    "metadata.name" => pod.to_owned(),
                    "metadata.namespace" => "kvd".to_owned(),
                    "metadata.labels['topology.kubernetes.io/zone']" => zone.to_owned(),
                    "spec.nodeName" => format!("machine-of-{pod}"),
                    other => panic!("the test does not know the field {other}"),
                },
                (None, Some(secret)) => format!("{}/{}", secret.name, secret.key),
                other => panic!("{}: {other:?}", variable.name),
            },
            other => panic!("{}: {other:?}", variable.name),
        };
        // Only variables that stand above are expanded.
        for (name, earlier) in &given {
            value = value.replace(&format!("$({name})"), earlier);
        }
        assert!(
            !value.contains("$("),
            "{} names a variable that does not stand above it: {value}",
            variable.name
        );
        assert!(
            given.insert(variable.name.clone(), value.clone()).is_none(),
            "{} is there twice",
            variable.name
        );
        (variable.name.clone(), value)
    };
    container.env.as_ref().unwrap().iter().map(&mut expand).collect()
}

fn config(container: &Container, pod: &str, zone: &str) -> Config {
    let args = container.args.as_deref().unwrap();
    let ["serve", flags @ ..] = &args.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
        panic!("the pod should serve, not {args:?}")
    };
    let no_files = |path: &std::path::Path| panic!("the pod has no file {}", path.display());
    let loaded = Config::from_args_and_env(flags, environment(container, pod, zone), no_files).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    loaded.config
}

#[test]
fn the_server_understands_what_it_is_given() {
    let manifests = Manifests::read();
    let container = manifests.container();
    let set = manifests.set.spec.as_ref().unwrap();
    let mut advertised = BTreeSet::new();
    for ordinal in 0..set.replicas.unwrap() {
        let pod = format!("{}-{ordinal}", manifests.set.metadata.name.as_ref().unwrap());
        let config = config(container, &pod, "zone-b");
        let ports = manifests.ports();
        for (listen, advertise, name) in [
            (config.listen_client, &config.advertise_client, "client"),
            (config.listen_peer, &config.advertise_peer, "peer"),
            (config.listen_http, &config.advertise_http, "http"),
        ] {
            assert_eq!(Some(&i32::from(listen.port())), ports.get(name));
            assert!(listen.ip().is_unspecified());
            assert_eq!(
                *advertise,
                format!("{pod}.{}.kvd.svc:{}", set.service_name.as_ref().unwrap(), listen.port())
            );
        }
        assert!(config.seeds.contains(&config.advertise_peer), "{:?}", config.seeds);
        advertised.insert(config.advertise_peer.clone());
        assert_eq!(config.zone, "zone-b");
        assert_eq!(config.node_name, format!("machine-of-{pod}"));
        assert_eq!(config.cluster_token.reveal(), "kvd-cluster-token/token");
        assert_eq!(config.log.format, LogFormat::Json);
        assert_eq!(config.cluster.initial_nodes, 3);
        assert_eq!(config.cluster.replication_factor, 3);
    }
    assert_eq!(advertised.len(), 3);
}

#[test]
fn a_machine_without_a_zone_is_no_obstacle() {
    assert_eq!(config(Manifests::read().container(), "kvd-0", "").zone, "");
}

#[test]
fn the_data_directory_is_the_volume() {
    let manifests = Manifests::read();
    let container = manifests.container();
    let config = config(container, "kvd-0", "");
    let [mount] = container.volume_mounts.as_deref().unwrap() else { panic!("one volume") };
    assert_eq!(config.data_dir, PathBuf::from(&mount.mount_path));
    let claims = manifests.set.spec.as_ref().unwrap().volume_claim_templates.as_ref().unwrap();
    let [claim] = claims.as_slice() else { panic!("one claim") };
    assert_eq!(claim.metadata.name.as_ref(), Some(&mount.name));
    assert!(claim.spec.as_ref().unwrap().resources.as_ref().unwrap().requests.is_some());
}

#[test]
fn a_node_has_time_to_stop_before_it_is_killed() {
    let manifests = Manifests::read();
    let killed_after = u64::try_from(manifests.pod().termination_grace_period_seconds.unwrap()).unwrap();
    let grace = Duration::from_millis(config(manifests.container(), "kvd-0", "").shutdown.grace_ms);
    // Twice, as the grace is for requests and leaders; the disk wants its share.
    assert!(grace * 2 <= Duration::from_secs(killed_after), "{grace:?}");
}

#[test]
fn the_image_is_what_the_pod_expects() {
    let dockerfile = read("container/Dockerfile");
    let lines: Vec<&str> = dockerfile.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let value = |keyword: &str| {
        let found: Vec<_> =
            lines.iter().filter_map(|line| line.strip_prefix(keyword)).map(str::trim).collect();
        let [one] = found.as_slice() else { panic!("{keyword} is there {} times", found.len()) };
        *one
    };
    let manifests = Manifests::read();
    let container = manifests.container();
    let context = manifests.pod().security_context.as_ref().unwrap();
    let (user, group) = (context.run_as_user.unwrap(), context.run_as_group.unwrap());
    assert_eq!(value("USER "), format!("{user}:{group}"));
    assert_eq!(value("VOLUME "), container.volume_mounts.as_ref().unwrap()[0].mount_path);
    assert_eq!(value("ENTRYPOINT "), r#"["/usr/local/bin/kvd"]"#);
    assert_eq!(value("CMD "), r#"["serve"]"#);
    let exposed: BTreeSet<i32> = value("EXPOSE ").split(' ').map(|port| port.parse().unwrap()).collect();
    assert_eq!(exposed, manifests.ports().into_values().collect());
    assert_eq!(container.image.as_deref(), Some(concat!("kvd:", env!("CARGO_PKG_VERSION"))));
    // What the plain builder doesn't know.
    for unknown in ["--mount", "<<", "--link", "# syntax", "--security", "--network"] {
        assert!(!dockerfile.contains(unknown), "{unknown} needs BuildKit");
    }
}
