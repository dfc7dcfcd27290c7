"""The invoke API of AWS Lambda, and whoever gives keys and tokens out, in one server that writes down what it is asked.

Signatures are checked with AWS's own library (botocore): it makes the text of the request that came, and signs it with the same key.
"""
import base64, hashlib, http.server, json, struct, sys, threading, time, urllib.parse, zlib

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

KEYS = {"AKIDTEST": "test/secret+key", "AKIDROLE": "role-secret"}
SEEN, LOCK, COUNTS = [], threading.Lock(), {}
FAIL = set()


class Pinned(SigV4Auth):
    """Signs for a time that is not now."""

    def check(self, method, url, body, fields, signed, at):
        request = AWSRequest(method=method, url=url, data=body, headers={name: fields[name] for name in signed})
        request.context["timestamp"] = at
        canonical = self.canonical_request(request)
        return self.signature(self.string_to_sign(request, canonical), request)

    def _normalize_url_path(self, path):
        # S3 takes paths as they are sent.
        return path if self._service_name == "s3" else super()._normalize_url_path(path)

    def payload(self, request):
        return request.headers.get("X-Amz-Content-SHA256") or super().payload(request)


def is_signed(handler, body):
    fields = {name.lower(): value for name, value in handler.headers.items()}
    said = fields.get("authorization", "")
    if not said.startswith("AWS4-HMAC-SHA256 "):
        return False
    parts = dict(part.strip().split("=", 1) for part in said.split(" ", 1)[1].split(","))
    key, _, region, service, _ = parts["Credential"].split("/")
    if key not in KEYS or abs(time.time() - time.mktime(time.strptime(fields["x-amz-date"], "%Y%m%dT%H%M%SZ")) + time.timezone) > 300:
        return False
    if fields.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD") not in ("UNSIGNED-PAYLOAD", hashlib.sha256(body).hexdigest()):
        return False
    signed = parts["SignedHeaders"].split(";")
    if any(name.startswith("x-amz-") and name not in signed for name in fields):
        return False
    signer = Pinned(Credentials(key, KEYS[key]), service, region)
    url = "http://" + fields["host"] + handler.path
    return signer.check(handler.command, url, body, fields, signed, fields["x-amz-date"]) == parts["Signature"]


def function(name, event):
    """What the function returns, and what is said of it."""
    if name == "echo":
        return {"statusCode": 200, "headers": {"content-type": "application/json", "x-function": "echo"}, "body": json.dumps(event)}, {}
    if name == "plain":
        return {"hello": event.get("rawPath")}, {}
    if name == "binary":
        return {"statusCode": 200, "headers": {"content-type": "image/png"}, "isBase64Encoded": True, "body": base64.b64encode(bytes(range(256))).decode()}, {}
    if name == "cookies":
        return {"statusCode": 201, "cookies": ["a=1; Path=/", "b=2"], "multiValueHeaders": {"X-Many": ["1", "2"]}, "body": "set"}, {}
    if name == "fails":
        return {"errorMessage": "secret detail", "errorType": "ValueError"}, {"X-Amz-Function-Error": "Unhandled"}
    if name == "bad":
        return {"statusCode": 200, "headers": {"a": "b\r\nc: d"}}, {}
    if name == "big":
        return {"statusCode": 200, "body": "x" * (7 << 20)}, {}
    if name == "empty":
        return {"statusCode": 204}, {}
    if name == "teapot":
        return {"statusCode": 503, "body": "tea"}, {}
    if name == "cold":
        log = "START\nREPORT RequestId: 1\tDuration: 3.21 ms\tBilled Duration: 4 ms\tMemory Size: 128 MB\tMax Memory Used: 36 MB\tInit Duration: 118.63 ms\t\n"
        return {"statusCode": 200, "body": "cold"}, {"X-Amz-Log-Result": base64.b64encode(log.encode()).decode()}
    if name == "cached":
        with LOCK:
            COUNTS[name] = COUNTS.get(name, 0) + 1
        return {"statusCode": 200, "headers": {"cache-control": "max-age=60", "etag": '"1"'}, "body": str(COUNTS[name])}, {}
    return None, {}


def token(claims):
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
    return part({"alg": "none"}) + "." + part(claims) + ".c2ln"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b"", **fields):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self):
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else b""
        while "chunked" in self.headers.get("Transfer-Encoding", ""):
            size = int(self.rfile.readline(), 16)
            body += self.rfile.read(size)
            self.rfile.readline()
            if not size:
                break
        path, _, query = self.path.partition("?")
        if path == "/seen":
            with LOCK:
                return self.answer(200, SEEN)
        if path == "/control":
            FAIL.symmetric_difference_update(query.split(","))
            return self.answer(200)
        with LOCK:
            fields = [[name.lower(), value] for name, value in self.headers.items()]
            SEEN.append({"method": self.command, "target": self.path, "fields": fields, "body": body.decode("latin-1")})
        kind = path.split("/")[1]
        if kind in FAIL:
            return self.answer(503)
        if kind == "2015-03-31":
            return self.invoke(path, body)
        if kind == "2021-11-15":
            return self.stream(path, body)
        if kind == "latest":
            return self.instance(path)
        if kind == "container":
            if self.headers.get("Authorization") != "container-token":
                return self.answer(401)
            return self.answer(200, self.keys(30))
        if kind == "sts":
            asked = dict(urllib.parse.parse_qsl(query))
            if asked.get("WebIdentityToken") != "web.identity.token" or asked.get("RoleArn") != "arn:aws:iam::1:role/r":
                return self.answer(400)
            keys = self.keys(3600)
            xml = "<R><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>%s</Expiration></Credentials></R>"
            return self.answer(200, (xml % (keys["AccessKeyId"], keys["SecretAccessKey"], keys["Token"], keys["Expiration"])).encode())
        if kind == "token":
            with LOCK:
                COUNTS["token"] = COUNTS.get("token", 0) + 1
                count = COUNTS["token"]
            return self.answer(200, {"access_token": "token-%d" % count, "token_type": "Bearer", "expires_in": int(query or 3600)})
        if kind == "exchange":
            return self.answer(200, {"id_token": token({"exp": int(time.time()) + 3600, "by": "key"})})
        if kind == "computeMetadata":
            if self.headers.get("Metadata-Flavor") != "Google":
                return self.answer(403)
            audience = dict(urllib.parse.parse_qsl(query))["audience"]
            return self.answer(200, token({"exp": int(time.time()) + 3600, "aud": audience}).encode())
        if kind == "again":
            with LOCK:
                COUNTS[kind] = COUNTS.get(kind, 0) + 1
            if COUNTS[kind] == 1:
                return self.answer(503, b"", Retry_After="2")
        signed = is_signed(self, body)
        return self.answer(200 if signed else 403, {"signed": signed, "body": body.decode("latin-1")})

    def keys(self, seconds):
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        return {"Code": "Success", "AccessKeyId": "AKIDROLE", "SecretAccessKey": "role-secret", "Token": "session-token", "Expiration": at}

    def instance(self, path):
        if path == "/latest/api/token":
            return self.answer(200 if self.command == "PUT" and self.headers.get("X-aws-ec2-metadata-token-ttl-seconds") else 405, b"imds-token")
        if self.headers.get("X-aws-ec2-metadata-token") != "imds-token":
            return self.answer(401)
        if path.endswith("/security-credentials/"):
            return self.answer(200, b"my-role\n")
        return self.answer(200 if path.endswith("/my-role") else 404, self.keys(3600))

    def invoke(self, path, body):
        if not is_signed(self, body):
            return self.answer(403, {"message": "bad signature"}, x_amzn_ErrorType="InvalidSignatureException")
        name = urllib.parse.unquote(path.split("/")[3])
        if name == "throttled":
            return self.answer(429, {"Reason": "ConcurrentInvocationLimitExceeded"}, x_amzn_ErrorType="TooManyRequestsException")
        if name == "flaky":
            with LOCK:
                COUNTS[name] = COUNTS.get(name, 0) + 1
            if COUNTS[name] % 2:
                return self.answer(503, b"", x_amzn_ErrorType="ServiceException")
            return self.answer(200, {"statusCode": 200, "body": "at last"})
        if name == "later":
            with LOCK:
                COUNTS[name] = COUNTS.get(name, 0) + 1
            if COUNTS[name] == 1:
                return self.answer(503, b"", x_amzn_ErrorType="ServiceException", Retry_After="2")
            return self.answer(200, {"statusCode": 200, "body": "in time"})
        if name == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"{")
            self.close_connection = True
            return
        if name == "slow":
            time.sleep(2)
            return self.answer(200, {"statusCode": 200})
        if name == "nonsense":
            return self.answer(200, b"<html>")
        event = json.loads(body)
        if self.headers.get("X-Amz-Invocation-Type") == "Event":
            return self.answer(202)
        returned, said = function(name, event)
        if returned is None:
            return self.answer(404, {"Message": "Function not found"}, x_amzn_ErrorType="ResourceNotFoundException:http://x/")
        return self.answer(200, returned, **said)

    def stream(self, path, body):
        """Answers in messages of the event stream, one every tenth of a second."""
        if not is_signed(self, body):
            return self.answer(403, {"message": "bad signature"}, x_amzn_ErrorType="InvalidSignatureException")
        name = urllib.parse.unquote(path.split("/")[3])
        head = json.dumps({"statusCode": 201, "headers": {"content-type": "text/event-stream", "x-streamed": "yes"}, "cookies": ["a=1"]}).encode()
        log = base64.b64encode(b"REPORT RequestId: 1\tBilled Duration: 7 ms\tInit Duration: 2.00 ms\t\n").decode()
        written = {
            "streams": [head[:10], head[10:] + b"\0\0\0", b"\0\0\0\0\0data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n", {"LogResult": log}],
            "raw": [b"\x00\x01", b"\x02", {}],
            "whole": [json.dumps({"statusCode": 202, "body": "whole"}).encode(), {}],
            "dies": [head + b"\0" * 8 + b"data: 1\n\n", {"ErrorCode": "Unhandled", "ErrorDetails": "secret detail"}],
            "fails": [{"ErrorCode": "Unhandled", "ErrorDetails": "secret detail"}],
            "bad": [b'{"statusCode":"x"}' + b"\0" * 8, {}],
            "unlike": [b'{"statusCode":"x"}', {}],
            "cut": [head + b"\0" * 8 + b"data: 1\n\n"],
        }[name]
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.amazon.eventstream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in written:
            kind, payload = ("PayloadChunk", part) if isinstance(part, bytes) else ("InvokeComplete", json.dumps(part).encode())
            fields = b"".join(
                bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
                for name, value in ((":message-type", "event"), (":event-type", kind))
            )
            prelude = struct.pack(">II", len(fields) + len(payload) + 16, len(fields))
            message = prelude + struct.pack(">I", zlib.crc32(prelude)) + fields + payload
            message += struct.pack(">I", zlib.crc32(message))
            self.wfile.write(b"%x\r\n%s\r\n" % (len(message), message))
            self.wfile.flush()
            time.sleep(0.1)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
print(server.server_address[1], flush=True)
server.serve_forever()
