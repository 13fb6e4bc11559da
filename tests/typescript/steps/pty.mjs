// Terminals.
import assert from 'node:assert/strict'
import { DaytonaConnectionError, DaytonaProcessNotFoundError } from '@daytona/sdk'
import { Collected, refused, step } from './step.mjs'

const PLAIN = { PS1: '$ ', TERM: 'dumb' }

step('pty: input, output, size, exit code', async ({ sandbox }) => {
  const screen = new Collected()
  const pty = await sandbox.process.createPty({
    id: 'term',
    cols: 91,
    rows: 29,
    cwd: `${await sandbox.getWorkDir()}/a folder`,
    envs: { ...PLAIN, WHO: 'mé' },
    onData: screen.add,
  })
  assert.ok(pty.isConnected())
  await pty.sendInput('echo "<$WHO $(basename "$PWD") $(stty size)>"\n')
  await screen.has('<mé a folder 29 91>')
  const info = await pty.resize(133, 41)
  assert.deepEqual([info.cols, info.rows], [133, 41])
  await pty.sendInput('echo "<$(stty size)>"\n')
  await screen.has('<41 133>')
  await pty.sendInput(new TextEncoder().encode('exit 5\n'))
  const ended = await pty.wait()
  assert.equal(ended.exitCode, 5)
  assert.equal(pty.isConnected(), false)
  await refused(sandbox.process.getPtySessionInfo('term'), DaytonaProcessNotFoundError, { code: 'PROCESS_NOT_FOUND' })
})

step('pty: a second client and one that comes back', async ({ sandbox }) => {
  const [one, two, three] = [new Collected(), new Collected(), new Collected()]
  const first = await sandbox.process.createPty({ id: 'shared', envs: PLAIN, onData: one.add })
  const second = await sandbox.process.connectPty('shared', { onData: two.add })
  await first.sendInput('KEPT=42; echo "<both>"\n')
  await Promise.all([one.has('\n<both>'), two.has('\n<both>')])
  await Promise.all([first.disconnect(), second.disconnect()])
  assert.deepEqual((await sandbox.process.listPtySessions()).map((s) => s.id), ['shared'])
  const third = await sandbox.process.connectPty('shared', { onData: three.add })
  await third.sendInput('echo "<$KEPT>"\n')
  await three.has('<42>')
  await third.sendInput('exit 0\n')
  assert.equal((await third.wait()).exitCode, 0)
})

step('pty: kill and errors', async ({ sandbox }) => {
  const pty = await sandbox.process.createPty({ id: 'killed', envs: PLAIN, onData: () => {} })
  await refused(sandbox.process.createPty({ id: 'killed', onData: () => {} }), DaytonaConnectionError)
  await pty.kill()
  assert.equal((await pty.wait()).exitCode, 137)
  assert.deepEqual(await sandbox.process.listPtySessions(), [])
  await refused(sandbox.process.connectPty('killed', { onData: () => {} }), DaytonaConnectionError)
})
