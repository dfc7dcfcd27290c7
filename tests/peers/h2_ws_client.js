// WebSockets over HTTP/2 (RFC 8441) by Node's own client. Each element of the argument is one, all on one connection; one line of JSON says
// how they went. `say` is sent once the stream is open, `big` as many bytes, `then` is what is done after the last answer.
'use strict';
const http2 = require('http2');
const { read, frame } = require('./h2_ws_frames.js');

const [url, text] = process.argv.slice(2);
const wanted = JSON.parse(text);
const client = http2.connect(url, { rejectUnauthorized: false });
client.on('error', error => { console.error(error); process.exit(1); });
const facts = wanted.map(() => ({ status: null, heard: [], big: 0, code: null, reset: null, ended: false, body: '' }));
let left = wanted.length;
const done = () => { if (--left === 0) { console.log(JSON.stringify({ offered: client.remoteSettings.enableConnectProtocol, facts })); process.exit(0); } };
client.once('remoteSettings', () => wanted.forEach((want, number) => {
  const fact = facts[number];
  const { path, headers = {}, say = [], big = 0, then = 'close', protocol = 'websocket' } = want;
  const asked = { ':method': 'CONNECT', ':path': path, ':scheme': new URL(url).protocol.slice(0, -1), ':authority': new URL(url).host, 'sec-websocket-version': '13', ...headers };
  if (protocol) asked[':protocol'] = protocol;
  else { delete asked[':path']; delete asked[':scheme']; }
  const stream = client.request(asked, { endStream: false });
  let due = say.length + (big ? 1 : 0) + (want.hear || 0);
  const last = () => {
    if (then === 'close') stream.write(frame(8, Buffer.from([3, 0xe8]), true));
    else if (then === 'end') stream.end();
    else if (then === 'reset') stream.close(http2.constants.NGHTTP2_CANCEL);
  };
  stream.on('response', fields => {
    fact.status = fields[':status'];
    fact.headers = { ...fields };
    if (fact.status !== 200) { stream.on('data', piece => { fact.body += piece; }); return stream.end(); }
    read(stream, (opcode, payload) => {
      if (opcode === 8) { fact.code = payload.length > 1 ? payload.readUInt16BE(0) : 1005; stream.end(); return; }
      if (opcode === 9) { stream.write(frame(10, payload, true)); return; }
      if (payload.length > 10000) fact.big = payload.length; else fact.heard.push(payload.toString());
      due -= 1;
      if (due === 0) last();
    });
    for (const word of say) stream.write(frame(1, word, true));
    if (big) stream.write(frame(2, Buffer.alloc(big, 'x'), true));
    if (due === 0) last();
  });
  stream.on('end', () => { fact.ended = true; });
  stream.on('error', () => {});
  stream.on('close', () => { fact.reset = stream.rstCode; done(); });
}));
setTimeout(() => { console.error('not all have ended', JSON.stringify(facts)); process.exit(1); }, 20000);
