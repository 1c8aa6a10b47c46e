/** @type {{ why: string, files: string[] }[]} */
export const notRun = [
  { why: 'not of the runtime', files: ['declarations', 'documents', 'types'] }
]

/** @type {{ why: string, tests: Record<string, RegExp[]> }[]} tests by their titles, in the files that have them */
export const differences = []
