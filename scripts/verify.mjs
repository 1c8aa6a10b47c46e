// All that has to be right before anything is published. Checks that wait for nothing of one another run beside each
// other: the tests, which wait for half of their time, and what computes. Each check says what it has to say when it ends.
import { spawn } from 'node:child_process'
import { root } from './fresh.mjs'

const start = performance.now()
const seconds = from => `${Math.round((performance.now() - from) / 1000)} s`
const problems = []

/** One script of package.json, with what it prints kept together. */
function check (script) {
  const from = performance.now()
  return new Promise(resolve => {
    const child = spawn(`npm run --silent ${script}`, { cwd: root, shell: true, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', text => { output += text })
    child.on('close', code => {
      if (code !== 0) problems.push(script)
      console.log(`verify: ${script} ${code === 0 ? 'is fine' : 'FAILS'}, in ${seconds(from)}`)
      if (output.trim() !== '') console.log(output.trimEnd().replace(/^/gm, '  '))
      resolve(code === 0)
    })
  })
}

/** The tests, which say a line for each of their files as it ends. */
function test () {
  return new Promise(resolve => {
    const child = spawn('npm test', { cwd: root, shell: true, stdio: 'inherit' })
    child.on('close', code => {
      if (code !== 0) problems.push('test')
      resolve()
    })
  })
}

// To compile everything is to check its types. It keeps one core busy, so what does not need it begins beside it. The tests of
// what does not compile are not run.
const lint = check('lint')
const built = await check('build')
const packed = built ? check('pack:check') : undefined
if (built && await check('build:all')) await test()
await Promise.all([lint, packed])

console.log(problems.length === 0 ? `verify: all is fine, in ${seconds(start)}` : `verify: ${problems.join(' and ')} FAILS`)
process.exitCode = problems.length === 0 ? 0 : 1
