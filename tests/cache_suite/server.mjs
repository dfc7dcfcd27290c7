// The suite's own server, which would listen everywhere, on loopback alone.
import http from 'http'

const listen = http.Server.prototype.listen
http.Server.prototype.listen = function (port) {
  return listen.call(this, port, '127.0.0.1')
}
await import('http-cache-tests/server/server.mjs')
