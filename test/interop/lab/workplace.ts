import { mkdir, readdir, symlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { install, root } from '../../fixtures/published.ts'
import type { Lab } from './lab.ts'
import { cache } from './peers.ts'

/** A project outside of this one, that has everything installed: this package as it is published, the others by links. */
export async function workplace (lab: Lab): Promise<string> {
  const directory = await lab.directory()
  const modules = join(directory, 'node_modules')
  install(directory)
  await writeFile(join(directory, 'package.json'), '{ "private": true, "type": "module" }')
  for (const from of [join(cache, 'node_modules'), join(root, 'node_modules')]) {
    for (const name of await packages(from)) {
      await mkdir(dirname(join(modules, name)), { recursive: true })
      // What the peers have brought along comes first.
      await symlink(join(from, name), join(modules, name), 'junction').catch(() => {})
    }
  }
  return directory
}

async function packages (modules: string): Promise<string[]> {
  const names = (await readdir(modules)).filter(name => !name.startsWith('.'))
  const scoped = names.filter(name => name.startsWith('@')).map(async scope => (await readdir(join(modules, scope))).map(name => `${scope}/${name}`))
  return [...names.filter(name => !name.startsWith('@')), ...(await Promise.all(scoped)).flat()]
}

/** Writes files into such a project. */
export async function write (directory: string, files: Record<string, string>): Promise<void> {
  for (const [name, source] of Object.entries(files)) {
    await mkdir(dirname(join(directory, name)), { recursive: true })
    await writeFile(join(directory, name), source)
  }
}
