// Sessions: a shell that stays, its commands and their logs.
import assert from 'node:assert/strict'
import { DaytonaProcessNotFoundError } from '@daytona/sdk'
import { Collected, refused, step } from './step.mjs'

step('sessions: commands share a shell', async ({ sandbox }) => {
  const { process } = sandbox
  await process.createSession('work')
  await process.executeSessionCommand('work', { command: 'cd / && KEPT=value' })
  const done = await process.executeSessionCommand('work', { command: 'echo "$PWD $KEPT"; echo bad >&2; (exit 4)' })
  assert.deepEqual([done.exitCode, done.stdout, done.stderr], [4, '/ value\n', 'bad\n'])
  const { commands } = await process.getSession('work')
  assert.equal(commands.length, 2)
  assert.equal((await process.getSessionCommand('work', done.cmdId)).exitCode, 4)
})

step('sessions: logs', async ({ sandbox }) => {
  const { process } = sandbox
  const done = await process.executeSessionCommand('work', { command: 'echo out; echo err >&2; printf end' })
  const logs = await process.getSessionCommandLogs('work', done.cmdId)
  assert.deepEqual([logs.stdout, logs.stderr], ['out\nend', 'err\n'])
})

step('sessions: a command in the background, followed, with input', async ({ sandbox }) => {
  const { process } = sandbox
  const command = 'printf "name? "; read -r name; echo "hello $name"; echo "é-err" >&2; (exit 6)'
  const { cmdId } = await process.executeSessionCommand('work', { command, runAsync: true, suppressInputEcho: true })
  const [out, err] = [new Collected(), new Collected()]
  const followed = process.getSessionCommandLogs('work', cmdId, out.add, err.add)
  await out.has('name? ')
  assert.equal((await process.getSessionCommand('work', cmdId)).exitCode ?? null, null)
  await process.sendSessionCommandInput('work', cmdId, 'Ada Löve\n')
  await followed
  assert.deepEqual([out.text, err.text], ['name? hello Ada Löve\n', 'é-err\n'])
  assert.equal((await process.getSessionCommand('work', cmdId)).exitCode, 6)
})

step('sessions: input is part of the log unless that is not wanted', async ({ sandbox }) => {
  const { process } = sandbox
  const { cmdId } = await process.executeSessionCommand('work', { command: 'read -r x; echo "got $x"', runAsync: true })
  const out = new Collected()
  const followed = process.getSessionCommandLogs('work', cmdId, out.add, () => {})
  await process.sendSessionCommandInput('work', cmdId, 'typed\n')
  await followed
  assert.equal(out.text, 'typed\ngot typed\n')
})

step('sessions: list, delete, errors', async ({ sandbox }) => {
  const { process } = sandbox
  const { cmdId } = await process.executeSessionCommand('work', { command: 'sleep 978', runAsync: true })
  assert.ok((await process.listSessions()).some((s) => s.sessionId === 'work'))
  await process.deleteSession('work')
  assert.ok(!(await process.listSessions()).some((s) => s.sessionId === 'work'))
  assert.notEqual((await process.executeCommand('pgrep -f "[s]leep 978"')).exitCode, 0)
  await refused(process.getSession('work'), DaytonaProcessNotFoundError, { statusCode: 404, source: 'DAYTONA_DAEMON' })
  await refused(process.getSessionCommandLogs('work', cmdId), DaytonaProcessNotFoundError)
})
