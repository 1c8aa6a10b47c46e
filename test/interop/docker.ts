// The stock `docker` command against examples/docker-engine: the one that is on the PATH, and Debian's.
import { strict as assert } from 'node:assert'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { Pty } from '../../examples/pty.ts'
import { Dialogue, exits, gone, sha256, type Group, type Lab, type Peer } from './lab/index.ts'

const blob = randomBytes(10 * 1024 * 1024)
/** Kept within a line: more would be broken by the terminal. */
const PROMPT = 'ready> '

const installed: Peer = { name: 'docker', required: false, version: ['--version'] }
export const debian: Peer = {
  name: 'docker (Debian)', required: true, debian: ['docker-cli', 'docker.io'], unpack: true, command: 'docker', version: ['--version']
}

async function run (lab: Lab): Promise<void> {
  for (const peer of [installed, debian]) {
    for (const transport of ['a Unix socket', 'TCP']) await drive(lab, peer, transport)
  }
}

async function drive (lab: Lab, peer: Peer, transport: string): Promise<void> {
  const directory = await lab.directory()
  const socket = join(directory, 'engine.sock')
  const engine = await lab.example('docker-engine', transport === 'TCP' ? {} : { SOCKET: socket })
  const env = {
    DOCKER_HOST: transport === 'TCP' ? `tcp://localhost:${engine.port}` : `unix://${socket}`,
    DOCKER_CONFIG: directory,
    DOCKER_CONTEXT: '',
    DOCKER_API_VERSION: ''
  }
  const over = (what: string): string => `${what} over ${transport}`
  const inTerminal = (command: string, args: readonly string[]): { terminal: Pty, dialogue: Dialogue } => {
    const terminal = new Pty([command, ...args], { env: { ...process.env, ...env }, cwd: directory, rows: 24, columns: 80 })
    lab.defer(() => terminal.hangUp())
    return { terminal, dialogue: new Dialogue(terminal.child) }
  }

  await lab.check(peer, over('version: negotiates the API'), async docker => {
    const { stdout } = exits(await lab.run(docker, ['version', '--format', '{{.Server.Version}} {{.Client.APIVersion}}'], { env }))
    assert.match(String(stdout), /^0\.1\.0 1\.(?:4[0-7]|3\d)\n$/)
  })
  await lab.check(peer, over('run -d, ps'), async docker => {
    exits(await lab.run(docker, ['run', '-d', '--name', 'box', 'host', 'sleep', '1000'], { env }))
    const { stdout } = exits(await lab.run(docker, ['ps', '--format', '{{.Names}} {{.State}} {{.Command}}'], { env }))
    assert.equal(String(stdout), 'box running "sleep 1000"\n')
  })
  await lab.check(peer, over('exec -i box cat: 10 MB there and back'), async docker => {
    const { stdout } = exits(await lab.run(docker, ['exec', '-i', 'box', 'cat'], { env, input: blob }))
    assert.equal(sha256(stdout), sha256(blob))
  })
  await lab.check(peer, over('exec -i: answered line by line; stdin half-closed, and an answer to that'), async docker => {
    const child = lab.spawn(docker, ['exec', '-i', 'box', 'sh', '-c', 'while read -r line; do echo "got $line"; done; echo end'], { env })
    const dialogue = new Dialogue(child)
    for (const word of ['one', 'two']) {
      dialogue.send(`${word}\n`)
      assert.equal(await dialogue.until('\n'), `got ${word}\n`)
    }
    dialogue.end()
    assert.equal(await dialogue.until('\n'), 'end\n')
    assert.equal(await dialogue.exit(), 0)
  })
  await lab.check(peer, over('exec: 2 MB of stdout and of stderr kept apart, exit code 3'), async docker => {
    const script = 'head -c 2097152 /dev/zero & head -c 2097152 /dev/zero | tr "\\0" e >&2; wait; exit 3'
    const { stdout, stderr } = exits(await lab.run(docker, ['exec', 'box', 'sh', '-c', script], { env }), 3)
    assert.equal(sha256(stdout), sha256(Buffer.alloc(2097152)))
    assert.equal(sha256(stderr), sha256('e'.repeat(2097152)))
  })
  await lab.check(peer, over('exec -it: a terminal, resized, exit code 4'), async docker => {
    const { terminal, dialogue } = inTerminal(docker, ['exec', '-it', '-e', `PS1=${PROMPT}`, 'box', 'sh'])
    await talk(terminal, dialogue, 4)
  })
  await lab.check(peer, over('exec -d, and a process that dies with its client'), async docker => {
    exits(await lab.run(docker, ['exec', '-d', 'box', 'true'], { env }))
    // A client that was killed looks as if it had half-closed, until something is written to it.
    const child = lab.spawn(docker, ['exec', '-i', 'box', 'sh', '-c', 'echo $$; while sleep 0.1; do echo; done'], { env })
    const pid = Number(await new Dialogue(child).until('\n'))
    child.kill('SIGKILL')
    await gone(pid)
  })
  await lab.check(peer, over('run --rm -i: 10 MB there and back; exit code 7'), async docker => {
    const { stdout } = exits(await lab.run(docker, ['run', '--rm', '-i', 'host', 'cat'], { env, input: blob }))
    assert.equal(sha256(stdout), sha256(blob))
    exits(await lab.run(docker, ['run', '--rm', 'host', 'sh', '-c', 'exit 7'], { env }), 7)
  })
  await lab.check(peer, over('run --rm -it: a terminal, resized, exit code 5'), async docker => {
    const { terminal, dialogue } = inTerminal(docker, ['run', '--rm', '-it', '-e', `PS1=${PROMPT}`, 'host', 'sh'])
    await talk(terminal, dialogue, 5)
  })
  await lab.check(peer, over('attach: two clients see one shell, one of them ends it with exit code 6'), async docker => {
    exits(await lab.run(docker, ['run', '-d', '-i', '--name', 'shell', 'host', 'sh'], { env }))
    const [one, two] = [1, 2].map(() => new Dialogue(lab.spawn(docker, ['attach', '--sig-proxy=false', 'shell'], { env }))) as [Dialogue, Dialogue]
    // Each is attached once it has seen its own words.
    one.send('echo one\n')
    await one.until('one\n')
    two.send('echo two\n')
    await Promise.all([one.until('two\n'), two.until('two\n')])
    two.send('exit 6\n')
    assert.deepEqual(await Promise.all([one.exit(), two.exit()]), [6, 6])
    exits(await lab.run(docker, ['rm', 'shell'], { env }))
  })
  await lab.check(peer, over('rm -f: nothing is left'), async docker => {
    exits(await lab.run(docker, ['rm', '-f', 'box'], { env }))
    const { stdout } = exits(await lab.run(docker, ['ps', '-aq'], { env }))
    assert.equal(String(stdout), '')
  })
  if (lab.has(peer)) {
    await lab.ours('examples/docker-engine', over('ends with exit code 0'), async () => {
      assert.equal(await engine.stop(), 0)
      // A client that leaves while it waits is an error to Fastify's log.
      const errors = engine.output().split('\n').filter(line => /"level":(?:50|60)/.test(line) && !/FST_ERR_DUPLEX_ABORTED/.test(line))
      assert.deepEqual(errors, [])
    })
  }
}

/** With a shell in a terminal, whose size changes. */
export async function talk (terminal: Pty, dialogue: Dialogue, code: number): Promise<void> {
  await dialogue.until(PROMPT)
  dialogue.send('test -t 0 && echo "a terminal: $((40 + 2))"\n')
  await dialogue.until('a terminal: 42')
  await terminal.resize({ rows: 33, columns: 111 })
  dialogue.send('while test "$(stty size)" != "33 111"; do sleep 0.1; done; echo "size: $(stty size)"\n')
  await dialogue.until('size: 33 111')
  dialogue.send(`exit ${code}\n`)
  assert.equal(await dialogue.exit(), code)
}

const group: Group = { title: 'Docker', peers: [installed, debian], run }

export default group
