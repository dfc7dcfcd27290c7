// Calls of gRPC-Web by Google's own client, `grpc-web`, in Node, on an XMLHttpRequest of ours. Arguments:
// the base URL, `binary` or `text`, and the calls as JSON; one line of JSON says what came of each.
'use strict';
global.XMLHttpRequest = require('./xhr.js');
const { GrpcWebClientBase, MethodDescriptor, MethodType } = require('grpc-web');
const each = require('./each.js');

const [url, format, text] = process.argv.slice(2);
const raw = bytes => bytes;
const client = new GrpcWebClientBase({ format });
const method = (path, type) => new MethodDescriptor(path, type, Uint8Array, Uint8Array, raw, bytes => Buffer.from(bytes).toString());
const call = ({ path, message = '', metadata = {}, stream }) => new Promise(resolve => {
  const bytes = Uint8Array.from(Buffer.from(message));
  const facts = { messages: [], times: [], code: null, details: null, trailing: {} };
  if (!stream) {
    const under = client.rpcCall(url + path, bytes, metadata, method(path, MethodType.UNARY), (failure, answer) => {
      if (failure) Object.assign(facts, { code: failure.code, details: failure.message, trailing: failure.metadata });
      else facts.messages.push(answer);
      setTimeout(() => resolve(facts), 50);
    });
    return under.on('status', status => { if (facts.code === null) Object.assign(facts, { code: status.code, details: status.details, trailing: status.metadata }); });
  }
  const under = client.serverStreaming(url + path, bytes, metadata, method(path, MethodType.SERVER_STREAMING));
  under.on('data', answer => { facts.messages.push(answer); facts.times.push(Date.now()); });
  under.on('status', status => Object.assign(facts, { code: status.code, details: status.details, trailing: status.metadata }));
  under.on('error', failure => { Object.assign(facts, { code: failure.code, details: failure.message }); resolve(facts); });
  under.on('end', () => setTimeout(() => resolve(facts), 50));
});
each(call, text);
