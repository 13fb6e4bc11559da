// The list of steps, and what more than one of them needs.
import assert from 'node:assert/strict'

export const steps = []

/** Add a step; `run` gets what the steps share. */
export function step(name, run) {
  steps.push({ name, run })
}

/** `work` must fail with an error of exactly this class and these properties; the error. */
export async function refused(work, errorClass, expected = {}) {
  let error
  try {
    await work
  } catch (caught) {
    error = caught
  }
  assert.ok(error, `nothing was refused; expected ${errorClass.name}`)
  assert.equal(error.constructor.name, errorClass.name, `${error.constructor.name}: ${error.message}`)
  for (const [name, value] of Object.entries(expected)) assert.equal(error[name], value, `${name} of ${error.message}`)
  return error
}

/** Ask until `condition` holds; `what()` says what it is when it does not within 20 s. */
export async function until(condition, what) {
  const end = Date.now() + 20_000
  for (;;) {
    const answer = await condition()
    if (answer) return answer
    if (Date.now() > end) throw new Error(`waited 20 s in vain until ${what()}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** What a shell command prints; it must end with 0. */
export async function sh(sandbox, command) {
  const done = await sandbox.process.executeCommand(command)
  assert.equal(done.exitCode, 0, `${command}: ${done.exitCode} ${done.result}`)
  return done.result
}

/** Collects text, and waits for some of it. */
export class Collected {
  text = ''
  add = (more) => {
    this.text += typeof more === 'string' ? more : new TextDecoder().decode(more, { stream: true })
  }
  async has(wanted) {
    const what = () => `${JSON.stringify(wanted)} is in ${JSON.stringify(this.text)}`
    await until(() => this.text.includes(wanted), what)
  }
}
