// A program of a user of the TypeScript SDK, run against whatever endpoint its environment names.
//
// It prints a line of JSON for each step: {"step", "ok", "ms", "error"?}. A step asserts by its effect, and one
// that fails does not stop the others. The exit status is 1 when one failed.
import { Daytona } from '@daytona/sdk'
import { steps } from './steps/step.mjs'
import './steps/control.mjs'
import './steps/process.mjs'
import './steps/files.mjs'
import './steps/git.mjs'
import './steps/sessions.mjs'
import './steps/interpreter.mjs'
import './steps/pty.mjs'
import './steps/previews.mjs'
import './steps/end.mjs'

const STEP_MS = 60_000

async function inTime(work) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${STEP_MS / 1000} s`)), STEP_MS)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

// What the steps share: the client, the sandbox once there is one, the folder of the tests, and a Node.js.
const world = { daytona: new Daytona(), sandbox: undefined, folder: process.argv[2], node: process.argv[3] }
let failed = false
for (const { name, run } of steps) {
  const begun = performance.now()
  const line = { step: name, ok: true, ms: 0 }
  try {
    await inTime(run(world))
  } catch (error) {
    failed = true
    line.ok = false
    line.error = error?.stack ?? String(error)
  }
  line.ms = Math.round(performance.now() - begun)
  console.log(JSON.stringify(line))
}
await world.daytona[Symbol.asyncDispose]()
process.exit(failed ? 1 : 0)
