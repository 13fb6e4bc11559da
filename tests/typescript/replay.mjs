// What the TypeScript client makes of transcripts: reads [{name, url, ...}] from its standard input, asks each server
// one question, and prints {name: answer}. A refusal is told as the class and the status of the error.
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { Daytona, DaytonaError } from '@daytona/sdk'

const bytes = (base64) => Buffer.from(base64, 'base64')

async function download(sandbox, { paths }) {
  const answers = await sandbox.fs.downloadFiles(paths.map((source) => ({ source })))
  const told = ({ result, errorDetails }) =>
    result ? result.toString('base64') : [errorDetails.statusCode, errorDetails.code]
  return Object.fromEntries(answers.map((one) => [one.source, told(one)]))
}

async function missing(sandbox, { paths }) {
  return sandbox.fs.downloadFile(paths.at(-2))
}

async function upload(sandbox, { name, files }) {
  const given = Object.entries(files).map(([destination, data]) => ({ source: bytes(data), destination }))
  if (name.endsWith('-stream')) {
    await sandbox.fs.uploadFileStream(Readable.from([given[0].source]), given[0].destination)
  } else {
    await sandbox.fs.uploadFiles(given)
  }
  return 'accepted'
}

async function terminal(sandbox, { name, typed, envs }) {
  const seen = []
  const handle = await sandbox.process.createPty({
    id: name.replace('pty-', ''),
    cols: 80,
    rows: 24,
    envs,
    onData: (data) => void seen.push(Buffer.from(data)),
  })
  await handle.sendInput(bytes(typed))
  const { exitCode, error } = await handle.wait()
  await handle.disconnect()
  return { output: Buffer.concat(seen).toString(), exit_code: exitCode, error: error ?? null }
}

async function command(sandbox, { command }) {
  const done = await sandbox.process.executeSessionCommand('golden-command', { command, runAsync: false })
  return [done.cmdId, done.exitCode, done.stdout, done.stderr]
}

async function logs(sandbox, { number }) {
  const [out, err] = [[], []]
  const { process } = sandbox
  const [add, addError] = [(more) => void out.push(more), (more) => void err.push(more)]
  await process.getSessionCommandLogs('golden-logs', number, add, addError)
  const all = await process.getSessionCommandLogs('golden-logs', number)
  return { followed: [out.join(''), err.join('')], read: [all.output, all.stdout, all.stderr] }
}

async function interpret(sandbox, { asked: { code, contextId, ...options } }) {
  const context = contextId && { id: contextId }
  const done = await sandbox.codeInterpreter.runCode(code, { ...options, context })
  const error = done.error ? [done.error.name, done.error.value, done.error.traceback] : null
  return { stdout: done.stdout, stderr: done.stderr, error }
}

async function stop(sandbox) {
  await sandbox.stop(30)
  return 'over'
}

const QUESTIONS = {
  'bulk-download': download,
  'bulk-download-missing': missing,
  'bulk-upload': upload,
  pty: terminal,
  'session-command': command,
  'session-logs': logs,
  interpreter: interpret,
  'socket-io': stop,
}

const told = {}
for (const asked of JSON.parse(await text(process.stdin))) {
  const { name, url, key, sandbox } = asked
  const kind = Object.keys(QUESTIONS)
    .filter((one) => name.startsWith(one))
    .sort((a, b) => b.length - a.length)[0]
  const client = new Daytona({
    apiKey: key,
    apiUrl: `${url}/api`,
    target: 'local',
    useDeprecatedPolling: !name.startsWith('socket-io'),
  })
  try {
    told[name] = await QUESTIONS[kind](await client.get(sandbox), asked)
  } catch (error) {
    told[name] = error instanceof DaytonaError ? [error.constructor.name, error.statusCode ?? null] : String(error?.stack ?? error)
  }
  await client[Symbol.asyncDispose]()
}
console.log(JSON.stringify(told))
process.exit(0)
