import t from 'tap'
import { spawnSync } from 'node:child_process'

/** What a process of its own loads of lib, and of node_modules, when it imports this. */
function loadedBy (entry: string): string[] {
  const program = `
    const { registerHooks } = await import('node:module')
    const seen = []
    if (registerHooks === undefined) {
      process.stdout.write('[]')
    } else {
      registerHooks({ load (url, context, next) { seen.push(url); return next(url, context) } })
      await import(${JSON.stringify(new URL(entry, import.meta.url).href)})
      process.stdout.write(JSON.stringify(seen))
    }`
  const { stdout, stderr } = spawnSync(process.execPath, ['--no-warnings', '--input-type=module', '-e', program], { encoding: 'utf8' })
  t.equal(stderr, '')
  return JSON.parse(stdout) as string[]
}

const inNode = Number(process.versions.node.split('.')[0]) < 22 ? { skip: 'this Node has no hook that says what is loaded' } : {}
const ending = import.meta.url.endsWith('.ts') ? 'ts' : 'js'

t.test('CL1 the client loads no Fastify, and nothing of the server', inNode, async t => {
  const loaded = loadedBy(`../lib/client/index.${ending}`)
  t.ok(loaded.some(url => url.includes('/lib/client/exchange.')), 'the hook sees what is loaded')
  t.same(loaded.filter(url => /\/node_modules\/(?:fastify|avvio|fastify-plugin|find-my-way|ws)\//.test(url)), [])
  t.same(loaded.filter(url => /\/lib\/(?:plugin|watch-server|routes|handshake|connection|shutdown|observability|inject|governance|relay)\b/.test(url)), [])
})

t.test('CL1 the plugin does not load the client, nor injection', inNode, async t => {
  const loaded = loadedBy(`../lib/index.${ending}`)
  t.ok(loaded.some(url => url.includes('/lib/plugin.')), 'the hook sees what is loaded')
  t.same(loaded.filter(url => /\/lib\/client\/(?:index|connect|open|messages|byte-connection|netcat|bin|netcat-arguments|netcat-errors|options|server-sent-events|refused)\./.test(url)), [])
  t.same(loaded.filter(url => /\/lib\/inject\/(?!inject\.|injected-clients\.)/.test(url)), [])
})
