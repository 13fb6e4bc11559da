// Interpreter contexts: Python that keeps its variables.
import assert from 'node:assert/strict'
import { DaytonaConnectionError, DaytonaTimeoutError } from '@daytona/sdk'
import { Collected, refused, step } from './step.mjs'

step('interpreter: state, streams, environment', async ({ sandbox }) => {
  const python = sandbox.codeInterpreter
  await python.runCode('import os, sys\nx = 40')
  const [out, err] = [new Collected(), new Collected()]
  const done = await python.runCode('print(x + 2, os.environ["WHO"], "☃")\nprint("bad", file=sys.stderr)', {
    envs: { WHO: 'me' },
    onStdout: ({ output }) => out.add(output),
    onStderr: ({ output }) => err.add(output),
  })
  assert.deepEqual([done.stdout, done.stderr, done.error], ['42 me ☃\n', 'bad\n', undefined])
  assert.deepEqual([out.text, err.text], [done.stdout, done.stderr])
})

step('interpreter: an exception', async ({ sandbox }) => {
  let told
  const done = await sandbox.codeInterpreter.runCode('print("before")\nraise ValueError("no")', {
    onError: (error) => (told = error),
  })
  assert.equal(done.stdout, 'before\n')
  assert.deepEqual([done.error.name, done.error.value], ['ValueError', 'no'])
  assert.match(done.error.traceback, /Traceback[^]*ValueError: no/)
  assert.deepEqual(told, done.error)
})

step('interpreter: contexts', async ({ sandbox }) => {
  const python = sandbox.codeInterpreter
  const folder = `${await sandbox.getWorkDir()}/a folder`
  const context = await python.createContext(folder)
  assert.equal(context.cwd, folder)
  await python.runCode('import os; y = os.getcwd()', { context })
  assert.equal((await python.runCode('print(y)', { context })).stdout, `${folder}\n`)
  assert.equal((await python.runCode('print(y)')).error.name, 'NameError')
  assert.deepEqual((await python.listContexts()).map((c) => c.id), [context.id])
  await python.deleteContext(context)
  assert.deepEqual(await python.listContexts(), [])
  const error = await refused(python.runCode('1', { context }), DaytonaConnectionError)
  assert.match(error.message, /context/i)
})

step('interpreter: timeout', async ({ sandbox }) => {
  const python = sandbox.codeInterpreter
  await refused(python.runCode('import time; time.sleep(600)', { timeout: 1 }), DaytonaTimeoutError)
  assert.equal((await python.runCode('print("alive", x)')).stdout, 'alive 40\n')
})
