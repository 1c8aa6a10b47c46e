/** More 1xx answers than this are an invalid answer. */
export const MOST_INFORMATIONAL = 100
