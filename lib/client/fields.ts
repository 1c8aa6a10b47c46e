import { validateHeaderName, validateHeaderValue } from 'node:http'

/** Fields by lower-case name, with the first spelling and all values. Throws for a field that HTTP does not allow. */
export type Fields = Map<string, { name: string, values: string[] }>

export function fieldsOf (raw: readonly string[]): Fields {
  const fields: Fields = new Map()
  for (let at = 0; at < raw.length; at += 2) {
    const name = raw[at] as string
    const value = raw[at + 1] as string
    validateHeaderName(name)
    validateHeaderValue(name, value)
    const field = fields.get(name.toLowerCase())
    if (field === undefined) fields.set(name.toLowerCase(), { name, values: [value] })
    else field.values.push(value)
  }
  return fields
}
