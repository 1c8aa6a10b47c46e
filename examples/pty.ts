// A process with a terminal of its own, for examples/docker-engine.ts and examples/terminal.ts. It needs
// nothing but `script` (util-linux 2.35 or newer) and `stty`, which every Linux has. In an app of your
// own take node-pty, which does the same without two more processes and on other systems too.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import type { Readable, Writable } from 'node:stream'

export interface TerminalSize {
  rows: number
  columns: number
}

export interface PtyOptions extends TerminalSize {
  env: NodeJS.ProcessEnv
  cwd: string
}

export class Pty {
  /** Of `script`; its exit code is that of the process, or 128 and the number of the signal that killed it. */
  readonly child: ChildProcess
  readonly input: Writable
  readonly output: Readable
  /** The process, and its device, like /dev/pts/3. */
  readonly #process: Promise<{ pid: number, device: string } | undefined>

  constructor (argv: readonly string[], { env, cwd, rows, columns }: PtyOptions) {
    const command = `echo $$ $(tty) >&3; exec 3>&-; stty ${settings({ rows, columns }).join(' ')}; exec ${argv.map(quote).join(' ')}`
    this.child = spawn('script', ['--quiet', '--flush', '--return', '--echo', 'always', '--command', command, '/dev/null'], {
      env: { TERM: 'xterm-256color', ...env, SHELL: '/bin/sh' },
      cwd,
      stdio: ['pipe', 'pipe', 'ignore', 'pipe']
    })
    this.input = this.child.stdin as Writable
    this.output = this.child.stdout as Readable
    this.input.on('error', () => {})
    const report = this.child.stdio[3] as Readable
    this.#process = once(report.setEncoding('utf8'), 'data').then(([line]) => {
      const [pid, device = ''] = String(line).trim().split(' ')
      return { pid: Number(pid), device }
    }, () => undefined)
  }

  /** The kernel tells the process by SIGWINCH. */
  async resize (size: TerminalSize): Promise<void> {
    const device = (await this.#process)?.device
    if (device === undefined || this.child.exitCode !== null) return
    const stty = spawn('stty', ['-F', device, ...settings(size)], { stdio: 'ignore' })
    await once(stty, 'close')
  }

  /** Signals the process, and not what it has started. */
  async kill (signal: NodeJS.Signals): Promise<void> {
    const pid = (await this.#process)?.pid
    if (pid !== undefined && this.child.exitCode === null) process.kill(pid, signal)
  }

  /** Closes the terminal: the kernel sends SIGHUP to the session, as when a terminal window is closed. */
  hangUp (): void {
    // A shell ignores the SIGTERM that `script` would pass on.
    this.child.kill('SIGKILL')
  }
}

function settings ({ rows, columns }: TerminalSize): string[] {
  const bounded = (value: number): string => String(Math.min(Math.max(Math.trunc(value) || 0, 1), 1000))
  return ['rows', bounded(rows), 'cols', bounded(columns)]
}

function quote (argument: string): string {
  return `'${argument.replaceAll("'", "'\\''")}'`
}
