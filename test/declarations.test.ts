import t from 'tap'
import { declarationsAreClean, writeConsumer } from './fixtures/declarations.ts'

// Programs are compiled here, which takes long on a slow machine, and nothing is waited for.
t.setTimeout(600_000)

// The oldest and the newest compiler, and between them every way to find the package; test/slow has all with all.
const dir = writeConsumer(t)
declarationsAreClean(t, dir, 'typescript-5.4', ['node10', 'node16'])
declarationsAreClean(t, dir, 'typescript', ['bundler', 'nodenext'])
