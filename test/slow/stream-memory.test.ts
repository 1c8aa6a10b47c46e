import t from 'tap'
import { bothWaysAtOnce, clientReadsLate, handlerReadsLate } from '../fixtures/memory.ts'
import { streams } from '../fixtures/server.ts'

bothWaysAtOnce(t, streams)
clientReadsLate(t, streams)
handlerReadsLate(t, streams)
