// A service that speaks HTTP/2 without TLS. It says what it saw, trailers among it, and does what the path asks for.
'use strict';
const http2 = require('http2');

const server = http2.createServer({ settings: { maxConcurrentStreams: Number(process.argv[2] || 100) } });
let connections = 0;
let busy = 0;
server.on('session', () => { connections += 1; });
server.on('stream', (stream, headers) => {
  const path = headers[':path'];
  let body = '';
  let trailers = {};
  stream.on('error', () => {});
  stream.on('trailers', fields => { trailers = { ...fields }; });
  if (path.startsWith('/refuse')) return stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
  if (path.startsWith('/reset/')) {
    stream.respond({ ':status': 200 });
    stream.write('a part');
    // More than any window has room for, so that the reset is not behind an end.
    return setTimeout(() => { stream.write('x'.repeat(1 << 20)); stream.close(Number(path.slice(7))); }, 100);
  }
  if (path.startsWith('/early')) {
    // An answer before the body, which nobody wants.
    return stream.respond({ ':status': 403 }, { endStream: true });
  }
  if (path.startsWith('/hints')) stream.additionalHeaders({ ':status': 103, link: '</style.css>' });
  if (headers.expect) stream.additionalHeaders({ ':status': 100 });
  const answer = () => {
    // Once it has read all of it.
    if (path.startsWith('/busy') && busy++ % 2 === 0) return stream.respond({ ':status': 503 }, { endStream: true });
    const facts = JSON.stringify({ headers: { ...headers }, body: body.length, trailers, connections });
    stream.respond({ ':status': 200, 'content-type': 'application/json' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-checksum': 'abc' }));
    stream.end(facts);
  };
  stream.on('data', piece => { body += piece; });
  stream.on('end', () => setTimeout(answer, path.startsWith('/slow') ? 300 : 0));
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit(0)).resume();
