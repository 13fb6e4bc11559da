// Creating, finding and describing sandboxes.
import assert from 'node:assert/strict'
import {
  Daytona,
  DaytonaAuthenticationError,
  DaytonaConflictError,
  DaytonaInvalidArgumentError,
  DaytonaNotFoundError,
  DaytonaValidationError,
} from '@daytona/sdk'
import { refused, sh, step } from './step.mjs'

const NAME = `smoke-${process.pid}`

step('create with parameters', async (world) => {
  world.sandbox = await world.daytona.create({
    name: NAME,
    language: 'python',
    envVars: { GREETING: 'hello wörld', EMPTY: '' },
    labels: { suite: 'typescript', 'needs "quoting"': 'ü' },
    public: false,
    autoStopInterval: 31,
    autoArchiveInterval: 62,
    autoDeleteInterval: 93,
    ttlMinutes: 600,
    networkBlockAll: true,
  })
  const { sandbox } = world
  assert.equal(sandbox.state, 'started')
  assert.equal(sandbox.name, NAME)
  assert.equal(sandbox.public, false)
  assert.equal(sandbox.labels.suite, 'typescript')
  assert.equal(sandbox.labels['needs "quoting"'], 'ü')
  assert.deepEqual([sandbox.autoStopInterval, sandbox.autoArchiveInterval, sandbox.autoDeleteInterval], [31, 62, 93])
  assert.equal(sandbox.networkBlockAll, true)
  const left = Date.parse(sandbox.autoDestroyAt) - Date.now()
  assert.ok(left > 550 * 60_000 && left <= 600 * 60_000, sandbox.autoDestroyAt)
  assert.equal(await sh(sandbox, 'printf %s "$GREETING"'), 'hello wörld')
})

step('get by id and by name', async ({ daytona, sandbox }) => {
  assert.equal((await daytona.get(sandbox.id)).name, sandbox.name)
  assert.equal((await daytona.get(sandbox.name)).id, sandbox.id)
})

step('home and working directory', async ({ sandbox }) => {
  const home = await sandbox.getUserHomeDir()
  assert.equal(await sh(sandbox, 'printf %s "$HOME"'), home)
  assert.equal((await sh(sandbox, 'pwd')).trim(), await sandbox.getWorkDir())
})

step('labels are replaced', async ({ daytona, sandbox }) => {
  const labels = await sandbox.setLabels({ suite: 'typescript', second: '2', 'code-toolbox-language': 'python' })
  assert.equal(labels.second, '2')
  const again = await daytona.get(sandbox.id)
  assert.equal(again.labels.second, '2')
  assert.equal(again.labels['needs "quoting"'], undefined)
})

step('list by labels, name and state', async ({ daytona, sandbox }) => {
  const ids = async (query) => {
    const found = []
    for await (const one of daytona.list(query)) found.push(one.id)
    return found
  }
  assert.deepEqual(await ids({ labels: { second: '2' } }), [sandbox.id])
  assert.deepEqual(await ids({ labels: { second: '3' } }), [])
  assert.deepEqual(await ids({ name: sandbox.name.toUpperCase(), limit: 1 }), [sandbox.id])
  assert.deepEqual(await ids({ labels: { second: '2' }, states: ['started'] }), [sandbox.id])
  assert.deepEqual(await ids({ labels: { second: '2' }, states: ['stopped'] }), [])
})

step('list over pages', async ({ daytona, sandbox }) => {
  const other = await daytona.create({ name: `${NAME}-second`, ephemeral: true, autoStopInterval: 5 })
  assert.equal(other.autoDeleteInterval, 0)
  const names = []
  for await (const one of daytona.list({ name: NAME, limit: 1, sort: 'name', order: 'asc' })) names.push(one.name)
  assert.deepEqual(names, [NAME, `${NAME}-second`])
  await other.delete(60, true)
  await refused(daytona.get(other.id), DaytonaNotFoundError, { statusCode: 404 })
})

step('intervals and time to live', async ({ daytona, sandbox }) => {
  await sandbox.setAutostopInterval(41)
  await sandbox.setAutoArchiveInterval(42)
  await sandbox.setAutoDeleteInterval(43)
  await sandbox.setTtl(0)
  await sandbox.refreshActivity()
  const again = await daytona.get(sandbox.id)
  assert.deepEqual([again.autoStopInterval, again.autoArchiveInterval, again.autoDeleteInterval], [41, 42, 43])
  assert.equal(again.autoDestroyAt ?? null, null)
})

step('environment set later', async ({ sandbox }) => {
  await sandbox.updateEnv({ LATER: 'yes' }, { unset: ['GREETING'] })
  assert.equal(await sh(sandbox, 'printf %s "$LATER:${GREETING-unset}"'), 'yes:unset')
})

step('metrics', async ({ sandbox }) => {
  const metrics = await sandbox.getMetricsLatest()
  assert.ok(metrics.cpuCount >= 1 && metrics.memTotal > 0 && metrics.diskTotal > 0, JSON.stringify(metrics))
})

step('errors of the control plane', async ({ daytona, sandbox }) => {
  const missing = await refused(daytona.get('no-such-sandbox'), DaytonaNotFoundError, {
    statusCode: 404,
    source: 'DAYTONA_API',
  })
  assert.match(missing.message, /no-such-sandbox/)
  await refused(daytona.create({ name: NAME }), DaytonaConflictError, { statusCode: 409 })
  await refused(daytona.create({ snapshot: 'no-such-snapshot' }), DaytonaValidationError, { statusCode: 400 })
  await refused(daytona.create({ autoStopInterval: -1 }), DaytonaInvalidArgumentError)
  const stranger = new Daytona({
    apiKey: 'wrong',
    apiUrl: process.env.DAYTONA_API_URL,
    target: 'local',
    useDeprecatedPolling: true,
  })
  await refused(stranger.get(sandbox.id), DaytonaAuthenticationError, { statusCode: 401 })
})
