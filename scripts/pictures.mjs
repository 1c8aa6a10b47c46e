// Draws the pictures of the documentation: docs/pictures/NAME.txt becomes docs/pictures/NAME.svg.
//
//   node scripts/pictures.mjs            draws all of them
//   node scripts/pictures.mjs --check    fails if a picture is not what its text says
//
// A text begins with `flow` or `wire`, and a title for readers who do not see the picture.
//
//   flow TITLE
//   box NAME COLUMN ROW [STYLE] LINE | LINE     a box on a grid; STYLE is plain, app, good, bad or free (no frame)
//   arrow FROM TO [LABEL]                       a straight arrow, or one with a corner if column and row differ
//
//   wire TITLE
//   > LINE     a line from the client       >~ LINE   the same, as part of the stream
//   < LINE     a line from the server       <~ LINE   the same
//   -- TEXT    what the server does meanwhile
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'

const directory = new URL('../docs/pictures/', import.meta.url)

// The background is part of the picture: it is readable on a light and on a dark page, whatever the viewer knows of the page.
const STYLE = `
  text { font: 14px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif; fill: #1f2328 }
  .small { font-size: 12px; fill: #59636e }
  .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 13px }
  .back { fill: #ffffff; stroke: #d1d9e0 }
  .plain { fill: #f6f8fa; stroke: #8c959f } .app { fill: #ddf4ff; stroke: #0969da }
  .good { fill: #dafbe1; stroke: #1a7f37 } .bad { fill: #ffebe9; stroke: #cf222e } .free { fill: none; stroke: none }
  .line { stroke: #59636e; stroke-width: 1.5; fill: none } .lane { stroke: #d1d9e0; stroke-width: 2 }
  .head { fill: #59636e } .stream { fill: #1a7f37 } .said { fill: #0550ae }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .small { fill: #9198a1 }
    .back { fill: #0d1117; stroke: #3d444d }
    .plain { fill: #212830; stroke: #656c76 } .app { fill: #12263f; stroke: #4493f8 }
    .good { fill: #12351f; stroke: #3fb950 } .bad { fill: #3c1618; stroke: #f85149 }
    .line { stroke: #9198a1 } .lane { stroke: #3d444d } .head { fill: #9198a1 } .stream { fill: #3fb950 } .said { fill: #79c0ff }
  }`

const escape = text => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')

function svg (title, width, height, shapes) {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escape(title)}">
<title>${escape(title)}</title>
<style>${STYLE}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path class="head" d="M0 0 8 4 0 8z"/></marker></defs>
<rect class="back" x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="8"/>
${shapes.join('\n')}
</svg>
`
}

const COLUMN = 168
const ROW = 84
const BOX = { width: 136, height: 54 }
const MARGIN = 20

function flow (title, lines) {
  const boxes = new Map()
  const shapes = []
  const arrows = []
  let right = 0
  let bottom = 0
  for (const line of lines) {
    const [verb, ...words] = line.split(' ')
    if (verb === 'box') {
      const [name, column, row, style, ...text] = words
      const x = MARGIN + Number(column) * COLUMN
      const y = MARGIN + Number(row) * ROW
      boxes.set(name, { x, y, cx: x + BOX.width / 2, cy: y + BOX.height / 2 })
      right = Math.max(right, x + BOX.width)
      bottom = Math.max(bottom, y + BOX.height)
      const texts = text.join(' ').split('|').map(part => part.trim())
      shapes.push(`<rect class="${style}" x="${x}" y="${y}" width="${BOX.width}" height="${BOX.height}" rx="6"/>`)
      const top = y + BOX.height / 2 - (texts.length - 1) * 8 + 5
      texts.forEach((part, at) => shapes.push(
        `<text${at > 0 ? ' class="small"' : ''} x="${x + BOX.width / 2}" y="${top + at * 16}" text-anchor="middle">${escape(part)}</text>`))
    } else if (verb === 'arrow') {
      const [from, to, ...label] = words
      arrows.push({ from, to, label: label.join(' ') })
    } else {
      throw new Error(`no such line in a flow: ${line}`)
    }
  }
  for (const { from, to, label } of arrows) {
    const a = boxes.get(from)
    const b = boxes.get(to)
    if (a === undefined || b === undefined) throw new Error(`an arrow between boxes that are not there: ${from} ${to}`)
    const sideways = Math.sign(b.x - a.x)
    const down = Math.sign(b.y - a.y)
    let path, at, anchor
    if (down === 0) {
      path = `M${a.cx + sideways * BOX.width / 2} ${a.cy}H${b.cx - sideways * (BOX.width / 2 + 1)}`
      at = [(a.cx + b.cx) / 2, a.cy - 6]
      anchor = 'middle'
    } else if (sideways === 0) {
      path = `M${a.cx} ${a.cy + down * BOX.height / 2}V${b.cy - down * (BOX.height / 2 + 1)}`
      at = [a.cx + 6, (a.cy + b.cy) / 2 + 4]
      anchor = 'start'
    } else if (down < 0) {
      path = `M${a.cx + sideways * BOX.width / 2} ${a.cy}H${b.cx}V${b.cy + BOX.height / 2 + 1}`
      at = [b.cx + 8, a.cy - 6]
      anchor = 'start'
    } else {
      path = `M${a.cx} ${a.cy + down * BOX.height / 2}V${b.cy}H${b.cx - sideways * (BOX.width / 2 + 1)}`
      at = [a.cx + 6, a.cy + down * (BOX.height / 2 + 18)]
      anchor = 'start'
    }
    shapes.push(`<path class="line" d="${path}" marker-end="url(#tip)"/>`)
    if (label !== '') shapes.push(`<text class="small" x="${at[0]}" y="${at[1]}" text-anchor="${anchor}">${escape(label)}</text>`)
  }
  return svg(title, right + MARGIN, bottom + MARGIN, shapes)
}

const LINE = 20
const WIRE = { width: 680, left: 96, right: 584 }

function wire (title, lines) {
  const shapes = []
  const middle = (WIRE.left + WIRE.right) / 2
  let y = 64
  const label = (x, text) => shapes.push(`<text x="${x}" y="34" text-anchor="middle">${text}</text>`)
  label(WIRE.left, 'client')
  label(WIRE.right, 'server')
  const said = []
  let direction
  for (const line of lines) {
    const [sign, ...words] = line.split(' ')
    const text = words.join(' ')
    if (sign === '--') {
      direction = undefined
      y += 6
      said.push(`<rect class="app" x="${WIRE.right - 196}" y="${y - 15}" width="232" height="24" rx="5"/>`)
      said.push(`<text class="small" x="${WIRE.right - 80}" y="${y + 1}" text-anchor="middle">${escape(text)}</text>`)
      y += LINE + 12
      continue
    }
    if (!/^[<>]~?$/.test(sign)) throw new Error(`no such line in a wire: ${line}`)
    const toServer = sign.startsWith('>')
    if (direction !== sign) {
      y += 6
      const [from, to] = toServer ? [WIRE.left, WIRE.right] : [WIRE.right, WIRE.left]
      said.push(`<path class="line" d="M${from} ${y}H${to}" marker-end="url(#tip)"/>`)
      y += LINE
      direction = sign
    }
    const [x, anchor] = toServer ? [WIRE.left + 14, 'start'] : [WIRE.right - 14, 'end']
    said.push(`<text class="mono ${sign.endsWith('~') ? 'stream' : 'said'}" x="${x}" y="${y - 3}" text-anchor="${anchor}">${escape(text)}</text>`)
    y += LINE
  }
  shapes.push(`<path class="lane" d="M${WIRE.left} 44V${y}"/>`, `<path class="lane" d="M${WIRE.right} 44V${y}"/>`)
  shapes.push(...said)
  shapes.push(`<text class="small" x="${middle}" y="${y + 18}" text-anchor="middle">blue: HTTP, green: the pair of the handler</text>`)
  return svg(title, WIRE.width, y + 34, shapes)
}

let wrong = 0
for (const file of readdirSync(directory).filter(name => name.endsWith('.txt')).sort()) {
  const [first, ...rest] = readFileSync(new URL(file, directory), 'utf8').split('\n').filter(line => line.trim() !== '' && !line.startsWith('#'))
  const [kind, ...title] = first.split(' ')
  const drawn = (kind === 'flow' ? flow : wire)(title.join(' '), rest)
  const target = new URL(file.replace('.txt', '.svg'), directory)
  if (!process.argv.includes('--check')) {
    writeFileSync(target, drawn)
  } else if (readFileSync(target, 'utf8') !== drawn) {
    console.error(`${target.pathname} is not what ${file} says: run node scripts/pictures.mjs`)
    wrong++
  }
}
process.exitCode = wrong === 0 ? 0 : 1
