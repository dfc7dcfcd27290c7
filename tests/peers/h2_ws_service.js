// A service that takes WebSockets over HTTP/2 (RFC 8441), and echoes what it is told. `/refuse` is not for you, `/reset` breaks off.
'use strict';
const http2 = require('http2');
const { read, frame } = require('./h2_ws_frames.js');

const offers = process.argv[2] !== 'not';
const server = http2.createServer({ settings: { enableConnectProtocol: offers } });
let ended = 'nothing yet';
server.on('stream', (stream, headers) => {
  stream.on('error', () => {});
  if (headers[':method'] !== 'CONNECT') {
    stream.respond({ ':status': 200 });
    return stream.end(JSON.stringify({ method: headers[':method'], ended }));
  }
  if (headers[':path'].startsWith('/refuse')) {
    stream.respond({ ':status': 403 });
    return stream.end('not for you');
  }
  stream.respond({ ':status': 200, 'sec-websocket-protocol': headers['sec-websocket-protocol'] || 'none' });
  if (headers[':path'].startsWith('/reset')) {
    // More than any window has room for, so that the reset is not behind an end.
    return setTimeout(() => { stream.write(frame(2, 'x'.repeat(4 << 20), false)); stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR); }, 200);
  }
  if (headers[':path'].startsWith('/headers')) stream.write(frame(1, JSON.stringify({ ...headers }), false));
  // A reset comes with an end of its own.
  stream.on('close', () => { if (stream.rstCode) ended = `reset ${stream.rstCode}`; });
  stream.on('end', () => { ended = 'end'; stream.end(); });
  read(stream, (opcode, payload) => {
    stream.write(frame(opcode, payload, false));
    if (opcode === 8) stream.end();
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit(0)).resume();
