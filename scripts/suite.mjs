// Runs built test files, each as the program that it is, some of them at a time, and says a line when one ends.
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
/** In milliseconds, for one file. A test may take as long: what hangs is found on a machine of any speed. */
const LONGEST = 600_000
/** What is shown of a file that failed. */
const MOST_LINES = 200
const LAST_LINES = 30
/**
 * What takes longest is begun first, or it would run alone at the end. Some of these wait for most of their time, and
 * others compute: they take turns, so that neither the cores idle nor all compute at once.
 */
const SLOWEST = [
  'lifetime', 'types', 'answers', 'readme', 'examples', 'body', 'inject', 'shutdown', 'closers', 'stream', 'hostile', 'http2-sessions', 'pipelines',
  'stream-memory', 'refusal', 'graceful', 'governance-websocket', 'routing', 'limits-more', 'packaging', 'http2', 'connect', 'property'
]
/**
 * How many files run at once. Most tests wait for timers now and then, and half of the time of the suite is spent so: with
 * four files more than there are cores, the cores do not idle meanwhile.
 */
export const JOBS = Math.min(availableParallelism(), 7) + 4

/** The files of a directory of tests, the slow ones first, or those of them whose names have one of the words in them. */
export function filesIn (directory, words = []) {
  const names = readdirSync(`${root}/.build/${directory}`).filter(name => name.endsWith('.test.js')).map(name => name.replace('.test.js', '')).sort()
  const rank = name => (SLOWEST.indexOf(name) + SLOWEST.length + 1) % (SLOWEST.length + 1)
  return names.filter(name => words.length === 0 || words.some(word => name.includes(word)))
    .sort((a, b) => rank(a) - rank(b))
    .map(name => ({ name, path: `.build/${directory}/${name}.test.js` }))
}

const running = new Set()
process.on('exit', () => { for (const stop of running) stop() })
process.on('SIGINT', () => process.exit(130))
process.on('SIGTERM', () => process.exit(143))

export const seconds = from => `${((performance.now() - from) / 1000).toFixed(1)} s`

/**
 * One file, in a process of its own, behind these arguments.
 *
 * @returns {Promise<{
 *   name: string, fine: boolean, tests: { title: string, state: 'ok' | 'skip' | 'FAIL' }[], account: string, how: string, took: string
 * }>}
 */
function run (binary, { name, path, args = [], env = {}, longest = LONGEST }) {
  return new Promise(resolve => {
    const from = performance.now()
    const child = spawn(binary, [...args, path], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      env: { ...process.env, TAP_TIMEOUT: String(longest / 1000), ...env }
    })
    let output = ''
    let late = false
    // With the processes that it has started, which would hold its output open.
    const stop = () => {
      try {
        process.kill(-child.pid, 'SIGKILL')
      } catch {
        // They have ended by themselves, or this is Windows, which has no groups of processes.
        child.kill('SIGKILL')
      }
    }
    running.add(stop)
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', chunk => { output += chunk })
    const timer = setTimeout(() => {
      late = true
      stop()
    }, longest)
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      stop()
      running.delete(stop)
      const tests = resultsOf(output)
      const whole = !late && /^1\.\.\d+/m.test(output)
      const fine = code === 0 && whole && tests.every(({ state }) => state !== 'FAIL')
      const account = fine ? '' : accountOf(output, whole)
      resolve({ name, fine, tests, account, how: late ? 'does not end' : `exit code ${code ?? signal}`, took: seconds(from) })
    })
  })
}

/** The tests of a file, as its TAP says. */
function resultsOf (output) {
  return [...output.matchAll(/^(not )?ok \d+ - (.*)$/gm)].map(([, failed, line]) => {
    const [, title, skip] = /^(.*?)(?: # (?:time=.*|(SKIP|TODO).*))?$/.exec(line)
    return { title, state: failed !== undefined ? 'FAIL' : skip !== undefined ? 'skip' : 'ok' }
  })
}

/** What a file that failed has to say: all of each test that failed, or, if it did not come to its end, what it said last. */
function accountOf (output, whole) {
  const lines = output.split('\n')
  const failures = []
  let test = []
  for (const line of lines) {
    if (/^# Subtest: /.test(line)) test = []
    if (!/^ *ok \d+ - /.test(line)) test.push(line)
    if (/^not ok \d+ - /.test(line)) failures.push(...test.splice(0))
  }
  return (whole && failures.length > 0 ? failures.slice(0, MOST_LINES) : [...failures.slice(0, MOST_LINES), '...', ...lines.slice(-LAST_LINES)]).join('\n')
}

/** Runs the files, so many at a time. `report` gets each result as it comes, and `title` is said in front of each line. */
export async function runAll (binary, files, { jobs, title = '', start = performance.now(), report }) {
  const queue = [...files]
  let done = 0
  const worker = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const result = await run(binary, file)
      const passed = result.tests.filter(({ state }) => state === 'ok').length
      const said = result.fine ? `${passed} ok` : `FAILS, ${result.how}`
      console.log(`[${seconds(start).padStart(7)}] ${title}${String(++done).padStart(2)}/${files.length} ${file.name}: ${said}, in ${result.took}`)
      report(result)
    }
  }
  await Promise.all(Array.from({ length: jobs }, worker))
}
