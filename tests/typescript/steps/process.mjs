// Commands and programs that run once.
import assert from 'node:assert/strict'
import { ChartType, DaytonaProcessExecutionTimeoutError, DaytonaValidationError } from '@daytona/sdk'
import { refused, sh, step } from './step.mjs'

step('execute: folder, environment, exit code', async ({ sandbox }) => {
  await sh(sandbox, 'mkdir -p "a folder"')
  const done = await sandbox.process.executeCommand('pwd; printf "%s|" "$ONE" "$TWO"; echo err >&2; exit 7', 'a folder', {
    ONE: '1 "quoted" $HOME',
    TWO: 'zwei ☃',
  })
  assert.equal(done.exitCode, 7)
  assert.equal(done.result, `${await sandbox.getWorkDir()}/a folder\n1 "quoted" $HOME|zwei ☃|err\n`)
  assert.equal(done.artifacts.stdout, done.result)
})

step('execute: timeout', async ({ sandbox }) => {
  await refused(
    sandbox.process.executeCommand('echo $$ > sleeping; exec sleep 977', undefined, undefined, 1),
    DaytonaProcessExecutionTimeoutError,
    { statusCode: 408, source: 'DAYTONA_DAEMON' },
  )
  assert.equal(await sh(sandbox, 'kill -0 "$(cat sleeping)" 2>/dev/null && echo alive || echo gone'), 'gone\n')
})

step('execute: a blank command is refused', async ({ sandbox }) => {
  await refused(sandbox.process.executeCommand('  '), DaytonaValidationError, { statusCode: 400 })
})

step('execute: output of a megabyte', async ({ sandbox }) => {
  const text = await sh(sandbox, `python3 -c 'print("0123456789abcde\\n" * 65536, end="")'`)
  assert.equal(text, '0123456789abcde\n'.repeat(65536))
})

step('code-run: python', async ({ sandbox }) => {
  const done = await sandbox.process.codeRun('import os, sys\nprint(sys.argv[1:], os.environ["WHO"])', {
    argv: ['a b', 'ü'],
    env: { WHO: 'me' },
  })
  assert.deepEqual([done.exitCode, done.result], [0, "['a b', 'ü'] me\n"])
  const failed = await sandbox.process.codeRun('raise SystemExit(5)')
  assert.equal(failed.exitCode, 5)
})

step('code-run: a chart', async ({ sandbox }) => {
  const code = `
import matplotlib.pyplot as plt
plt.title("Growth")
plt.xlabel("time")
plt.plot([1, 2, 3], [2, 4, 8], label="line")
plt.show()
print("drawn")`
  const done = await sandbox.process.codeRun(code, undefined, 60)
  assert.deepEqual([done.exitCode, done.result], [0, 'drawn\n'])
  const [chart] = done.artifacts.charts
  assert.equal(chart.type, ChartType.LINE)
  assert.equal(chart.title, 'Growth')
  assert.equal(chart.x_label, 'time')
  assert.deepEqual(chart.elements[0].points.map(([, y]) => y), [2, 4, 8])
  assert.equal(Buffer.from(chart.png, 'base64').subarray(1, 4).toString(), 'PNG')
})

// The SDK takes the language from a label, when it makes its object of the sandbox.
async function speaking({ daytona, sandbox }, language) {
  await sandbox.setLabels({ 'code-toolbox-language': language })
  return daytona.get(sandbox.id)
}

step('code-run: javascript', async (world) => {
  // First in the sandbox's PATH, whatever its machine has.
  await sh(world.sandbox, `ln -s '${world.node}' "$HOME/.venv/bin/node"`)
  const sandbox = await speaking(world, 'javascript')
  const done = await sandbox.process.codeRun(
    'console.log(process.argv.slice(2).join(), process.env.WHO); process.exitCode = 3',
    { argv: ['x', 'y'], env: { WHO: 'node' } },
  )
  assert.deepEqual([done.exitCode, done.result], [3, 'x,y node\n'])
})

step('code-run: typescript', async (world) => {
  const sandbox = await speaking(world, 'typescript')
  const code = 'interface Point { x: number }\nconst p: Point = { x: 40 + 2 }\nconsole.log(`x=${p.x}`)'
  const done = await sandbox.process.codeRun(code)
  assert.deepEqual([done.exitCode, done.result], [0, 'x=42\n'])
  await speaking(world, 'python')
})
