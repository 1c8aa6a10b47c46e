import t from 'tap'
import { declarationsAreClean, writeConsumer } from './fixtures/declarations.ts'

// Programs are compiled here, which takes long on a slow machine, and nothing is waited for.
t.setTimeout(600_000)

// The ways to find the package that types.test.ts does not go; test/slow has all ways with all compilers.
const dir = writeConsumer(t)
declarationsAreClean(t, dir, 'typescript', ['bundler', 'node10'])
