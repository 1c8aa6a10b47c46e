// Other versions of Node, whose binaries come from npm.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './fresh.mjs'

/** In milliseconds. */
const LONGEST_DOWNLOAD = 300_000

/** The Node that runs this, where it is of that major version, else one that is installed. */
export function nodeOf (major) {
  return process.versions.node.split('.')[0] === major ? process.execPath : installNode(major)
}

/** The path of a Node binary, installed beside the other tools when it is not there. */
export function installNode (major) {
  const prefix = join(root, 'node_modules/.cache/nodes', major)
  const name = `node-${process.platform === 'win32' ? 'win' : process.platform}-${process.arch}`
  const binary = join(prefix, 'node_modules', name, process.platform === 'win32' ? 'bin/node.exe' : 'bin/node')
  if (!existsSync(binary)) {
    console.log(`installing Node ${major}`)
    mkdirSync(prefix, { recursive: true })
    const { status } = spawnSync(`npm install --no-save --prefix . ${name}@${major}`,
      { cwd: prefix, shell: true, stdio: ['ignore', 'ignore', 'inherit'], timeout: LONGEST_DOWNLOAD, killSignal: 'SIGKILL' })
    if (status !== 0) throw new Error(`Node ${major} could not be installed`)
  }
  return binary
}
