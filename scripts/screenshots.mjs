// Takes the pictures of the examples that have a page, with Chromium: docs/pictures/NAME.png. What it needs it installs as
// `npm run interop` does, and so as root on Debian. Behind `npm run build:all`:
//
//   node scripts/screenshots.mjs             all of them
//   node scripts/screenshots.mjs rooms
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as after } from 'node:timers/promises'
import { chromium, Lab, launch, playwright } from '../.build/test/interop/lab/index.js'
import { install } from '../.build/test/interop/lab/peers.js'
import { root } from './fresh.mjs'
import { png } from './png.mjs'

/** In milliseconds, for everything. */
const LIMIT = 300_000
/** In bytes, of one picture: they are in the package. */
const LARGEST = 50_000
/** Of a page, in CSS pixels, and pixels of the picture for each of these. */
const WINDOW = { width: 430, height: 160 }
const SCALE = 1.5

const pictures = {
  async rooms (lab, browser) {
    const { port } = await lab.example('rooms', { LOG: 'silent' })
    const origin = `http://localhost:${port}`
    const ada = await open(browser, `${origin}/?name=ada`)
    await shows(ada, 'ada: (is here)')
    const token = await (await fetch(`${origin}/token/curl`)).text()
    const curl = lab.spawn('curl', ['-sN', `${origin}/rooms/1?token=${token}`])
    let lines = ''
    curl.stdout.setEncoding('utf8').on('data', text => { lines += text })
    await shows(ada, 'curl: (is here)')
    const bob = await open(browser, `${origin}/?name=bob#events`)
    for (const [page, text] of [
      [ada, 'A WebSocket here. And you?'],
      [bob, 'Server-Sent Events, and a POST for what I say'],
      [ada, 'One handler serves us both']
    ]) {
      await say(page, text)
      for (const other of [ada, bob]) await shows(other, text)
    }
    while (!lines.includes('serves us both')) await after(20)
    return [
      [{ title: 'localhost:3000/?name=ada', page: ada }, { title: 'localhost:3000/?name=bob#events', page: bob }],
      [{ title: 'Terminal', text: `$ curl -N "localhost:3000/rooms/1?token=$T"\n${lines}` }]
    ]
  },

  async websocket (lab, browser) {
    const { port } = await lab.example('websocket')
    const ada = await open(browser, `http://localhost:${port}/`, 'ada')
    await shows(ada, 'ada is here')
    const bob = await open(browser, `http://localhost:${port}/`, 'bob')
    await shows(ada, 'bob is here')
    for (const [page, text] of [[ada, 'hello, bob'], [bob, 'hello, ada']]) {
      await say(page, text)
      for (const other of [ada, bob]) await shows(other, text)
    }
    await bob.close()
    await shows(ada, 'bob left')
    const carol = await open(browser, `http://localhost:${port}/`, 'carol')
    await shows(ada, 'carol is here')
    await say(ada, 'you have missed bob, carol')
    await shows(carol, 'you have missed bob')
    return [[{ title: 'localhost:3000 - ada', page: ada }, { title: 'localhost:3000 - carol', page: carol }]]
  },

  async terminal (lab, browser) {
    const { port } = await lab.example('terminal', { SHELL: '/bin/sh', TOKEN: 'secret', HOME: root })
    const page = await open(browser, `http://localhost:${port}/#secret`)
    await page.setViewportSize({ width: 720, height: 280 })
    const screen = '(({ active }) => Array.from({ length: active.length }, (_, line) => active.getLine(line).translateToString(true)).join("\\n"))(terminal.buffer)'
    const prompts = count => page.waitForFunction(`${screen}.split(/^[#$] /m).length > ${count}`)
    let count = 1
    for (const command of [
      'tty; stty size', 'ls --color lib', 'printf "\\033[1;32mgreen\\033[0m, \\033[7minverse\\033[0m, \\342\\234\\223\\n"'
    ]) {
      await prompts(count++)
      await page.keyboard.type(command)
      await page.keyboard.press('Enter')
    }
    await prompts(count)
    return [[{ title: 'localhost:3000/#...', page }]]
  }
}

async function open (browser, url, name) {
  const page = await browser.newPage()
  page.on('dialog', dialog => dialog.accept(name))
  await page.setViewportSize(WINDOW)
  await page.goto(url)
  return page
}

const shows = (page, text) => page.locator('pre').filter({ hasText: text }).waitFor()

async function say (page, text) {
  await page.locator('input').fill(text)
  await page.keyboard.press('Enter')
}

const escape = text => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')

/** Rows of windows, as one picture: its background is its own, so that it is readable on a dark page, too. */
async function together (browser, rows, path) {
  const shown = await Promise.all(rows.flat().map(async ({ title, page, text }) => {
    const content = text === undefined
      ? `<img width="${page.viewportSize().width}" src="data:image/png;base64,${(await page.screenshot({ scale: 'device' })).toString('base64')}">`
      : `<pre>${escape(text.trimEnd())}</pre>`
    return `<figure><figcaption>${escape(title)}</figcaption>${content}</figure>`
  }))
  const page = await browser.newPage()
  await page.setContent(`<!doctype html><meta charset="utf-8"><style>
    body { margin: 0; font: 13px "DejaVu Sans", sans-serif }
    main { display: inline-block; padding: 6px; background: #d1d9e0 }
    section { display: flex }
    figure { flex: auto; margin: 6px; border-radius: 6px; overflow: hidden; background: #fff; border: 1px solid #8c959f }
    figcaption { padding: 5px 10px; background: #f6f8fa; color: #59636e; border-bottom: 1px solid #d1d9e0 }
    img { display: block }
    pre { margin: 0; padding: 8px 10px; background: #0d1117; color: #f0f6fc; font: 12px "DejaVu Sans Mono", monospace }
  </style><main>${rows.map(row => `<section>${row.map(() => shown.shift()).join('')}</section>`).join('')}</main>`)
  const picture = (await page.locator('main').screenshot({ scale: 'device' })).toString('base64')
  const { width, height, pixels } = await page.evaluate(async picture => {
    const image = new globalThis.Image()
    image.src = `data:image/png;base64,${picture}`
    await image.decode()
    const { width, height } = image
    const canvas = Object.assign(document.createElement('canvas'), { width, height }).getContext('2d')
    canvas.drawImage(image, 0, 0)
    return { width, height, pixels: [...canvas.getImageData(0, 0, width, height).data] }
  }, picture)
  writeFileSync(path, png(width, height, pixels))
  await page.close()
}

const wanted = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(pictures)
for (const name of wanted) if (!(name in pictures)) throw new Error(`there is no picture "${name}", only ${Object.keys(pictures).join(', ')}`)

const deadline = Date.now() + LIMIT
const installed = install([chromium, playwright], deadline)
const path = installed.get(chromium)?.path
if (path === undefined || !installed.has(playwright)) throw new Error('this needs Chromium and playwright-core')
setTimeout(() => { throw new Error(`not done within ${LIMIT / 60_000} minutes`) }, deadline - Date.now()).unref()
for (const name of wanted) {
  const lab = new Lab(installed, () => {})
  try {
    const browser = await launch(lab, path, [], { deviceScaleFactor: SCALE })
    const target = join(root, 'docs/pictures', `${name}.png`)
    await together(browser, await pictures[name](lab, browser), target)
    const { size } = statSync(target)
    console.log(`docs/pictures/${name}.png: ${readFileSync(target).readUInt32BE(16)} pixels wide, ${Math.ceil(size / 1000)} kB`)
    if (size > LARGEST) throw new Error(`docs/pictures/${name}.png is larger than ${LARGEST / 1000} kB`)
  } finally {
    await lab.end()
  }
}
