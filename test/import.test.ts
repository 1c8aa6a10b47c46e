import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'

t.test('Q18 to import the plugin puts nothing of its own into the queue of ticks', async t => {
  const program = `
    import 'fastify'
    const { nextTick } = process
    let ours = 0
    process.nextTick = (...all) => {
      if (/[/\\\\]lib[/\\\\](?!.*node_modules)/.test(String(new Error().stack).replaceAll(/.*node_modules.*/g, ''))) ours++
      return nextTick(...all)
    }
    await import(${JSON.stringify(new URL('../lib/index.js', import.meta.url).href)})
    console.log(ours)`
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', program])
  t.equal(stdout.trim(), '0')
})
