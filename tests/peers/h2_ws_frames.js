// WebSocket frames, for peers that speak them over streams of HTTP/2: Node has no library for that.
'use strict';

// Calls `met` with the opcode and the unmasked payload of every frame on the stream.
exports.read = (stream, met) => {
  let all = Buffer.alloc(0);
  stream.on('data', piece => {
    all = Buffer.concat([all, piece]);
    for (;;) {
      if (all.length < 2) return;
      const masked = all[1] & 0x80 ? 4 : 0;
      let length = all[1] & 0x7f;
      let at = 2;
      if (length === 126) { if (all.length < 4) return; length = all.readUInt16BE(2); at = 4; }
      if (length === 127) { if (all.length < 10) return; length = Number(all.readBigUInt64BE(2)); at = 10; }
      if (all.length < at + masked + length) return;
      const mask = all.subarray(at, at + masked);
      const payload = Buffer.from(all.subarray(at + masked, at + masked + length));
      if (masked) for (let i = 0; i < length; i += 1) payload[i] ^= mask[i & 3];
      const opcode = all[0] & 15;
      all = all.subarray(at + masked + length);
      met(opcode, payload);
    }
  });
};

// One whole frame.
exports.frame = (opcode, text, masked) => {
  const payload = Buffer.from(text);
  const { length } = payload;
  const flag = masked ? 0x80 : 0;
  let head;
  if (length < 126) head = Buffer.from([0x80 | opcode, flag | length]);
  else if (length < 65536) { head = Buffer.alloc(4); head[0] = 0x80 | opcode; head[1] = flag | 126; head.writeUInt16BE(length, 2); }
  else { head = Buffer.alloc(10); head[0] = 0x80 | opcode; head[1] = flag | 127; head.writeBigUInt64BE(BigInt(length), 2); }
  if (!masked) return Buffer.concat([head, payload]);
  const mask = Buffer.from([1, 2, 3, 4]);
  for (let i = 0; i < length; i += 1) payload[i] ^= mask[i & 3];
  return Buffer.concat([head, mask, payload]);
};
