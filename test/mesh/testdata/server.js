// An HTTP server that says whom it sees.
const http = require('http');
http.createServer((req, res) => {
  let bytes = 0;
  req.on('data', (d) => { bytes += d.length; });
  req.on('end', () => {
    const peer = req.socket.remoteAddress.replace(/^::ffff:/, '');
    res.end(JSON.stringify({ peer, port: req.socket.remotePort, bytes, canary: req.headers['x-canary'] }));
  });
}).listen(8082, '::');
