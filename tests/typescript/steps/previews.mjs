// Servers inside the sandbox, reached by links.
import assert from 'node:assert/strict'
import { request } from 'node:http'
import { step, until } from './step.mjs'

const SERVER = `
import http.server, os
# Where the network is shared, a sandbox has a block of ports, of which the git server has the first two.
PORT = int(os.environ.get("PORT") or 0)
PORT = PORT and PORT + 2
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (self.path + " " + str(self.headers.get("authorization"))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
`
let port

// Names below localhost are this machine, but Node asks the resolver, which may not know them; browsers do not ask.
function fetched(link, headers = {}) {
  const lookup = (_, options, done) => (options.all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4))
  return new Promise((resolve, reject) => {
    request(link, { lookup, headers: { 'x-daytona-skip-preview-warning': 'true', ...headers } }, (answer) => {
      let text = ''
      answer.setEncoding('utf8')
      answer.on('data', (more) => (text += more))
      answer.on('end', () => resolve({ status: answer.statusCode, text }))
    })
      .on('error', reject)
      .end()
  })
}

step('preview: a server', async ({ sandbox }) => {
  await sandbox.fs.uploadFile(Buffer.from(SERVER), 'server.py')
  await sandbox.process.createSession('server')
  const { cmdId } = await sandbox.process.executeSessionCommand('server', { command: 'python3 server.py', runAsync: true })
  const said = async () => (await sandbox.process.getSessionCommandLogs('server', cmdId)).stdout
  port = Number(await until(said, () => 'the server listens'))
})

step('preview: the standard link', async ({ sandbox }) => {
  const link = await sandbox.getPreviewLink(port)
  const path = link.url.endsWith('/') ? 'a%20b?c=d' : '/a%20b?c=d'
  const answer = await fetched(link.url + path, { 'x-daytona-preview-token': link.token })
  assert.deepEqual([answer.status, answer.text], [200, '/a%20b?c=d None'])
  const wrong = await fetched(link.url + path, { 'x-daytona-preview-token': 'wrong' })
  assert.notEqual(wrong.text, answer.text)
})

step('preview: a signed link, until it is revoked', async ({ sandbox }) => {
  const link = await sandbox.getSignedPreviewUrl(port, 120)
  const open = await fetched(link.url)
  assert.equal(open.status, 200, open.text)
  assert.match(open.text, /^\/ None$/)
  await sandbox.expireSignedPreviewUrl(port, link.token)
  const closed = await fetched(link.url)
  assert.ok(closed.status === 401 || closed.status === 404, `${closed.status} ${closed.text}`)
})
