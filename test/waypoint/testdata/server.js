// Answers whatever it is asked, and says so on standard output.
const server = require('http').createServer((req, res) => {
  req.socket.latest = req;
  console.log(`${req.socket.remotePort} 200 ${req.method} ${req.url} HTTP/${req.httpVersion}`);
  req.resume();
  res.setHeader('X-Seen', req.url);
  res.end('node\n');
});
server.on('connect', (req, socket) => {
  socket.on('error', () => {}); // the client may be gone
  console.log(`${socket.remotePort} 405 ${req.method} ${req.url} HTTP/${req.httpVersion}`);
  socket.end('HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
});
// endedEarly tells that a connection ended, by RST or by FIN, in the middle of a request that has its line already. A FIN
// in the middle of a head is of none that has: it is written of, as what was read before it looked like a request.
function endedEarly(err, socket) {
  if (err.code === 'ECONNRESET') return true;
  return err.code === 'HPE_INVALID_EOF_STATE' && socket.latest !== undefined && !socket.latest.complete;
}
server.on('clientError', (err, socket) => {
  if (!endedEarly(err, socket)) console.log(`${socket.remotePort} 400 ${err.code}`);
  socket.destroy();
});
server.keepAliveTimeout = 60000;
server.listen(9004);
