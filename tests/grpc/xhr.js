// As much of XMLHttpRequest as `grpc-web` asks for, on Node's HTTP client: unlike the shims that there are, with the text of an answer that
// is still coming, which streams are read from.
'use strict';
const http = require('http');

module.exports = class {
  constructor() {
    Object.assign(this, { readyState: 0, status: 0, statusText: '', response: '', responseText: '', responseType: '', timeout: 0, onreadystatechange: null });
    this.asked = {};
    this.told = {};
  }

  open(method, url) { Object.assign(this, { method, url }); this.turn(1); }

  setRequestHeader(name, value) { this.asked[name] = value; }

  getResponseHeader(name) { const value = this.told[name.toLowerCase()]; return value === undefined ? null : value; }

  getAllResponseHeaders() { return Object.entries(this.told).map(([name, value]) => `${name}: ${value}\r\n`).join(''); }

  addEventListener() {}

  turn(state) { this.readyState = state; if (this.onreadystatechange) this.onreadystatechange(); }

  send(body) {
    this.request = http.request(this.url, { method: this.method, headers: this.asked }, answer => {
      Object.assign(this, { status: answer.statusCode, statusText: answer.statusMessage, told: answer.headers });
      this.turn(2);
      const pieces = [];
      answer.on('data', piece => {
        pieces.push(piece);
        if (this.responseType === 'arraybuffer') return;
        this.responseText += piece.toString('latin1');
        this.response = this.responseText;
        this.turn(3);
      });
      answer.on('end', () => {
        if (this.responseType === 'arraybuffer') this.response = Uint8Array.from(Buffer.concat(pieces)).buffer;
        this.turn(4);
      });
      answer.on('error', () => this.turn(4));
    });
    this.request.on('error', () => this.turn(4));
    this.request.end(body === undefined || body === null ? undefined : Buffer.from(body));
  }

  abort() { if (this.request) this.request.destroy(); }
};
