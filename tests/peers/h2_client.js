// Requests over HTTP/2 without TLS, on one connection: each line of the argument is one, and one JSON object says how all of them ended.
'use strict';
const http2 = require('http2');

const [url, text] = process.argv.slice(2);
const client = http2.connect(url);
const wanted = JSON.parse(text);
let left = wanted.length;
const ended = [];
const done = () => { if (--left === 0) { console.log(JSON.stringify(ended)); process.exit(0); } };
client.on('error', error => { console.error(error); process.exit(1); });
wanted.forEach((request, number) => {
  const facts = ended[number] = { status: null, body: '', trailers: {}, interim: [], reset: null };
  const { path, method = 'GET', headers = {}, body, trailers } = request;
  const stream = client.request({ ':path': path, ':method': method, ...headers }, { endStream: body === undefined, waitForTrailers: !!trailers });
  // A 100 has an event of its own.
  stream.on('headers', fields => { if (fields[':status'] !== 100) facts.interim.push(fields[':status']); });
  stream.on('continue', () => { facts.interim.push(100); stream.end(body); });
  stream.on('response', fields => { facts.status = fields[':status']; facts.headers = fields; });
  stream.on('trailers', fields => { facts.trailers = { ...fields }; });
  stream.on('data', piece => { if (facts.body.length < 10000) facts.body += piece; });
  stream.on('wantTrailers', () => stream.sendTrailers(trailers));
  stream.on('error', () => {});
  stream.on('close', () => { facts.reset = stream.rstCode; done(); });
  if (body !== undefined && !headers.expect) stream.end(body);
});
setTimeout(() => { console.error('not all have ended', ended); process.exit(1); }, 15000);
