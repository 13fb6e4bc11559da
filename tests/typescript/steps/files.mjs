// The file system of a sandbox.
import assert from 'node:assert/strict'
import { createReadStream } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { DaytonaFileAccessDeniedError, DaytonaFileNotFoundError, DaytonaInvalidFilePathError } from '@daytona/sdk'
import { refused, sh, step } from './step.mjs'

const BINARY = Buffer.from(Array.from({ length: 256 }, (_, n) => n))
const ODD = ['with space.txt', 'quote".txt', "it's.txt", 'größe ☃.txt', 'semi;colon=.txt', '100%25.txt', 'back\\slash.txt']

step('files: upload and download', async ({ sandbox }) => {
  await sandbox.fs.uploadFile(BINARY, 'files/deep/binary')
  assert.ok(BINARY.equals(await sandbox.fs.downloadFile('files/deep/binary')))
  assert.equal((await sh(sandbox, 'sha256sum < files/deep/binary')).slice(0, 8), '40aff2e9')
  await sandbox.fs.uploadFile(Buffer.alloc(0), 'files/empty')
  assert.equal((await sandbox.fs.getFileDetails('files/empty')).size, 0)
})

step('files: from and to this machine', async ({ sandbox }) => {
  const folder = await mkdtemp(join(tmpdir(), 'smoke-'))
  try {
    await writeFile(join(folder, 'from'), 'carried over\n')
    await sandbox.fs.uploadFile(join(folder, 'from'), 'files/carried')
    await sandbox.fs.downloadFile('files/carried', join(folder, 'sub', 'to'))
    assert.equal(await readFile(join(folder, 'sub', 'to'), 'utf8'), 'carried over\n')
  } finally {
    await rm(folder, { recursive: true })
  }
})

step('files: many at once, with odd names', async ({ sandbox }) => {
  const uploads = ODD.map((name) => ({ source: Buffer.from(`in ${name}`), destination: `files/odd/${name}` }))
  await sandbox.fs.uploadFiles(uploads)
  assert.deepEqual((await sandbox.fs.listFiles('files/odd')).map((f) => f.name).sort(), [...ODD].sort())
  const wanted = [...ODD.map((name) => `files/odd/${name}`), 'files/nowhere']
  const answers = await sandbox.fs.downloadFiles(wanted.map((source) => ({ source })))
  for (const [n, name] of ODD.entries()) {
    assert.equal(answers[n].error, undefined, `${name}: ${answers[n].error}`)
    assert.equal(answers[n].result?.toString(), `in ${name}`)
  }
  const last = answers.at(-1)
  assert.deepEqual(
    [last.result, last.errorDetails?.statusCode, last.errorDetails?.code, last.errorDetails?.source],
    [undefined, 404, 'FILE_NOT_FOUND', 'DAYTONA_DAEMON'],
  )
})

step('files: streams with progress', async ({ sandbox }) => {
  const size = 3 << 20
  const block = Buffer.alloc(1 << 16, 'stream')
  let sent = 0
  const source = Readable.from((function* () {
    for (let n = 0; n < size; n += block.length) yield block
  })())
  await sandbox.fs.uploadFileStream(source, 'files/streamed', { onProgress: ({ bytesSent }) => (sent = bytesSent) })
  assert.equal(sent, size)
  const seen = []
  const stream = await sandbox.fs.downloadFileStream('files/streamed', { onProgress: (at) => seen.push({ ...at }) })
  let received = 0
  for await (const chunk of stream) received += chunk.length
  assert.equal(received, size)
  assert.deepEqual(seen.at(-1), { bytesReceived: size, totalBytes: size })
  await sandbox.fs.uploadFileStream(createReadStream(process.argv[1]), 'files/program')
  assert.ok((await readFile(process.argv[1])).equals(await sandbox.fs.downloadFile('files/program')))
})

step('files: a stream that is given up', async ({ sandbox }) => {
  const control = new AbortController()
  const stream = await sandbox.fs.downloadFileStream('files/streamed', { signal: control.signal })
  await assert.rejects(async () => {
    for await (const chunk of stream) {
      assert.ok(chunk.length)
      control.abort()
    }
  }, /cancelled/)
  assert.equal(await sh(sandbox, 'echo on'), 'on\n')
})

step('files: folders, details, permissions', async ({ sandbox }) => {
  await sandbox.fs.createFolder('files/folder/inner', '750')
  const made = await sandbox.fs.getFileDetails('files/folder/inner')
  assert.deepEqual([made.name, made.isDir, made.permissions], ['inner', true, '0750'])
  await sandbox.fs.uploadFile(Buffer.from('#!/bin/sh\necho ran'), 'files/run.sh')
  await sandbox.fs.setFilePermissions('files/run.sh', { mode: '700' })
  assert.equal(await sh(sandbox, 'files/run.sh; stat -c %a files/run.sh'), 'ran\n700\n')
  const deep = await sandbox.fs.listFiles('files', { depth: 3 })
  assert.ok(deep.some((f) => f.name === 'binary' && !f.isDir && f.size === 256), JSON.stringify(deep.slice(0, 3)))
})

step('files: find, search and replace', async ({ sandbox }) => {
  await sandbox.fs.uploadFiles([
    { source: Buffer.from('first\nneedle here\n'), destination: 'files/hay/one.txt' },
    { source: Buffer.from('needle and needle\n'), destination: 'files/hay/two.txt' },
    { source: Buffer.from('nothing\n'), destination: 'files/hay/three.md' },
  ])
  const matches = await sandbox.fs.findFiles('files/hay', 'needle')
  const found = matches.map((m) => [m.file.split('/').at(-1), m.line, m.content.trim()]).sort()
  assert.deepEqual(found, [['one.txt', 2, 'needle here'], ['two.txt', 1, 'needle and needle']])
  const { files } = await sandbox.fs.searchFiles('files/hay', '*.txt')
  assert.deepEqual(files.map((f) => f.split('/').at(-1)).sort(), ['one.txt', 'two.txt'])
  const replaced = await sandbox.fs.replaceInFiles(['files/hay/one.txt', 'files/hay/two.txt'], 'needle', 'pin')
  assert.deepEqual(replaced.map((r) => r.success), [true, true])
  assert.equal(await sh(sandbox, 'cat files/hay/one.txt files/hay/two.txt'), 'first\npin here\npin and pin\n')
})

step('files: move and delete', async ({ sandbox }) => {
  await sandbox.fs.moveFiles('files/hay/one.txt', 'files/hay/moved.txt')
  await sandbox.fs.deleteFile('files/hay/two.txt')
  assert.equal(await sh(sandbox, 'ls files/hay'), 'moved.txt\nthree.md\n')
  await refused(sandbox.fs.deleteFile('files/hay'), DaytonaInvalidFilePathError)
  await sandbox.fs.deleteFile('files/hay', true)
  assert.equal(await sh(sandbox, 'ls -d files/hay 2>/dev/null || echo gone'), 'gone\n')
})

step('files: signed links', async ({ sandbox }) => {
  const up = await fetch(await sandbox.uploadUrl('files/signed ü', 60), { method: 'POST', body: 'by link' })
  assert.equal(up.status, 200, await up.text())
  const link = await sandbox.downloadUrl('files/signed ü', 60)
  assert.equal(await (await fetch(link)).text(), 'by link')
  assert.equal((await fetch(link.replace('path=files', 'path=other'))).status, 401)
  await sandbox.rotateSigningKey()
  assert.equal((await fetch(link)).status, 401)
  assert.equal(await (await fetch(await sandbox.downloadUrl('files/signed ü'))).text(), 'by link')
})

step('files: errors', async ({ sandbox }) => {
  const gone = { statusCode: 404, code: 'FILE_NOT_FOUND', source: 'DAYTONA_DAEMON' }
  await refused(sandbox.fs.downloadFile('files/none'), DaytonaFileNotFoundError, gone)
  await refused(sandbox.fs.downloadFileStream('files/none'), DaytonaFileNotFoundError, gone)
  await refused(sandbox.fs.getFileDetails('files/none'), DaytonaFileNotFoundError, gone)
  await refused(sandbox.fs.listFiles('files/none'), DaytonaFileNotFoundError, gone)
  const closed = { statusCode: 403, code: 'FILE_ACCESS_DENIED' }
  await sh(sandbox, 'mkdir -m 000 files/closed')
  await refused(sandbox.fs.uploadFile(Buffer.from('x'), 'files/closed/x'), DaytonaFileAccessDeniedError, closed)
  await refused(sandbox.fs.listFiles('files/closed'), DaytonaFileAccessDeniedError, closed)
})
