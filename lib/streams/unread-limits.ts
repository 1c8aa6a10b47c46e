import type { Milliseconds } from '../../types/index.ts'

/** How many bytes that nobody reads are thrown away before the connection, or the stream, is closed. */
export const MOST_DISCARDED = 1024 * 1024

/** How long a connection that we have ended stays open, so that its client can read the rest of what was sent. */
export const LINGER: Milliseconds = 2000

/** How long a client may take nothing of a refusal, if its route has no finTimeout. */
export const UNREAD_FOR: Milliseconds = 30_000
