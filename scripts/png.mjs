// Writes a picture of few colours as a PNG with a palette, which is a third of what a browser writes.
import { deflateSync } from 'node:zlib'

const MOST_COLOURS = 256
/** The steps of a channel: what differs by less looks the same. */
const STEP = 8

/** The PNG of RGBA pixels, without their transparency. PNG, third edition, sections 5 and 11. */
export function png (width, height, rgba) {
  const colours = new Map()
  const coarse = at => Math.min(255, Math.round(rgba[at] / STEP) * STEP)
  const colourAt = at => coarse(at) << 16 | coarse(at + 1) << 8 | coarse(at + 2)
  for (let at = 0; at < rgba.length; at += 4) colours.set(colourAt(at), (colours.get(colourAt(at)) ?? 0) + 1)
  const palette = [...colours].sort(([, a], [, b]) => b - a).slice(0, MOST_COLOURS).map(([colour]) => colour)
  const index = new Map([...colours.keys()].map(colour => [colour, nearest(palette, colour)]))
  const lines = Buffer.alloc(height * (width + 1))
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) lines[y * (width + 1) + 1 + x] = index.get(colourAt((y * width + x) * 4))
  }
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  // Eight bits for each pixel, which is an entry of the palette.
  header.set([8, 3, 0, 0, 0], 8)
  return Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    chunk('IHDR', header),
    chunk('PLTE', Buffer.from(palette.flatMap(colour => channels(colour)))),
    chunk('IDAT', deflateSync(lines, { level: 9, memLevel: 9 })),
    chunk('IEND', Buffer.alloc(0))
  ])
}

const channels = colour => [colour >> 16, colour >> 8 & 255, colour & 255]

function nearest (palette, colour) {
  const exact = palette.indexOf(colour)
  if (exact !== -1) return exact
  const [red, green, blue] = channels(colour)
  const distance = palette.map(other => channels(other)).map(([r, g, b]) => (r - red) ** 2 + (g - green) ** 2 + (b - blue) ** 2)
  return distance.indexOf(Math.min(...distance))
}

function chunk (type, data) {
  const content = Buffer.concat([Buffer.from(type, 'latin1'), data])
  const framed = Buffer.alloc(content.length + 8)
  framed.writeUInt32BE(data.length)
  content.copy(framed, 4)
  framed.writeUInt32BE(crc(content), content.length + 4)
  return framed
}

/** Node has one only from 22.2 on. */
function crc (bytes) {
  let sum = 0xffffffff
  for (const byte of bytes) {
    sum ^= byte
    for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? sum >>> 1 ^ 0xedb88320 : sum >>> 1
  }
  return (sum ^ 0xffffffff) >>> 0
}
