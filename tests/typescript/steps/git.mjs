// Git, with a server over HTTP that asks for a login; it runs in the sandbox as well.
import assert from 'node:assert/strict'
import { join } from 'node:path'
import {
  DaytonaGitAuthFailedError,
  DaytonaGitBranchExistsError,
  DaytonaGitPushRejectedError,
  DaytonaGitRepoNotFoundError,
} from '@daytona/sdk'
import { refused, sh, step, until } from './step.mjs'

const [USER, PASSWORD] = ['ada', 'pass "word" ü$']
let url

step('git: a server', async ({ sandbox, folder }) => {
  await sandbox.git.configureUser('Tester', 'tester@example.org')
  assert.equal(await sandbox.git.getConfig('user.email'), 'tester@example.org')
  await sandbox.git.init('first', false, 'main')
  await sandbox.fs.uploadFile(Buffer.from('one\n'), 'first/a')
  await sandbox.git.add('first', ['a'])
  await sandbox.git.commit('first', 'one', 'Tester', 'tester@example.org')
  await sh(sandbox, 'mkdir served && git clone -q --bare first served/repo.git')
  await sandbox.fs.uploadFile(join(folder, 'git_server.py'), 'git_server.py')
  await sandbox.process.createSession('git-server')
  const { cmdId } = await sandbox.process.executeSessionCommand('git-server', {
    command: 'python3 git_server.py served',
    runAsync: true,
  })
  await sandbox.process.sendSessionCommandInput('git-server', cmdId, `${USER}\n${PASSWORD}\n`)
  const ports = await until(async () => {
    const read = await sandbox.process.executeCommand('cat served/ports')
    return read.exitCode === 0 && read.result
  }, () => 'the git server listens')
  url = `http://127.0.0.1:${ports.split(' ')[0]}/private/repo.git`
})

step('git: clone', async ({ sandbox }) => {
  await sandbox.git.clone(url, 'clone', undefined, undefined, USER, PASSWORD)
  assert.equal(await sh(sandbox, 'cat clone/a'), 'one\n')
  assert.equal(await sandbox.git.remoteGet('clone', 'origin'), url)
})

step('git: branch, status, add, commit', async ({ sandbox }) => {
  await sandbox.git.createBranch('clone', 'topic')
  await sandbox.git.checkoutBranch('clone', 'topic')
  const { branches } = await sandbox.git.branches('clone')
  assert.deepEqual([...branches].sort(), ['main', 'topic'])
  await sandbox.fs.uploadFiles([
    { source: Buffer.from('changed\n'), destination: 'clone/a' },
    { source: Buffer.from('new\n'), destination: 'clone/ü b' },
  ])
  const files = async () => {
    const status = await sandbox.git.status('clone')
    assert.equal(status.currentBranch, 'topic')
    return Object.fromEntries(status.fileStatus.map((f) => [f.name, `${f.staging}/${f.worktree}`]))
  }
  assert.deepEqual(await files(), { a: 'Unmodified/Modified', 'ü b': 'Untracked/Untracked' })
  await sandbox.git.add('clone', ['.'])
  assert.deepEqual(await files(), { a: 'Modified/Unmodified', 'ü b': 'Added/Unmodified' })
  const { sha } = await sandbox.git.commit('clone', 'second, wïth ü', 'Ada', 'ada@example.org')
  assert.equal(await sh(sandbox, 'cd clone && git log -1 --format="%H %an %s"'), `${sha} Ada second, wïth ü\n`)
  assert.deepEqual(await files(), {})
})

step('git: push and pull', async ({ sandbox }) => {
  await sandbox.git.push('clone', USER, PASSWORD, 'topic', 'origin', true)
  assert.match(await sh(sandbox, 'git -C served/repo.git log -1 --format=%s topic'), /second/)
  await sandbox.git.clone(url, 'other', 'topic', undefined, USER, PASSWORD)
  await sandbox.fs.uploadFile(Buffer.from('three\n'), 'other/c')
  await sandbox.git.add('other', ['c'])
  await sandbox.git.commit('other', 'third', 'Ada', 'ada@example.org')
  await sandbox.git.push('other', USER, PASSWORD)
  await sandbox.git.pull('clone', USER, PASSWORD)
  assert.equal(await sh(sandbox, 'cat clone/c'), 'three\n')
})

step('git: errors', async ({ sandbox }) => {
  await refused(sandbox.git.clone(url, 'no', undefined, undefined, USER, 'wrong'), DaytonaGitAuthFailedError, {
    statusCode: 401,
    source: 'DAYTONA_DAEMON',
  })
  assert.equal(await sh(sandbox, 'ls -d no 2>/dev/null || echo none'), 'none\n')
  await refused(sandbox.git.status('a folder'), DaytonaGitRepoNotFoundError, { statusCode: 404 })
  await refused(sandbox.git.createBranch('clone', 'topic'), DaytonaGitBranchExistsError, { statusCode: 409 })
  await sh(sandbox, 'cd other && git commit -q --allow-empty -m four && cd ../clone && git commit -q --allow-empty -m five')
  await sandbox.git.push('other', USER, PASSWORD)
  await refused(sandbox.git.push('clone', USER, PASSWORD), DaytonaGitPushRejectedError, { statusCode: 409 })
})
