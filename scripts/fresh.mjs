// When something was changed last. It imports nothing but Node itself, because at first there is nothing else.
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('..', import.meta.url))

/** In milliseconds, for the last of these paths, and of what is in them. A directory changes with the names in it. */
export function changed (...paths) {
  const times = paths.map(path => {
    const stats = statSync(join(root, path), { throwIfNoEntry: false })
    if (stats === undefined) return 0
    const inside = stats.isDirectory() ? readdirSync(join(root, path)).map(name => join(path, name)) : []
    return Math.max(stats.mtimeMs, changed(...inside))
  })
  return Math.max(0, ...times)
}

/** What else the built files depend on. npm writes the last one whenever it installs. */
export const TOOLS = ['scripts', 'tsconfig.json', 'tsconfig.all.json', 'tsconfig.build.json', 'node_modules/.package-lock.json']
