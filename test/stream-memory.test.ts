import t from 'tap'
import { bothWaysAtOnce, clientReadsLate, handlerReadsLate } from './fixtures/memory.ts'

// Each where it is likeliest to differ; test/slow has them over every transport.
bothWaysAtOnce(t, ['tcp', 'h2'])
clientReadsLate(t, ['tls', 'h2'])
handlerReadsLate(t, ['tcp', 'tls'])
