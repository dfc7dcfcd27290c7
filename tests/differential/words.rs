//! What the generated requests and answers are made of.

pub const METHODS: &[&str] = &["GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
pub const ODD_METHODS: &[&str] =
    &["TRACE", "CONNECT", "PROPFIND", "M-SEARCH", "get", "PRI", "PURGE", "A", "!#$%&'*+-.^_`|~", "AVERYLONGMETHODNAMETHATISTOOLONGFORUS"];
pub const VERSIONS: &[&str] = &["HTTP/1.0", "HTTP/1.0", "HTTP/1.0", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.1 ", ""];

pub const SEGMENTS: &[&[u8]] = &[b"a", b"products", b"%41", b"~b", b"a+b", b"x;p=1", b"%C3%A4", b"a%20b", b"1.2", b"a:b@c", b"$&'()*,="];
pub const ODD_SEGMENTS: &[&[u8]] = &[
    b"..", b".", b"%2e%2E", b"%2E", b"", b"%2F", b"%2f..", b"%5c", b"\\", b"%00", b"%zz", b"%", b"%4", b"a#f", b"{x}", b"|", b"^", b"<>",
    b"\"", b"`", b"\xc3\xa4", b"\xff", b"a..", b"...", b";", b"%25", b"%3F", b"%3b", b"a\tb", b"a b", b"[x]", b"%2525", b"..;", b"\x7f",
];
pub const QUERIES: &[&[u8]] = &[
    b"", b"a=b", b"a=b&a=c", b"?", b"a=?b", b"a=%00", b"%zz", b"a=b#c", b"x=\xc3\xa4", b"x=\xff", b"key=test", b"a=b&key=test&c=d", b"KEY=test",
    b"a=b+c%20d", b"/../", b"&", b"=", b"a=\"<>\"", b"a={}", b"a=|\\^`", b"a=[0]", b"a b",
];

pub const HOSTS: &[&[u8]] = &[
    b"", b"Host: h:8080\r\n", b"Host: H.Example.\r\n", b"Host: [::1]:80\r\n", b"Host:h\r\n", b"Host: h \r\n", b"Host: h\r\nHost: h\r\n",
    b"Host: h\r\nHost: g\r\n", b"Host: \r\n", b"Host: a b\r\n", b"Host: u@h\r\n", b"Host: h,h\r\n", b"Host: h/x\r\n", b"Host: \xff\r\n",
    b"hOsT: h\r\n", b"Host: h:\r\n", b"Host: h:x\r\n", b"Host: 127.0.0.1\r\n", b"Host : h\r\n",
];

/// Fields of requests.
pub const FIELDS: &[&[u8]] = &[
    b"Accept: */*", b"User-Agent: differ/1", b"X-A: 1", b"x-a: 2", b"X-A: 3", b"X-B: b", b"Cookie: a=b", b"Cookie: c=d; key=test",
    b"X-Empty:", b"X-Tab:\tv\t", b"X-Space:    v    ", b"X-Inner: a   b", b"X-None:v", b"X-Obs: \xe4\xf6\xfc", b"X-Utf: \xc3\xa4",
    b"X-Quote: \"a,b\", c", b"X-List: a, b,,c", b"Connection: x-a", b"Connection: X-B, keep-alive", b"Connection: keep-alive",
    b"connection: Keep-Alive, X-Tab", b"Connection: close", b"Connection: content-length", b"Connection: host", b"Connection: cookie, x-set",
    b"Connection: x-request-id, x-forwarded-for", b"Connection: transfer-encoding", b"Connection: upgrade", b"Connection: ,, ,x-a,",
    b"Connection: ", b"Connection: x-auth-subject, authorization", b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: trailers",
    b"TE: gzip;q=0.5", b"Trailer: X-T", b"Upgrade: h2c", b"Upgrade: websocket", b"HTTP2-Settings: AAA", b"Proxy-Authorization: Basic eA==",
    b"Proxy-Authenticate: Basic", b"Authorization: Bearer x", b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-For: 192.0.2.8, 192.0.2.9",
    b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil", b"X-Forwarded-Port: 1", b"X-Forwarded-Prefix: /x", b"X_Forwarded_For: 192.0.2.7",
    b"Forwarded: for=192.0.2.7;host=evil", b"X-Real-IP: 192.0.2.7", b"X-Request-Id: of-the-client", b"X-Request-ID: \"odd\"",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"traceparent: nonsense", b"tracestate: a=b", b"X-Auth-Subject: root",
    b"X-Auth-Scopes: all", b"X-Consumer-Name: root", b"X_Consumer_Name: root", b"X-Auth-Method: jwt", b"X-Api-Key: test", b"X-Api-Key: wrong",
    b"x-api-key: test", b"Via: 1.0 fred", b"Range: bytes=0-1", b"If-None-Match: \"x\"", b"Accept-Encoding: gzip", b"Content-Type: application/json",
    b"Content-Type: text/plain", b"Content-Encoding: gzip", b"Max-Forwards: 0", b"X-Set: of the client", b"X-Removed: of the client",
    b"X-Added: of the client", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Early-Data: 1", b"Date: Sun, 06 Nov 1994 08:49:37 GMT",
    b"Origin: https://a.example", b"X-Odd!#$%&'*+.^`|~: v", b"Expect: 100-continue", b"A: 1", b"Server: x",
];
/// Fields that make most requests bad ones.
pub const ODD_FIELDS: &[&[u8]] = &[
    b"Content-Length: 0", b"X-Nul: a\0b", b"X-Cr: a\rb", b"X-Del: a\x7fb", b"No colon", b": nothing", b"X-Space : v", b" X-Fold: v", b"X(paren): v",
    b"X-\xff: v", b"Expect: 200-ok", b"Transfer-Encoding: chunked", b"X-Lf: a\nX-Injected: 1",
];

/// Ways to say, or not to say, how long a body is. LENGTH is its length.
pub const FRAMING: &[&str] = &[
    "Content-Length: 0", "Content-Length: 4", "Content-Length: LENGTH", "Content-Length: LENGTH", "Content-Length: +LENGTH", "Content-Length: -1",
    "Content-Length: LENGTH, LENGTH", "Content-Length: 99999", "Content-Length:LENGTH ", "Content-Length : LENGTH", "content-length: 00LENGTH",
    "Content-Length: 0xa", "Content-Length: LENGTH;x", "Content-Length: ", "Content-Length: 18446744073709551617", "Content-Length: 1e1",
    "Content_Length: LENGTH", "Content-Length\t: LENGTH", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked",
    "Transfer-Encoding:chunked ", "Transfer-Encoding: Chunked", "Transfer-Encoding : chunked", "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: xchunked", "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding:\r\n chunked", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: ", "transfer_encoding: chunked",
    "X: a\r\nTransfer-Encoding: chunked", "X: a\nTransfer-Encoding: chunked", "X: a\rTransfer-Encoding: chunked", "Connection: close, content-length",
    "Connection: transfer-encoding", "Expect: 100-continue", "Upgrade: websocket\r\nConnection: upgrade", "TE: chunked", "Trailer: content-length",
    "Content-Length: LENGTH\r\n ", "Content-Encoding: chunked",
];

/// Lines before a chunk of four bytes.
pub const CHUNK_SIZES: &[&str] = &[
    "4\r\n", "04\r\n", "4;x\r\n", "4 ;x\r\n", "4 \r\n", " 4\r\n", "+4\r\n", "0x4\r\n", "4\n", "4\r", "-4\r\n", "4;\r\n", "4;x=\"\r\n\"\r\n", "\r\n", "4,4\r\n",
    "0000000000000000000004\r\n", "ffffffffffffffff\r\n", "4;\x01\r\n", "4\t\r\n", "4.0\r\n", "g\r\n", "4;x\n", "4\r\n\r\n",
];

pub const BYTES: &[u8] = b"\r\n\t \0:;,0159afxX\x0b\x0c\x7f\x80\xa0\xff-_+\"\\/?#%";

pub const ANSWER_FIELDS: &[&[u8]] = &[
    b"Content-Type: text/plain", b"Server: differ", b"Set-Cookie: a=b", b"Set-Cookie: c=d", b"X-R: 1", b"x-r: 2", b"X-R: 3", b"X-Empty:",
    b"X-Space:    v   ", b"X-Obs: \xe4", b"ETag: \"x\"", b"Cache-Control: max-age=5", b"Vary: *", b"X-Frame-Options: SAMEORIGIN", b"X-Removed: backend",
    b"Location: /else", b"X-Request-Id: of-the-backend", b"Date: Sun, 06 Nov 1994 08:49:37 GMT", b"Via: 1.1 inner", b"Alt-Svc: h3=\":443\"",
];
pub const ODD_ANSWER_FIELDS: &[&[u8]] = &[
    b"Connection: close", b"Connection: keep-alive", b"Connection: x-r", b"Connection: content-length, set-cookie", b"Connection: date, server",
    b"Keep-Alive: timeout=1, max=1", b"Proxy-Connection: x", b"Proxy-Authenticate: Basic", b"WWW-Authenticate: Basic", b"TE: x", b"Trailer: X-T",
    b"Upgrade: h2c", b"Upgrade: websocket", b"X-Nul: a\0b", b"X-Cr: a\rb", b"X-Lf: a\nX-Injected: 1", b"No colon", b"X Y: v", b"X-Space : v",
    b" X-Fold: v", b"X-Fold: a\r\n b", b": v", b"X-Odd!#$%&'*+.^`|~: v", b"X(paren): v", b"X-\xff: v", b"Content-Type: text/event-stream",
    b"Content-Type: application/grpc", b"Content-Encoding: gzip", b"Accept-Ranges: bytes", b"X-Tab:\tv\t", b"X_Under: v", b"Date: nonsense", b"X-Del: a\x7fb",
    b"HTTP/1.1 200 OK", b"Content-Length: 4", b"Transfer-Encoding: chunked",
];

pub const INTERIMS: &[&[u8]] = &[
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nConnection: x-h\r\nX-H: 1\r\nSet-Cookie: a=b\r\nKeep-Alive: 5\r\n\r\n", b"HTTP/1.1 199 Odd\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.0 103 Early Hints\r\n\r\n", b"HTTP/1.1 103 Early\r\nHints\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
];
pub const STATUS_LINES: &[&[u8]] = &[
    b"HTTP/1.1 200 \r\n", b"HTTP/1.1 200\r\n", b"HTTP/1.1 200 Custom Reason\r\n", b"HTTP/1.1 200 R\xe4son\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 304 Not Modified\r\n", b"HTTP/1.1 205 Reset Content\r\n", b"HTTP/1.1 206 Partial\r\n", b"HTTP/1.1 301 Moved\r\n",
    b"HTTP/1.1 401 No\r\n", b"HTTP/1.1 418 Teapot\r\n", b"HTTP/1.1 500 Oops\r\n", b"HTTP/1.1 503 Busy\r\n", b"HTTP/1.1 599 Odd\r\n", b"HTTP/1.1 999 Far\r\n",
    b"HTTP/1.1 600 Far\r\n", b"HTTP/1.1 000 No\r\n", b"HTTP/1.1 099 No\r\n", b"HTTP/1.1 20 No\r\n", b"HTTP/1.1 2000 No\r\n", b"HTTP/1.2 200 OK\r\n",
    b"HTTP/2.0 200 OK\r\n", b"HTTP/2 200 OK\r\n", b"http/1.1 200 OK\r\n", b"HTTP/1.1  200 OK\r\n", b" HTTP/1.1 200 OK\r\n", b"\r\nHTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\n", b"HTTP/1.1 200 O\rK\r\n", b"ICY 200 OK\r\n", b"SSH-2.0-x\r\n", b"HTTP/1.1 +20 OK\r\n", b"HTTP/1.1 200OK\r\n", b"HTTP/1.1\t200 OK\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n",
];

/// The last fields of an answer's head, and its body.
pub const ODD_BODIES: &[(&str, &str)] = &[
    ("Content-Length: 4\r\n", "abcd"),
    ("Content-Length: 4\r\n", "abcd"),
    ("Content-Length: 0\r\n", ""),
    ("Transfer-Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
    ("", "abcd"),
    ("", ""),
    ("Connection: close\r\n", "abcd"),
    ("Content-Length: 10\r\n", "abcd"),
    ("Content-Length: 4\r\n", "abcdHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
    ("Content-Length: 4\r\nContent-Length: 4\r\n", "abcd"),
    ("Content-Length: 4\r\nContent-Length: 5\r\n", "abcde"),
    ("Content-Length: 4, 4\r\n", "abcd"),
    ("Content-Length: +4\r\n", "abcd"),
    ("Content-Length: -4\r\n", "abcd"),
    ("Content-Length: \r\n", "abcd"),
    ("Content-Length: 04\r\n", "abcd"),
    ("Content-Length:4 \r\n", "abcd"),
    ("Content-Length: 0x4\r\n", "abcd"),
    ("Content-Length: 4 4\r\n", "abcd"),
    ("Content-Length: 99999999999999999999\r\n", "abcd"),
    ("Content-Length: 9223372036854775807\r\n", "abcd"),
    ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: gzip, chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked, chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: gzip\r\n", "abcd"),
    ("Transfer-Encoding: identity\r\n", "abcd"),
    ("Transfer-Encoding: identity\r\nContent-Length: 4\r\n", "abcd"),
    ("Transfer-Encoding: \r\n", "abcd"),
    ("Transfer-Encoding: xchunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: Chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding : chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding:\tchunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer_Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "4;x=y\r\nabcd\r\n0;z\r\nX-T: 1\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\n folded\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\nno colon\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "4\r\nabcd\r\n"),
    ("Transfer-Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\n"),
    ("Transfer-Encoding: chunked\r\n", "4\r\nabcd0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "4\r\nabcd\r\nzz\r\n"),
    ("Transfer-Encoding: chunked\r\n", "4\nabcd\n0\n\n"),
    ("Transfer-Encoding: chunked\r\n", "4\r\nabcdXX0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", " 4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "4 \r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "04\r\nabcd\r\n00\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "+4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "0x4\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
    ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", ""),
];
