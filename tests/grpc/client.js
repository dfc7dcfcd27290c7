// A gRPC client on @grpc/grpc-js: plays one scene through the gateway and prints what came of it as a line of JSON. The scenes are those
// of tests/peers/grpc_client.py, as far as the two are compared. Arguments: the scene, or a call's path, and `host:port`.
'use strict';
const grpc = require('@grpc/grpc-js');

const [scene, target] = process.argv.slice(2);
const SERVICE = '/portcullis.test.Echo/';
const options = { 'grpc.max_receive_message_length': 16 << 20, 'grpc.max_send_message_length': 16 << 20, 'grpc.enable_http_proxy': 0, 'grpc.enable_retries': 0 };
const client = new grpc.Client(target, grpc.credentials.createInsecure(), options);
const raw = bytes => bytes;
const soon = (seconds = 20) => ({ deadline: Date.now() + seconds * 1000 });
const plain = metadata => Object.fromEntries(Object.entries(metadata ? metadata.getMap() : {}).map(([key, value]) => [key, String(value)]));
const error = (failure, initial) => ({
  code: grpc.status[failure.code], details: failure.details, trailing: { ...plain(initial), ...plain(failure.metadata) },
});

const unary = (path, message, seconds, metadata = new grpc.Metadata()) => new Promise(resolve => {
  let initial, trailing;
  const call = client.makeUnaryRequest(path, raw, raw, Buffer.from(message), metadata, soon(seconds), (failure, answer) => {
    if (failure) resolve(error(failure, initial));
    else setImmediate(() => resolve({ code: 'OK', answer: answer.toString(), initial: plain(initial), trailing: plain(trailing) }));
  });
  call.on('metadata', fields => { initial = fields; });
  call.on('status', status => { trailing = status.metadata; });
});
const collect = sizes => new Promise(resolve => {
  const call = client.makeClientStreamRequest(SERVICE + 'Collect', raw, raw, new grpc.Metadata(), soon(), (failure, answer) => {
    resolve(failure ? error(failure) : { answer: JSON.parse(answer) });
  });
  sizes.forEach(size => call.write(Buffer.alloc(size, 'x')));
  call.end();
});
const stream = (path, message, met = () => {}) => new Promise(resolve => {
  const messages = [];
  const call = client.makeServerStreamRequest(path, raw, raw, Buffer.from(message), new grpc.Metadata(), soon());
  call.on('data', piece => { messages.push(piece.toString()); met(call, messages); });
  call.on('error', failure => resolve({ messages, ...error(failure) }));
  call.on('end', () => setImmediate(() => resolve({ messages, code: 'OK' })));
});

const scenes = {
  fail: () => unary(SERVICE + 'Fail', ''),
  server_stream_fails: () => stream(SERVICE + 'FailMidway', ''),
  server_stream: () => stream(SERVICE + 'Count', '[20, 0.02]'),
  client_stream_small: () => collect(Array(100).fill(10000)),
  client_stream_large: () => collect([10, 10, 150000]),
  was_cancelled: () => unary(SERVICE + 'WasCancelled', ''),
  async deadline() {
    const started = Date.now();
    const facts = await unary(SERVICE + 'Slow', '', 0.5);
    return { ...facts, took: (Date.now() - started) / 1000, cancelled: (await scenes.was_cancelled()).answer };
  },
  async headers() {
    const metadata = new grpc.Metadata();
    metadata.set('x-api-version', '2');
    metadata.set('x-blob-bin', Buffer.from([0, 1, 255]));
    const facts = await unary(SERVICE + 'Headers', '', 20, metadata);
    return { ...facts, seen: JSON.parse(facts.answer) };
  },
  async large_metadata() {
    const metadata = new grpc.Metadata();
    metadata.set('x-large', 'm'.repeat(40000));
    return unary(SERVICE + 'Unary', 'x', 20, metadata);
  },
  // A mebibyte of it, and a call afterwards.
  async huge_metadata() {
    const metadata = new grpc.Metadata();
    metadata.set('x-huge', 'm'.repeat(1 << 20));
    const facts = await unary(SERVICE + 'Unary', 'x', 20, metadata);
    return { ...facts, after: (await unary(SERVICE + 'Unary', 'after')).answer };
  },
  // The client leaves while the server is blocked on a call that has no answer yet.
  async cancelled() {
    const call = client.makeUnaryRequest(SERVICE + 'Slow', raw, raw, Buffer.from(''), new grpc.Metadata(), soon(), () => {});
    setTimeout(() => call.cancel(), 1500);
    await new Promise(resolve => call.on('status', resolve));
    return { cancelled: (await scenes.was_cancelled()).answer };
  },
  // And in the middle of a stream.
  cancelled_stream: () => stream(SERVICE + 'Count', '[1000, 0.02]', (call, messages) => { if (messages.length === 3) call.cancel(); }),
  early_end: () => new Promise(resolve => {
    let answer;
    const call = client.makeClientStreamRequest(SERVICE + 'First', raw, raw, new grpc.Metadata(), soon(), (failure, said) => { answer = failure ? error(failure) : { code: 'OK', answer: said.toString() }; });
    call.on('status', () => setImmediate(() => resolve(answer)));
    call.write(Buffer.from('one'));
  }),
  bidi: () => new Promise(resolve => {
    const call = client.makeBidiStreamRequest(SERVICE + 'Echo', raw, raw, new grpc.Metadata(), soon());
    const answers = [];
    call.on('data', piece => {
      answers.push(Number(piece));
      if (answers.length === 50) call.end(); else call.write(Buffer.from(String(answers.length)));
    });
    call.on('status', status => resolve({ answers, rest: 0, code: grpc.status[status.code] }));
    call.on('error', () => {});
    call.write(Buffer.from('0'));
  }),
};
const play = scene.startsWith('/') ? unary(scene, 'a message of some length') : scenes[scene]();
play.then(facts => { console.log(JSON.stringify(facts)); process.exit(0); });
setTimeout(() => { console.error('no end'); process.exit(1); }, 25000);
