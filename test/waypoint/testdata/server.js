// Answers whatever it is asked, and says so on standard output.
const server = require('http').createServer((req, res) => {
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
server.on('clientError', (err, socket) => {
  if (err.code !== 'ECONNRESET') console.log(`${socket.remotePort} 400 ${err.code}`);
  socket.destroy();
});
server.keepAliveTimeout = 60000;
server.listen(9004);
