// A service whose one port speaks HTTP/1.1 and HTTP/2: with a certificate as ALPN says, without one by the client's first bytes. It says
// which of them it was asked in.
'use strict';
const fs = require('fs');
const http = require('http');
const http2 = require('http2');
const net = require('net');

const [, , cert, key] = process.argv;
const answer = (request, response) => {
  let length = 0;
  request.on('data', piece => { length += piece.length; });
  request.on('end', () => {
    response.setHeader('x-spoken', request.httpVersion);
    response.setHeader('content-type', request.headers['content-type'] || 'text/plain');
    if (request.headers['content-type'] === 'application/grpc') response.addTrailers({ 'grpc-status': '0' });
    response.end(String(length));
  });
};
let server;
if (cert) {
  server = http2.createSecureServer({ allowHTTP1: true, cert: fs.readFileSync(cert), key: fs.readFileSync(key) }, answer);
} else {
  const [one, two] = [http.createServer(answer), http2.createServer(answer)];
  server = net.createServer(socket => {
    socket.on('error', () => {});
    socket.once('data', first => {
      socket.pause();
      socket.unshift(first);
      (first.subarray(0, 4).toString() === 'PRI ' ? two : one).emit('connection', socket);
      process.nextTick(() => socket.resume());
    });
  });
}
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit(0)).resume();
