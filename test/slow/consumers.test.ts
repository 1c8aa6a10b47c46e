import { join } from 'node:path'
import t from 'tap'
import { all, alone, compile, describe, write } from '../fixtures/consumers.ts'
import { install } from '../fixtures/published.ts'

// Programs are compiled here, which takes long on a slow machine, and nothing is waited for.
t.setTimeout(600_000)

const dir = t.testdir()
install(dir)
write(join(dir, 'esm'), 'module')
write(join(dir, 'cjs'), 'commonjs')

t.test('I2 an ESM consumer compiles without casts', async t => {
  t.strictSame(compile(dir, { esm: alone }).map(describe), [])
})

t.test('I2 a CJS consumer compiles without casts', async t => {
  t.strictSame(compile(dir, { cjs: alone }).map(describe), [])
})

t.test('I2 a consumer of @fastify/websocket compiles too', async t => {
  t.strictSame(compile(dir, { esm: all }).map(describe), [])
})
