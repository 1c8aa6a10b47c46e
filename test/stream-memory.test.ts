import t from 'tap'
import { bothWaysAtOnce, clientReadsLate, handlerReadsLate } from './fixtures/memory.ts'

// test/slow has each over every transport. Over HTTP/2 the window of a stream makes them wait for the scheduler, a thousand
// times and more: on a busy machine that takes minutes.
bothWaysAtOnce(t, ['tcp'])
clientReadsLate(t, ['tls'])
handlerReadsLate(t, ['tcp'])
