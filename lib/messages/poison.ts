/** What an app wants done with a property that may replace a prototype: Fastify's options of these names. */
export interface Poisoning {
  readonly proto: 'error' | 'remove' | 'ignore'
  readonly constructor: 'error' | 'remove' | 'ignore'
}

/** Whether the text may have such a name in it. `\u` may write a part of one. */
function isSuspect (text: string): boolean {
  return text.includes('__proto__') || text.includes('constructor') || text.includes('\\u')
}

/**
 * Parses JSON as Fastify parses bodies. `JSON.parse()` makes an own property of `__proto__`, which becomes the prototype of an
 * object that it is copied to.
 */
export function parseSafely (text: string, poisoning: Poisoning): unknown {
  const value: unknown = JSON.parse(text)
  if (isSuspect(text)) clean(value, poisoning)
  return value
}

function clean (value: unknown, poisoning: Poisoning): void {
  const left = [value]
  while (left.length > 0) {
    const node = left.pop()
    if (typeof node !== 'object' || node === null) continue
    if (Object.hasOwn(node, '__proto__')) decide(node, '__proto__', poisoning.proto)
    if (Object.hasOwn(node, 'constructor')) {
      const { constructor } = node as { constructor: unknown }
      if (typeof constructor === 'object' && constructor !== null && Object.hasOwn(constructor, 'prototype')) {
        decide(node, 'constructor', poisoning.constructor)
      }
    }
    for (const child of Object.values(node)) left.push(child)
  }
}

function decide (node: object, name: string, policy: 'error' | 'remove' | 'ignore'): void {
  if (policy === 'error') throw new SyntaxError('Object contains forbidden prototype property')
  if (policy === 'remove') Reflect.deleteProperty(node, name)
}
