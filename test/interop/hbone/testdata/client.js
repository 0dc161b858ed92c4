// Node as the client: node client.js <certificates> <port> <scenario>. Exits with 0 if all went as expected.
'use strict';
const http2 = require('http2');
const { Readable } = require('stream');
const { pipeline } = require('stream/promises');
const { tls, sha256, check, collect, closed, blocks } = require('./peer.js');

const [, , , port, scenario] = process.argv;
const session = http2.connect(`https://127.0.0.1:${port}`, { ...tls('client'), checkServerIdentity: () => undefined });
session.on('error', (e) => { console.error(e); process.exit(1); });

// connect resolves with an answered CONNECT: the stream and its headers.
const connect = (host) => new Promise((resolve, reject) => {
  const stream = session.request({ ':method': 'CONNECT', ':authority': `${host}:80`, baggage: 'k8s.namespace.name=shop' }, { endStream: false });
  stream.on('response', (headers) => resolve({ stream, headers, status: headers[':status'] }));
  stream.on('error', reject);
});

const scenarios = {
  async 'client ends first'() {
    const { stream, status } = await connect('echo');
    check(status === 200, `status ${status}`);
    stream.end('ping');
    check(await collect(stream) === 'ping', 'echo');
  },
  async 'server ends first'() {
    const { stream } = await connect('speaks-first');
    check(await collect(stream) === 'hello', 'greeting');
    stream.end('what I had to say'); // the server's side checks it
    check(await closed(stream) === 0, 'code');
  },
  async refused() {
    const { stream, headers, status } = await connect('refuse');
    stream.resume();
    check(status === 401 && headers['warren-reason'] === 'policy_denied', `status ${status}`);
    await closed(stream);
  },
  async 'server resets'() {
    const { stream } = await connect('reset');
    stream.resume();
    const code = await closed(stream);
    check(code === http2.constants.NGHTTP2_CONNECT_ERROR, `code ${code}`);
  },
  async 'client resets'() { // Node sends END_STREAM before
    const { stream } = await connect('expects-connect-error');
    stream.close(http2.constants.NGHTTP2_CONNECT_ERROR);
    await closed(stream);
  },
  async 'client destroys'() {
    const { stream } = await connect('expects-reset');
    const end = closed(stream);
    stream.destroy(new Error('cut'));
    await end;
  },
  async 'large transfer'() {
    const size = 64 << 20;
    const { stream } = await connect('echo');
    const sent = sha256(), received = sha256();
    let n = 0;
    stream.on('data', (b) => { n += b.length; received.update(b); });
    const ended = new Promise((resolve) => stream.on('end', resolve));
    await pipeline(Readable.from((function* () { for (const b of blocks(size)) { sent.update(b); yield b; } })()), stream);
    await ended;
    check(n === size && sent.digest('hex') === received.digest('hex'), `${n} bytes came back`);
  },
  async 'hundred streams'() {
    await Promise.all(Array.from({ length: 100 }, async (_, i) => {
      const { stream } = await connect('echo');
      const got = collect(stream);
      for (let j = 0; j < 10; j++) stream.write(`stream ${i} line ${j}\n`);
      stream.end();
      check((await got).split('\n').filter((l, j) => l === `stream ${i} line ${j}`).length === 10, `stream ${i}`);
    }));
  },
  async 'GET'() {
    const stream = session.request({ ':method': 'GET', ':path': '/' });
    const status = await new Promise((resolve) => stream.on('response', (h) => resolve(h[':status'])));
    check(status === 405, `status ${status}`);
    stream.resume();
    await closed(stream);
  },
  async ping() {
    await new Promise((resolve, reject) => session.ping((e) => (e ? reject(e) : resolve())));
  },
};

session.on('connect', async () => {
  check(session.alpnProtocol === 'h2' && session.socket.getProtocol() === 'TLSv1.3', 'TLS');
  await scenarios[scenario]();
  session.close(() => process.exit(0));
});
