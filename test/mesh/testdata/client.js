// Posts to a URL a few times, one after another over a kept connection and then at once, and prints the answers.
const http = require('http');
const [url, family, canary] = process.argv.slice(2);
const ask = (agent) => new Promise((done, fail) => {
  const options = { agent, method: 'POST', family: Number(family), headers: { 'x-canary': canary } };
  const req = http.request(url, options, (res) => {
    let text = '';
    res.on('data', (d) => { text += d; });
    res.on('end', () => done(text));
  });
  req.on('error', fail);
  req.setTimeout(10000, () => req.destroy(new Error('no answer for 10 s')));
  req.end(canary.repeat(1000));
});
(async () => {
  const kept = new http.Agent({ keepAlive: true, maxSockets: 1 });
  for (let i = 0; i < 5; i++) console.log(await ask(kept));
  kept.destroy();
  for (const text of await Promise.all(Array.from({ length: 20 }, () => ask(undefined)))) console.log(text);
})();
