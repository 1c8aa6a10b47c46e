import t from 'tap'
import { runProperties } from './property/run.ts'

// A few of the cases of `npm run test:property`, which runs as many as one likes.
t.test('random request heads and random streams come out as their models say', async t => {
  const said: string[] = []
  const problems = await runProperties({ cases: 600, seed: 20_260, atOnce: 6, log: line => said.push(line) })
  t.same(problems, [], said.join('\n'))
})
