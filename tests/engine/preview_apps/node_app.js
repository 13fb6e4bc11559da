const http = require("http"), crypto = require("crypto");
const server = http.createServer((req, res) => {
  if (req.url === "/events") {
    res.writeHead(200, {"Content-Type": "text/event-stream"});
    res.flushHeaders();
    req.on("close", () => { server.left = true; });
    return;
  }
  if (req.url === "/left") return res.end(String(server.left === true));
  if (req.url === "/range") {
    const body = Buffer.from("0123456789"), match = /bytes=(\d+)-(\d+)/.exec(req.headers.range || "");
    res.setHeader("Content-Length", match ? match[2] - match[1] + 1 : 10);
    if (!match) return res.end(body);
    res.writeHead(206, {"Content-Range": `bytes ${match[1]}-${match[2]}/10`});
    return res.end(body.subarray(+match[1], +match[2] + 1));
  }
  if (req.url === "/untyped") { res.setHeader("Content-Length", 9); return res.end("<h1>x</h1>".slice(0, 9)); }
  if (req.url === "/attack") {
    res.setHeader("Content-Type", "text/html");
    return res.end(require("fs").readFileSync("attack.html"));
  }
  let size = 0;
  req.on("data", (piece) => { size += piece.length; });
  req.on("end", () => {
    res.setHeader("Content-Type", "application/json");
    res.end(JSON.stringify({method: req.method, url: req.url, size, headers: req.headers,
                            peer: req.socket.remotePort}));
  });
});
server.keepAliveTimeout = 600000;
// A WebSocket server of its own: it echoes whole frames byte by byte, so what it is sent is what comes back.
server.on("upgrade", (req, socket) => {
  if (req.url === "/no") return socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nX-Why: no\r\n\r\nno!");
  const key = crypto.createHash("sha1")
    .update(req.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest("base64");
  socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
               `Sec-WebSocket-Accept: ${key}\r\nX-Extensions: ${req.headers["sec-websocket-extensions"] || ""}\r\n` +
               "Set-Cookie: theirs=1\r\n\r\n");
  if (req.url === "/die") return socket.destroy();
  let data = Buffer.alloc(0);
  socket.on("error", () => {});
  socket.on("data", (piece) => {
    data = Buffer.concat([data, piece]);
    for (;;) {
      if (data.length < 6) return;
      let size = data[1] & 127, at = 2;
      if (size === 126) { if (data.length < 8) return; size = data.readUInt16BE(2); at = 4; }
      else if (size === 127) { if (data.length < 14) return; size = Number(data.readBigUInt64BE(2)); at = 10; }
      if (data.length < at + 4 + size) return;
      const mask = data.subarray(at, at + 4), body = Buffer.from(data.subarray(at + 4, at + 4 + size));
      for (let n = 0; n < size; n++) body[n] ^= mask[n & 3];
      const head = Buffer.from(data.subarray(0, at));
      head[1] &= 127;
      socket.write(Buffer.concat([head, body]));
      if ((head[0] & 15) === 8) socket.end();
      data = data.subarray(at + 4 + size);
    }
  });
});
server.listen(3002, "127.0.0.1");
