// The stock `docker` command through examples/docker-proxy, with examples/docker-engine behind it on a Unix socket.
import { strict as assert } from 'node:assert'
import { randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Pty } from '../../examples/pty.ts'
import { debian as docker, talk } from './docker.ts'
import { Dialogue, exits, gone, sha256, type Group, type Lab } from './lab/index.ts'

const MB = 1024 * 1024
const blob = randomBytes(10 * MB)
const PROMPT = 'ready> '

async function run (lab: Lab): Promise<void> {
  const directory = await lab.directory()
  const socket = join(directory, 'engine.sock')
  const engine = await lab.example('docker-engine', { SOCKET: socket })
  const proxy = await lab.example('docker-proxy', { TOKEN: 'secret', IMAGES: 'host', DOCKER_SOCKET: socket })
  const as = async (token: string): Promise<NodeJS.ProcessEnv> => {
    const config = join(directory, token)
    await mkdir(config)
    await writeFile(join(config, 'config.json'), JSON.stringify({ HttpHeaders: { 'X-Docker-Token': token } }))
    return { DOCKER_HOST: `tcp://localhost:${proxy.port}`, DOCKER_CONFIG: config, DOCKER_CONTEXT: '', DOCKER_API_VERSION: '' }
  }
  const env = await as('secret')
  const stranger = await as('guessed')
  const engineOnly = { ...env, DOCKER_HOST: `unix://${socket}` }
  const inTerminal = (command: string, args: readonly string[]): { terminal: Pty, dialogue: Dialogue } => {
    const terminal = new Pty([command, ...args], { env: { ...process.env, ...env }, cwd: directory, rows: 24, columns: 80 })
    lab.defer(() => terminal.hangUp())
    return { terminal, dialogue: new Dialogue(terminal.child) }
  }

  await lab.check(docker, 'through the proxy, with a wrong token: 401', async command => {
    const { code, stderr } = await lab.run(command, ['ps'], { env: stranger })
    assert.notEqual(code, 0)
    assert.match(stderr, /X-Docker-Token is missing or wrong/)
  })
  await lab.check(docker, 'through the proxy: version, negotiated; run -d, ps', async command => {
    const version = exits(await lab.run(command, ['version', '--format', '{{.Server.Version}} {{.Client.APIVersion}}'], { env }))
    assert.match(String(version.stdout), /^0\.1\.0 1\.(?:4[0-7]|3\d)\n$/)
    exits(await lab.run(command, ['run', '-d', '--name', 'box', 'host', 'sleep', '1000'], { env }))
    const { stdout } = exits(await lab.run(command, ['ps', '--format', '{{.Names}} {{.State}} {{.Command}}'], { env }))
    assert.equal(String(stdout), 'box running "sleep 1000"\n')
  })
  await lab.check(docker, 'through the proxy: an image that is not listed, and a command that is not', async command => {
    const image = await lab.run(command, ['run', 'other', 'true'], { env })
    assert.notEqual(image.code, 0)
    assert.match(image.stderr, /The image other is not allowed/)
    assert.notEqual((await lab.run(command, ['volume', 'ls'], { env })).code, 0)
  })
  await lab.check(docker, 'through the proxy: exec -i box cat: 10 MB there and back', async command => {
    const { stdout } = exits(await lab.run(command, ['exec', '-i', 'box', 'cat'], { env, input: blob }))
    assert.equal(sha256(stdout), sha256(blob))
  })
  await lab.check(docker, 'through the proxy: exec -i, line by line; stdin half-closed, and an answer to that', async command => {
    const dialogue = new Dialogue(lab.spawn(command, ['exec', '-i', 'box', 'sh', '-c', 'while read -r line; do echo "got $line"; done; echo end'], { env }))
    for (const word of ['one', 'two']) {
      dialogue.send(`${word}\n`)
      assert.equal(await dialogue.until('\n'), `got ${word}\n`)
    }
    dialogue.end()
    assert.equal(await dialogue.until('\n'), 'end\n')
    assert.equal(await dialogue.exit(), 0)
  })
  await lab.check(docker, 'through the proxy: exec, 2 MB of stdout and of stderr kept apart, exit code 3', async command => {
    const script = 'head -c 2097152 /dev/zero & head -c 2097152 /dev/zero | tr "\\0" e >&2; wait; exit 3'
    const { stdout, stderr } = exits(await lab.run(command, ['exec', 'box', 'sh', '-c', script], { env }), 3)
    assert.equal(sha256(stdout), sha256(Buffer.alloc(2 * MB)))
    assert.equal(sha256(stderr), sha256('e'.repeat(2 * MB)))
  })
  await lab.check(docker, 'through the proxy: exec -it and run --rm -it, terminals, resized', async command => {
    for (const [code, ...args] of [[4, 'exec', '-it', '-e', `PS1=${PROMPT}`, 'box', 'sh'], [5, 'run', '--rm', '-it', '-e', `PS1=${PROMPT}`, 'host', 'sh']] as const) {
      const { terminal, dialogue } = inTerminal(command, args)
      await talk(terminal, dialogue, code)
    }
  })
  await lab.check(docker, 'through the proxy: a client that is killed takes its process with it', async command => {
    const child = lab.spawn(command, ['exec', '-i', 'box', 'sh', '-c', 'echo $$; while sleep 0.1; do echo; done'], { env })
    const pid = Number(await new Dialogue(child).until('\n'))
    child.kill('SIGKILL')
    await gone(pid)
  })
  await lab.check(docker, 'through the proxy: run --rm -i, 10 MB there and back; exit code 7', async command => {
    const { stdout } = exits(await lab.run(command, ['run', '--rm', '-i', 'host', 'cat'], { env, input: blob }))
    assert.equal(sha256(stdout), sha256(blob))
    exits(await lab.run(command, ['run', '--rm', 'host', 'sh', '-c', 'exit 7'], { env }), 7)
  })
  await lab.check(docker, 'attach: one through the proxy, one past it, see the same shell', async command => {
    exits(await lab.run(command, ['run', '-d', '-i', '--name', 'shell', 'host', 'sh'], { env }))
    const [one, two] = [env, engineOnly].map(env => new Dialogue(lab.spawn(command, ['attach', '--sig-proxy=false', 'shell'], { env }))) as [Dialogue, Dialogue]
    // Each is attached once it has seen its own words.
    one.send('echo one\n')
    await one.until('one\n')
    two.send('echo two\n')
    await Promise.all([one.until('two\n'), two.until('two\n')])
    one.send('exit 6\n')
    assert.deepEqual(await Promise.all([one.exit(), two.exit()]), [6, 6])
    exits(await lab.run(command, ['rm', 'shell'], { env }))
  })
  await lab.check(docker, 'through the proxy: rm -f, nothing is left', async command => {
    exits(await lab.run(command, ['rm', '-f', 'box'], { env }))
    assert.equal(String(exits(await lab.run(command, ['ps', '-aq'], { env })).stdout), '')
  })
  await lab.ours('examples/docker-proxy', 'no error in its log, and it ends with exit code 0', async () => {
    assert.equal(await proxy.stop(), 0)
    const errors = proxy.output().split('\n').filter(line => /"level":(?:50|60)/.test(line) && !/FST_ERR_DUPLEX_ABORTED/.test(line))
    assert.deepEqual(errors, [])
    assert.equal(await engine.stop(), 0)
  })
}

const group: Group = { title: 'Docker, through examples/docker-proxy', peers: [docker], run }

export default group
