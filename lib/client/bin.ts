import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Interrupted, netcat } from './netcat.ts'

/** Runs the command in this process. */
export function run (directory: string): void {
  const control = new AbortController()
  for (const [signal, code] of [['SIGINT', 130], ['SIGTERM', 143], ['SIGHUP', 129]] as const) {
    process.once(signal, () => control.abort(new Interrupted(code)))
  }
  const { argv, env, stdin, stdout, stderr } = process
  const version = (): string => versionAbove(directory)
  void netcat({ argv: argv.slice(2), env, stdin, stdout, stderr, signal: control.signal, version }).then(code => {
    process.exitCode = code
    // Everything was printed, and nobody reads it any more.
    stdin.destroy()
    stdin.unref?.()
  })
}

function versionAbove (directory: string): string {
  for (let at = directory; ; at = dirname(at)) {
    try {
      const { name, version } = JSON.parse(readFileSync(join(at, 'package.json'), 'utf8')) as { name?: string, version?: string }
      if (name === 'fastify-duplex' && version !== undefined) return version
    } catch {}
    if (at === dirname(at)) return 'unknown'
  }
}
