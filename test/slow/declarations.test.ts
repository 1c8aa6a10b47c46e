import t from 'tap'
import { compilers, declarationsAreClean, declarationsAreCleanNatively, resolutions, writeConsumer } from '../fixtures/declarations.ts'

// Many programs are compiled here, which takes long on a slow machine, and nothing is waited for.
t.setTimeout(600_000)

const dir = writeConsumer(t)
for (const name of compilers) declarationsAreClean(t, dir, name, resolutions)
declarationsAreCleanNatively(t, dir, ['bundler', 'node16', 'nodenext'])
