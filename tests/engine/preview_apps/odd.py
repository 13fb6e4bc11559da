"""Says exactly the bytes that are asked for, which no library would: /NAME is looked up here."""

import asyncio
import json
import urllib.parse

count = 0
SAYS = {
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    b"3\r\nabc\r\n3\r\ndef\r\n0\r\nX-Sum: 9\r\n\r\n",
    "until-close": b"HTTP/1.0 200 OK\r\n\r\nall of it",
    "half-length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    "half-chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "nothing": b"",
    "not-http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "split": b"HTTP/1.1 200 OK\r\nX-A: b\rSet-Cookie: evil=1\r\nContent-Length: 2\r\n\r\nok",
    "nul": b"HTTP/1.1 200 OK\r\nX-A: b\x00c\r\nContent-Length: 2\r\n\r\nok",
    "huge-header": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 100_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "big-header": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 20_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "smuggled": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "early": b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig",
    "not-modified": b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 10\r\n\r\n',
}


async def serve(reader, writer):
    global count
    count += 1
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            if path.startswith("/location/"):
                to = urllib.parse.unquote(path[10:])
                writer.write(
                    b"HTTP/1.1 302 Found\r\nRefresh: 0; url=/lab\r\nContent-Length: 0\r\nLocation: "
                    + to.encode()
                    + b"\r\n\r\n"
                )
                await writer.drain()
            elif path == "/head":
                body = json.dumps({"head": head.decode("latin-1"), "connections": count}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
            else:
                writer.write(SAYS[path[1:]])
                await writer.drain()
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 3003, limit=1 << 20)
    await server.serve_forever()


asyncio.run(main())
