import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { root } from './fixtures/published.ts'

const isExported = (node: ts.Statement): boolean =>
  ts.canHaveModifiers(node) && ts.getModifiers(node)?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword) === true

/** The text of the comment in front of it, tags included. */
const commentOf = (node: ts.Node): string => ts.getJSDocCommentsAndTags(node).map(comment => comment.getText()).join('')

interface Named {
  name: string
  comment: string
  /** Whether it is a time that may be left out. */
  isOptionalTime?: boolean
}

/** The names that a user sees: what is exported, and the members of an exported interface. */
function documented (file: string): Named[] {
  const source = ts.createSourceFile(file, readFileSync(join(root, 'types', file), 'utf8'), ts.ScriptTarget.ES2022, true)
  return source.statements.filter(isExported).flatMap(node => {
    if (!ts.isInterfaceDeclaration(node) && !ts.isTypeAliasDeclaration(node)) return []
    const members = ts.isInterfaceDeclaration(node)
      // A call signature has the comment of its interface.
      ? node.members.filter(({ name }) => name !== undefined).map(member => ({
        name: `${node.name.text}.${member.name?.getText()}`,
        comment: commentOf(member),
        isOptionalTime: ts.isPropertySignature(member) && member.questionToken !== undefined && /\bMilliseconds\b/.test(member.type?.getText() ?? '')
      }))
      : []
    return [{ name: node.name.text, comment: commentOf(node) }, ...members]
  })
}

const names = readdirSync(join(root, 'types')).filter(file => file.endsWith('.ts')).flatMap(documented)

t.test('RP8 every public type, and every member of one, says what it is', async t => {
  t.ok(names.length > 250, String(names.length))
  t.same(names.filter(({ comment }) => !/\w{3}/.test(comment)).map(({ name }) => name), [])
})

t.test('RP8 a time that may be left out says its default', async t => {
  const times = names.filter(({ isOptionalTime }) => isOptionalTime === true)
  t.ok(times.length > 12, String(times.length))
  t.same(times.filter(({ comment }) => !comment.includes('@default')).map(({ name }) => name), [])
})
