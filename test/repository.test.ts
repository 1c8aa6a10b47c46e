import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { root } from './fixtures/published.ts'
import { pages, read } from './fixtures/snippets.ts'

interface Mutation {
  file: string
  find: string
  everywhere?: boolean
  tests: string[]
}

const workflows = readdirSync(join(root, '.github/workflows')).map(name => `.github/workflows/${name}`)
const manifest = JSON.parse(read('package.json')) as {
  version: string
  scripts: Record<string, string>
  engines: { node: string }
  peerDependencies: { fastify: string }
  repository: { url: string }
}

t.test('RP2 every page leads back to the index', async t => {
  for (const page of pages.filter(page => !page.endsWith('README.md'))) t.match(read(page), /\n\n\[All pages\]\(README\.md\)\n$/, page)
  t.match(read('docs/README.md'), '](../README.md)')
  t.match(read('README.md'), '](docs/README.md)')
})

t.test('RP2 what is beside README is linked there, or from what is linked there', async t => {
  const linked = (page: string): string[] => [...read(page).matchAll(/\]\((?:\.\.\/)?([A-Z_]+\.md)\)/g)].map(([, file = '']) => file)
  const reached = new Set(['README.md', ...linked('docs/support.md')])
  for (const page of reached) for (const file of linked(page)) reached.add(file)
  t.same([...reached].sort(), readdirSync(root).filter(name => name.endsWith('.md')).sort())
})

t.test('RP3 every action of the workflows is pinned by its commit, and named by its version', async t => {
  const used = workflows.flatMap(file => [...read(file).matchAll(/^ *- uses: (.*)$/gm)].map(([, action = '']) => action))
  t.ok(used.length >= 4)
  for (const action of used) t.match(action, /^[\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/)
  const versions = new Map(used.map(action => [action.split('@')[0], action]))
  t.same([...new Set(used)].sort(), [...versions.values()].sort(), 'one version of each')
})

t.test('RP3 no workflow may do more than it needs', async t => {
  for (const file of workflows) {
    t.match(read(file), /^permissions:\n {2}contents: read\n\n/m, file)
    const more = [...read(file).matchAll(/^ +[\w-]+: write$/gm)].map(([line]) => line.trim())
    t.same(more, file.endsWith('release.yml') ? ['id-token: write'] : [], file)
    // What somebody else has written into a title or a branch would be a command there.
    t.notMatch(read(file), /run: .*\$\{\{ *github\./, file)
  }
  t.match(read('.github/workflows/release.yml'), 'npm publish --provenance')
})

t.test('RP3 every script that a workflow, .ci/run or CONTRIBUTING names is there', async t => {
  const named = [...workflows, '.ci/run', 'CONTRIBUTING.md', 'docs/README.md'].flatMap(file =>
    [...read(file).matchAll(/npm run (?:--silent )?([\w:-]*\w)/g)].map(([, script = '']) => script))
  const matrix = [...read('.github/workflows/ci.yml').matchAll(/^ *script: \[(.*)\]$/gm)].flatMap(([, list = '']) =>
    list.split(', ').map(script => script.replace(/^'([\w:-]*\w).*'$/, '$1')))
  t.ok(matrix.length > 3)
  for (const script of new Set([...named, ...matrix])) t.ok(script in manifest.scripts, script)
})

t.test('RP3 what the mutations break is there', async t => {
  const { mutations } = await import(pathToFileURL(join(root, 'scripts/mutation-list.mjs')).href) as { mutations: Mutation[] }
  t.ok(mutations.length > 300)
  for (const { file, find, everywhere = false, tests } of mutations) {
    const count = read(`lib/${file}`).split(find).length - 1
    if (everywhere ? count < 2 : count !== 1) t.fail(`${file} has ${count} of ${find}`)
    for (const [name] of tests.map(test => test.split(' '))) if (!existsSync(join(root, `test/${name}.test.ts`))) t.fail(`no test ${name}`)
  }
})

t.test('RP4 the package has no more than users need, and a size that is watched', async t => {
  const directory = t.testdir({
    scripts: {}, dist: { 'index.js': 'x'.repeat(5000) }, test: { 'one.js': '' }, 'package.json': '{ "name": "a", "version": "1.0.0", "files": ["dist"] }'
  })
  for (const name of ['pack-size.mjs', 'fresh.mjs']) cpSync(join(root, 'scripts', name), join(directory, 'scripts', name))
  const look = (...args: string[]): unknown => spawnSync(process.execPath, [join(directory, 'scripts/pack-size.mjs'), ...args], { encoding: 'utf8' })
  t.match(look(), { status: 0, stderr: '', stdout: /^2 files, 1 kB packed of at most \d+, 6 kB unpacked of at most \d+\n/ })
  t.match(look('--unpacked', '5'), { status: 1, stderr: 'the package: it is larger than 5 kB unpacked\n' })
  const more = t.testdir({
    scripts: {}, dist: {}, test: { 'one.js': '' }, 'package.json': '{ "name": "a", "version": "1.0.0", "files": ["dist", "test"] }'
  })
  for (const name of ['pack-size.mjs', 'fresh.mjs']) cpSync(join(root, 'scripts', name), join(more, 'scripts', name))
  t.match(spawnSync(process.execPath, [join(more, 'scripts/pack-size.mjs')], { encoding: 'utf8' }),
    { status: 1, stderr: /nothing is built[^]*test\/one\.js is not for users/ })
})

t.test('RP5 the table of support says what package.json says', async t => {
  const [, ours = '', fastify = '', node = ''] = /^\| (\d+\.\d+) \| ([^|]+) \| ([^|]+) \|/m.exec(read('docs/support.md')) ?? []
  t.ok(manifest.version.startsWith(`${ours}.`))
  t.equal(`>=${/^[\d.]+/.exec(node)?.[0]}`, manifest.engines.node)
  const majors = manifest.peerDependencies.fastify.match(/\^\d+/g) ?? []
  t.same(fastify.match(/(?<![.\w-])\d+/g)?.map(major => `^${major}`), majors)
  const [, tested = ''] = /^ +node: \[(.*)\]$/m.exec(read('.github/workflows/ci.yml')) ?? []
  t.same(node.match(/\d+(?:\.\d+)?/g)?.map(parseFloat).map(Math.floor), tested.split(', ').map(Number))
})

t.test('RP5 the entry for the list of Fastify has the form that its check asks for', async t => {
  const [, entry = ''] = /```md\n(- .*?)```/s.exec(read('CONTRIBUTING.md')) ?? []
  const lines = entry.trimEnd().split('\n')
  const home = manifest.repository.url.replace(/^git\+|\.git$/g, '')
  t.ok(entry.startsWith(`- [\`fastify-duplex\`](${home}) `))
  for (const line of lines) t.ok(line.length <= 80, line)
  for (const line of lines.slice(1)) t.match(line, /^ {2}\S/)
  t.ok(entry.trimEnd().endsWith('.'))
})

t.test('RP5 the placeholder of the address is the same everywhere', async t => {
  const home = manifest.repository.url.replace(/^git\+|\.git$/g, '')
  for (const file of ['.github/ISSUE_TEMPLATE/config.yml', '.github/PULL_REQUEST_TEMPLATE.md', 'CONTRIBUTING.md', 'docs/README.md', 'package.json', 'README.md']) {
    const own = [...read(file).matchAll(/https:\/\/(?:github|raw\.githubusercontent)\.com\/([\w-]+\/[\w-]*duplex[\w-]*)/g)].map(([, name]) => name)
    t.ok(own.length > 0, file)
    t.same([...new Set(own)], [home.replace('https://github.com/', '')], file)
  }
})

t.test('RP6 every example with a page has a picture in the documentation, with a text for who does not see it', async t => {
  const withPage = readdirSync(join(root, 'examples')).filter(file => read(`examples/${file}`).includes('<!doctype html>')).map(file => file.replace('.ts', ''))
  t.ok(withPage.length >= 3)
  const shown = pages.flatMap(page => [...read(page).matchAll(/^!\[([^\]]{40,})\]\(pictures\/([\w-]+)\.png\)$/gm)].map(([, , name]) => name))
  t.same(shown.sort(), withPage.sort())
  for (const name of withPage) {
    const picture = readFileSync(join(root, 'docs/pictures', `${name}.png`))
    t.equal(picture.toString('latin1', 1, 4), 'PNG')
    t.ok(picture.length < 50_000, `${name}.png: ${picture.length} bytes`)
  }
})
