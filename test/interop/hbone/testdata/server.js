// Node as the server: node server.js <certificates>. Prints its port, serves by the host of each CONNECT's authority, and
// ends with its standard input.
'use strict';
const http2 = require('http2');
const { tls, check, collect, closed } = require('./peer.js');

const { NGHTTP2_CONNECT_ERROR } = http2.constants;
const server = http2.createSecureServer({ ...tls('server'), requestCert: true, rejectUnauthorized: true, settings: { maxConcurrentStreams: 100 } });

const hosts = {
  async echo(stream) {
    stream.respond({ ':status': 200 });
    stream.on('error', () => {}); // the client's tests cut streams
    stream.pipe(stream);
  },
  async 'speaks-first'(stream) {
    stream.respond({ ':status': 200 });
    stream.end('hello');
    check(await collect(stream) === 'what I had to say', 'what came after the end');
    console.log('heard all');
  },
  async refuse(stream) {
    stream.respond({ ':status': 503, 'warren-reason': 'no_upstream' }, { endStream: true });
  },
  async reset(stream) { // Node sends END_STREAM before
    stream.respond({ ':status': 200 });
    stream.on('error', () => {});
    stream.close(NGHTTP2_CONNECT_ERROR);
  },
  async destroy(stream) {
    stream.respond({ ':status': 200 });
    stream.on('error', () => {});
    stream.on('data', () => stream.destroy(new Error('cut')));
  },
  async 'expects-reset'(stream) {
    stream.respond({ ':status': 200 });
    stream.resume();
    console.log(`reset ${await closed(stream)}`);
  },
  async 'goes-away'(stream) {
    stream.respond({ ':status': 200 });
    stream.on('error', () => {});
    stream.pipe(stream);
    stream.session.close(); // GOAWAY: streams go on
  },
};

server.on('stream', (stream, headers) => {
  check(stream.session.socket.authorized, 'client certificate');
  check(headers[':method'] === 'CONNECT' && !(':path' in headers) && !(':scheme' in headers), JSON.stringify(headers));
  hosts[headers[':authority'].split(':')[0]](stream, headers);
});
server.listen(0, '127.0.0.1', () => console.log(`port ${server.address().port}`));
process.stdin.on('end', () => process.exit(0)).resume();
