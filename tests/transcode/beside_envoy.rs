//! Thousands of requests, honest and nearly honest, each to Envoy's transcoder and to this one: what the service sees, the status and the answer's JSON
//! are the same, but for what `tests/peers/beside_envoy/explained.py` says, one by one, and where it comes from. docs/guide/transcode.md tells people.
//!
//! The APIs are Google's own, as far as their `.proto` files can be had with annotations, and one of the tests' with a rule of every kind
//! (`protos/every`). Cases are made from a seed: always the same one, unless another is named:
//!
//! ```sh
//! PORTCULLIS_SEED=42 make test TESTS=beside_envoy                          # other cases
//! PORTCULLIS_SEED=42 PORTCULLIS_CASE=17 make test TESTS=beside_envoy       # one of them
//! PORTCULLIS_CASES=100000 make test TESTS=beside_envoy                     # a long hunt
//! ```

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::protocols::peer::play;

const CASES: &str = "8000";
const SERVICES: [&str; 4] =
    ["every.v1.Every", "google.iam.v1.IAMPolicy", "google.longrunning.Operations", "google.cloud.location.Locations"];

struct Envoy {
    process: Child,
    port: Port,
}

impl Envoy {
    fn start(files: &Files, program: &Path, descriptors: &Path, backend: u16) -> Envoy {
        let port = Port::lease();
        let config = files.write("envoy.json", config(port.number(), backend, descriptors).to_string());
        let log = std::fs::File::create(files.dir().join("envoy.log")).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(config).args(["--disable-hot-restart", "--concurrency", "1", "-l", "warn"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut envoy = Envoy { process: command.spawn().unwrap(), port };
        eventually("Envoy listens", || {
            let ended = envoy.process.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", std::fs::read_to_string(files.dir().join("envoy.log")).unwrap());
            TcpStream::connect(("127.0.0.1", envoy.port.number())).is_ok()
        });
        envoy
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn config(port: u16, backend: u16, descriptors: &Path) -> Value {
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let address = |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let transcoder = json!({
        "@type": kind("filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder"),
        "proto_descriptor": descriptors,
        "services": SERVICES,
        "auto_mapping": true,
        "convert_grpc_status": true,
        // As google.api.http says.
        "url_unescape_spec": "ALL_CHARACTERS_EXCEPT_SLASH",
        "query_param_unescape_plus": true,
        "request_validation_options": { "reject_unknown_method": true, "reject_unknown_query_parameters": true },
    });
    let router = json!({ "@type": kind("filters.http.router.v3.Router") });
    let routes = json!([{ "match": { "prefix": "/" }, "route": { "cluster": "backend", "timeout": "20s" } }]);
    let manager = json!({
        "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "edge",
        "codec_type": "HTTP1",
        "normalize_path": true,
        "merge_slashes": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "http_filters": [{ "name": "transcoder", "typed_config": transcoder }, { "name": "router", "typed_config": router }],
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
    });
    let http2 = json!({
        "@type": kind("upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": { "http2_protocol_options": {} },
    });
    let endpoints = json!([{ "lb_endpoints": [{ "endpoint": { "address": address(backend) } }] }]);
    let cluster = json!({
        "name": "backend",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": { "cluster_name": "backend", "endpoints": endpoints },
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2 },
    });
    let chains = json!([{ "filters": [{ "name": "http", "typed_config": manager }] }]);
    json!({
        "static_resources": {
            "listeners": [{ "address": address(port), "filter_chains": chains }],
            "clusters": [cluster],
        }
    })
}

/// The public APIs and the tests' own, as a set of descriptors.
fn everything(installed: &Path) -> Vec<u8> {
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/transcode/protos");
    let mut compiler = protox::Compiler::new([protos(), installed.to_owned(), known]).unwrap();
    compiler.include_imports(true);
    for file in [
        "every/rules.proto",
        "google/iam/v1/iam_policy.proto",
        "google/longrunning/operations_proto.proto",
        "google/cloud/location/locations.proto",
        "google/rpc/error_details.proto",
        "google/rpc/status.proto",
    ] {
        compiler.open_file(file).unwrap();
    }
    compiler.encode_file_descriptor_set()
}

#[test]
fn requests_and_answers_are_the_same_as_behind_envoy() {
    let installed = installed("envoy-transcoder", &["tests/transcode/envoy.sh"]);
    let files = Files::new();
    let set = files.write("all.pb", everything(&installed));
    let seen = files.write("seen.jsonl", "");
    let arguments = [set.to_str().unwrap(), seen.to_str().unwrap()];
    let backend = Peer::start("beside_envoy/backend.py", &arguments);
    let envoy = Envoy::start(&files, &installed.join("envoy/_bin/envoy"), &set, backend.port());
    let yaml = format!(
        "
    listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
    server: {{ workers: 1 }}
    services:
      every:
        endpoints: ['127.0.0.1:{}']
        protocol: grpc
        transcode: {{ descriptors: all.pb, services: [{}, every.v1.Cuts], names: both }}
    routes:
      - {{ path: '/*', service: every, ambiguous_paths: keep }}
",
        backend.port(),
        SERVICES.join(", ")
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let named = |name: &str| std::env::var(name).ok();
    let seed = named("PORTCULLIS_SEED").unwrap_or_else(|| "1".to_owned());
    let cases = named("PORTCULLIS_CASES").unwrap_or_else(|| CASES.to_owned());
    let (theirs, ours) = (envoy.port.number().to_string(), gateway.port().to_string());
    let mut arguments = vec![arguments[0], &seed, &cases, &theirs, &ours, arguments[1]];
    let one = named("PORTCULLIS_CASE");
    arguments.extend(one.as_deref());
    let told = play("beside_envoy/play.py", &arguments);
    eprintln!("PORTCULLIS_SEED={seed}: {} cases, {}\nexplained: {:#}", told["cases"], told["kinds"], told["explained"]);
    let failures: Vec<&str> = told["failures"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(failures.is_empty(), "PORTCULLIS_SEED={seed}: {} differ\n{}", told["differ"], failures.join("\n"));
    // Nothing is explained that does not happen, so that no explanation covers what it was not meant for.
    let unused: Vec<&str> = told["unused"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let usual = ["PORTCULLIS_SEED", "PORTCULLIS_CASES", "PORTCULLIS_CASE"].iter().all(|name| named(name).is_none());
    assert!(!usual || unused.is_empty(), "explains nothing: {unused:?}");
    assert!(!gateway.stderr().contains("panicked"), "{}", gateway.stderr());
    assert_eq!(gateway.admin_get("/healthz").0, 200);
}
