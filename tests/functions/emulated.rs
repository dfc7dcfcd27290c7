//! Real functions in Python, run by an emulator of AWS (ministack).

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use super::cloud::python;
use super::*;

/// Puts a function there with AWS's own library.
const DEPLOY: &str = r#"
import io, sys, zipfile, botocore.session
code = '''
import base64, json
def handler(event, context):
    if event.get("rawPath", "").endswith("/fails"):
        raise ValueError("on purpose")
    body = event.get("body") or ""
    if event.get("isBase64Encoded"):
        body = base64.b64decode(body).hex()
    return {
        "statusCode": 201,
        "headers": {"X-Method": event["requestContext"]["http"]["method"]},
        "cookies": ["seen=1"],
        "body": json.dumps({"path": event["rawPath"], "query": event.get("queryStringParameters"), "body": body}),
    }
'''
archive = io.BytesIO()
with zipfile.ZipFile(archive, "w") as files:
    files.writestr("code.py", code)
client = botocore.session.get_session().create_client(
    "lambda", region_name="eu-central-1", endpoint_url=sys.argv[1], aws_access_key_id="test", aws_secret_access_key="test")
client.create_function(FunctionName="greet", Runtime="python3.11", Role="arn:aws:iam::000000000000:role/r", Handler="code.handler",
    Code={"ZipFile": archive.getvalue()})
"#;

struct Emulator {
    process: Child,
    port: Port,
}

impl Emulator {
    fn start(files: &Files) -> Emulator {
        let port = Port::lease();
        let log = std::fs::File::create(files.dir().join("emulator.log")).unwrap();
        let process = Command::new(python().with_file_name("ministack"))
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", port.number().to_string())
            .env("SERVICES", "lambda,iam,logs")
            .env("HOME", files.dir())
            .current_dir(files.dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let emulator = Emulator { process, port };
        eventually("the emulator", || TcpStream::connect(("127.0.0.1", emulator.port.number())).is_ok());
        emulator
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_function_answers() {
    let files = Files::new();
    let emulator = Emulator::start(&files);
    let endpoint = format!("http://127.0.0.1:{}", emulator.port.number());
    let deployed = Command::new(python()).args(["-c", DEPLOY, &endpoint]).output().unwrap();
    assert!(deployed.status.success(), "{}", String::from_utf8_lossy(&deployed.stderr));
    let yaml = format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
        server: {{ workers: 1 }}
        services:
          greet: {{ lambda: {{ function: greet, endpoint: '{endpoint}' }} }}
          streamed: {{ lambda: {{ function: greet, endpoint: '{endpoint}', invoke: stream }} }}
        routes: [ {{ path: '/greet/*', service: greet }}, {{ path: '/streamed', service: streamed }} ]
        "
    );
    let gateway = Gateway::start_with(&yaml, &ENV);
    let answer = request(gateway.port(), "POST", "/greet/x?a=1&a=2", &[("Content-Type", "text/plain")], b"hello");
    assert_eq!(
        (answer.status, answer.header("x-method"), answer.header("set-cookie")),
        (201, Some("POST"), Some("seen=1")),
        "{}",
        answer.text()
    );
    assert_eq!(answer.json(), json!({ "path": "/greet/x", "query": { "a": "1,2" }, "body": "hello" }));
    let answer = request(gateway.port(), "POST", "/greet/x", &[("Content-Type", "image/png")], &[0, 255]);
    assert_eq!(answer.json()["body"], "00ff");
    // In its event stream, too.
    let answer = get(gateway.port(), "/streamed");
    assert_eq!((answer.status, answer.json()["path"].as_str()), (201, Some("/streamed")), "{}", answer.text());
    get(gateway.port(), "/greet/fails").assert_problem(502, "lambda", "function_error");
}
