// Many uploads on one connection of HTTP/2, ten at a time, each of which ends with an empty DATA frame, as gRPC's streaming calls do.
'use strict';
const http2 = require('http2');

const [url, count] = process.argv.slice(2);
const client = http2.connect(url);
let begun = 0;
let answered = 0;
client.on('error', error => { console.error(error); process.exit(1); });
client.on('goaway', code => { console.error('GOAWAY', code); process.exit(1); });
const next = () => {
  if (answered === Number(count)) { console.log(JSON.stringify({ answered, connections: 1 })); process.exit(0); }
  if (begun === Number(count)) return;
  begun++;
  const stream = client.request({ ':path': '/a', ':method': 'POST' });
  let status;
  stream.on('response', fields => { status = fields[':status']; });
  stream.on('data', () => {});
  stream.on('error', error => { console.error(error); process.exit(1); });
  stream.on('end', () => {
    if (status !== 200) { console.error(status); process.exit(1); }
    answered++;
    next();
  });
  // The end comes once the first piece is on its way: in a frame of its own.
  stream.write('x', () => setImmediate(() => stream.end()));
};
for (let i = 0; i < 10; i++) next();
setTimeout(() => { console.error('not all have ended', answered); process.exit(1); }, 30000);
