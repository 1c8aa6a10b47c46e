import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { delimiter, join } from 'node:path'

/** A program or a library that is not ours. */
export interface Peer {
  name: string
  /** Without it the run fails. */
  required: boolean
  /** A file that tells that the peer is there: an absolute path, or the name of a command. */
  command?: string
  /** The packages that have it; the first that Debian knows is installed. */
  debian?: readonly string[]
  /** The Debian package is unpacked into the cache and not installed, so that no service of it starts. */
  unpack?: boolean
  /** A package of npm, with a range. */
  npm?: string
  /** A package that is among the development dependencies. */
  dependency?: string
  /** Arguments that make the command print its version. Without them the version is that of the package. */
  version?: readonly string[]
}

export interface Installed {
  /** Absolute path of the command. */
  path: string
  version: string
}

/** Where everything from npm goes, and what is unpacked: beside the other tools, never among the dependencies. */
export const cache = new URL('../../../../node_modules/.cache/interop/', import.meta.url).pathname
const dependencies = new URL('../../../../node_modules/', import.meta.url).pathname
const unpacked = (peer: Peer): string => join(cache, 'debian', peer.debian?.[0] ?? peer.name)
const require = createRequire(join(cache, 'package.json'))

let deadline = Infinity

/** A library that was installed for a peer. */
export function load<T> (name: string): T {
  return require(name) as T
}

/** Installs what is not there, until a time of the clock. What cannot be installed is simply not in the result. */
export function install (peers: readonly Peer[], until: number): Map<Peer, Installed> {
  deadline = until
  const absent = (peer: Peer): boolean => find(peer) === undefined
  const ofNpm = peers.filter(peer => peer.npm !== undefined && absent(peer))
  if (ofNpm.length > 0) npm(ofNpm.map(peer => peer.npm as string))
  const ofDebian = peers.filter(peer => peer.debian !== undefined && absent(peer))
  if (ofDebian.length > 0) apt(ofDebian)
  const installed = new Map<Peer, Installed>()
  for (const peer of peers) {
    const path = find(peer)
    if (path !== undefined) installed.set(peer, { path, version: versionOf(peer, path) })
  }
  return installed
}

function find (peer: Peer): string | undefined {
  if (peer.npm !== undefined) {
    const manifest = join(cache, 'node_modules', packageName(peer.npm), 'package.json')
    return existsSync(manifest) ? manifest : undefined
  }
  if (peer.dependency !== undefined) return join(dependencies, peer.dependency, 'package.json')
  const command = peer.command ?? peer.name
  const candidates = command.startsWith('/') ? [command] : (process.env.PATH ?? '').split(delimiter).map(directory => join(directory, command))
  if (peer.unpack === true) return [command, join('/usr/bin', command)].map(path => join(unpacked(peer), path)).find(path => existsSync(path))
  return candidates.find(path => existsSync(path))
}

function versionOf (peer: Peer, path: string): string {
  if (peer.npm !== undefined || peer.dependency !== undefined) return (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version
  if (peer.version !== undefined) {
    const { stdout, stderr } = spawnSync(path, peer.version, { encoding: 'utf8', timeout: 20_000 })
    return /\d+(?:\.\d+)+\w*/.exec(`${stdout}\n${stderr}`)?.[0] ?? 'unknown'
  }
  const format = ['$', '{source:Upstream-Version}'].join('')
  // dpkg leaves out what comes before and after the version of the software itself.
  const { stdout } = spawnSync('dpkg-query', ['-W', '-f', format, peer.debian?.[0] ?? peer.name], { encoding: 'utf8' })
  return stdout.replace(/^\d+:|[+~].*$/g, '') || 'unknown'
}

function packageName (spec: string): string {
  return spec.replace(/(?<=.)@.*$/, '')
}

function npm (specs: readonly string[]): void {
  run('npm', ['install', '--prefix', cache, '--no-audit', '--no-fund', '--loglevel=error', ...specs])
}

/** Another apt may run, or an answer of a mirror be lost. */
const patience = ['-oDPkg::Lock::Timeout=120', '-oAcquire::Retries=3']

function apt (peers: readonly Peer[]): void {
  if (process.getuid?.() !== 0 || spawnSync('apt-get', ['--version']).error !== undefined) {
    console.log('interop: nothing can be installed from Debian without apt-get and root')
    return
  }
  run('apt-get', ['update', '-qq', ...patience])
  const known = new Map(peers.map(peer => [peer, peer.debian?.find(isKnown)]))
  withoutServices(() => {
    const names = [...new Set([...known].flatMap(([peer, name]) => name === undefined || peer.unpack === true ? [] : [name]))]
    // All at once is fast; one that does not install must not cost the others.
    if (names.length > 0 && !aptInstall(names)) for (const name of names) aptInstall([name])
  })
  for (const [peer, name] of known) if (name !== undefined && peer.unpack === true) unpack(peer, name)
}

function aptInstall (names: readonly string[]): boolean {
  return run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...patience, ...names], { DEBIAN_FRONTEND: 'noninteractive' })
}

function isKnown (name: string): boolean {
  const { stdout } = spawnSync('apt-cache', ['policy', name], { encoding: 'utf8' })
  return /Candidate: (?!\(none\))/.test(stdout)
}

/** Debian starts what it installs, unless this file says otherwise: no sshd on port 22 for a test. */
function withoutServices (install: () => void): void {
  const policy = '/usr/sbin/policy-rc.d'
  if (existsSync(policy)) return install()
  writeFileSync(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
  try {
    install()
  } finally {
    rmSync(policy)
  }
}

function unpack (peer: Peer, name: string): void {
  const directory = unpacked(peer)
  run('sh', ['-c', 'mkdir -p "$1" && cd "$1" && apt-get download -qq "$2" && dpkg -x ./*.deb . && rm ./*.deb', 'sh', directory, name])
}

function run (command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): boolean {
  console.log(`interop: ${command} ${args.slice(0, 2).join(' ')} ... ${args.slice(2).filter(argument => !argument.startsWith('-')).join(' ')}`)
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: '/', env: { ...process.env, ...env }, encoding: 'utf8', timeout: Math.max(deadline - Date.now(), 1), stdio: ['ignore', 'pipe', 'pipe']
  })
  if (status !== 0) console.log(`${stdout}${stderr}`.trim().split('\n').slice(-5).join('\n'))
  return status === 0
}
