// What Node's client and server have in common: arguments, certificates, and errors that end the process.
'use strict';
const fs = require('fs');
const path = require('path');
const { createHash } = require('crypto');

const dir = process.argv[2];
const read = (name) => fs.readFileSync(path.join(dir, name));

exports.tls = (name) => ({
  ca: read('ca.pem'), cert: read(name + '.pem'), key: read(name + '.key'),
  minVersion: 'TLSv1.3', ALPNProtocols: ['h2'],
});
exports.sha256 = () => createHash('sha256');
exports.check = (ok, what) => { if (!ok) throw new Error(what); };

// collect resolves with what a stream gives until its end.
exports.collect = (stream) => new Promise((resolve, reject) => {
  const parts = [];
  stream.on('data', (b) => parts.push(b));
  stream.on('end', () => resolve(Buffer.concat(parts).toString()));
  stream.on('error', reject);
});

// closed resolves with the code a stream was reset with, 0 for none.
exports.closed = (stream) => new Promise((resolve) => {
  stream.on('error', () => {}); // the code says it
  stream.on('close', () => resolve(stream.rstCode));
});

// blocks yields size bytes of a pattern that has no period of a frame's length.
exports.blocks = function* (size) {
  for (let at = 0, i = 0; at < size; i++) {
    const n = Math.min(50021, size - at);
    yield Buffer.alloc(n, `block ${i} `);
    at += n;
  }
};

process.on('unhandledRejection', (e) => { console.error(e); process.exit(1); });
process.on('uncaughtException', (e) => { console.error(e); process.exit(1); });
