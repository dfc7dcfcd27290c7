// Unary calls of the Connect protocol by its own client, `@connectrpc/connect`. Arguments: the base URL, a set of descriptors, the name of a
// service, and the calls as JSON; one line of JSON says what came of each.
'use strict';
const fs = require('node:fs');
const { createFileRegistry, fromBinary, fromJson, toJson } = require('@bufbuild/protobuf');
const { FileDescriptorSetSchema } = require('@bufbuild/protobuf/wkt');
const { createClient, Code, ConnectError } = require('@connectrpc/connect');
const { createConnectTransport, compressionGzip } = require('@connectrpc/connect-node');
const each = require('./each.js');

const [baseUrl, set, name, text] = process.argv.slice(2);
const files = createFileRegistry(fromBinary(FileDescriptorSetSchema, fs.readFileSync(set)));
const service = files.getService(name);
const plain = headers => Object.fromEntries([...(headers || [])]);

const call = async ({ method, message = {}, http = '1.1', json = false, get = false, gzip = false, headers = {}, timeoutMs }) => {
  const transport = createConnectTransport({
    baseUrl, httpVersion: http, useBinaryFormat: !json, useHttpGet: get, acceptCompression: [compressionGzip], compressMinBytes: 1,
    sendCompression: gzip ? compressionGzip : null,
  });
  const { input, output, localName } = service.methods.find(one => one.name === method);
  const facts = { code: 'OK' };
  try {
    const options = { headers, timeoutMs, onHeader: fields => { facts.header = plain(fields); }, onTrailer: fields => { facts.trailer = plain(fields); } };
    const asked = fromJson(input, message, { registry: files });
    facts.answer = toJson(output, await createClient(service, transport)[localName](asked, options), { registry: files });
  } catch (failure) {
    const error = ConnectError.from(failure);
    Object.assign(facts, { code: Code[error.code], text: error.rawMessage, metadata: plain(error.metadata) });
    facts.details = error.details.map(detail => {
      const schema = files.getMessage(detail.type);
      return { type: detail.type, value: schema ? toJson(schema, fromBinary(schema, detail.value)) : null };
    });
  }
  return facts;
};
each(call, text);
