// Stopping, starting again, and the end.
import assert from 'node:assert/strict'
import { DaytonaNotFoundError, DaytonaValidationError } from '@daytona/sdk'
import { refused, sh, step } from './step.mjs'

step('stop and start: files stay, processes do not', async ({ daytona, sandbox }) => {
  await sandbox.process.executeCommand('setsid sleep 979 >/dev/null 2>&1 & echo kept > kept')
  await sandbox.stop()
  assert.equal(sandbox.state, 'stopped')
  assert.equal((await daytona.get(sandbox.id)).state, 'stopped')
  await refused(sandbox.process.executeCommand('true'), DaytonaValidationError)
  await sandbox.start()
  assert.equal(sandbox.state, 'started')
  assert.equal(await sh(sandbox, 'cat kept; pgrep -f "[s]leep 979" || echo gone'), 'kept\ngone\n')
})

step('delete', async ({ daytona, sandbox }) => {
  await sandbox.delete(60, true)
  assert.equal(sandbox.state, 'destroyed')
  await refused(daytona.get(sandbox.id), DaytonaNotFoundError, { statusCode: 404 })
})
