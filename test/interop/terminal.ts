// examples/terminal in Chromium: a person at a shell.
import { strict as assert } from 'node:assert'
import http, { type IncomingMessage } from 'node:http'
import { once } from 'node:events'
import { join } from 'node:path'
import { chromium, gone, launch, playwright, type Group, type Lab, type Page } from './lab/index.ts'

async function run (lab: Lab): Promise<void> {
  const program = await lab.example('terminal', { SHELL: '/bin/sh', TOKEN: 'secret', HOME: await lab.directory() })
  const origin = `http://localhost:${program.port}`

  await lab.check(chromium, 'types a command in xterm.js, sees its output, resizes the window, closes the tab: the shell ends', async path => {
    const browser = await launch(lab, path)
    const page = await browser.newPage()
    await page.setViewportSize({ width: 900, height: 500 })
    await page.goto(`${origin}/#secret`)
    await shows(page, '# |$ ')
    const pid = Number((await types(page, 'echo "pid=$$;"', 'pid=(\\d+);'))[1])
    assert.ok(pid > 0)
    process.kill(pid, 0)
    const before = await types(page, 'echo "size=$(stty size);"', 'size=(\\d+) (\\d+);')
    await page.setViewportSize({ width: 1200, height: 700 })
    await page.waitForFunction(`terminal.rows > ${before[1]} && terminal.cols > ${before[2]}`)
    const [rows, columns] = await page.evaluate('[terminal.rows, terminal.cols]') as [number, number]
    await types(page, `while test "$(stty size)" != "${rows} ${columns}"; do sleep 0.1; done; echo "now=$(stty size);"`, `now=${rows} ${columns};`)
    await types(page, 'seq 1 20000 | tail -n +19990; printf "\\033[1;32mgreen \\342\\234\\223\\033[0m\\n"', '20000\\s+green \u2713')
    const screenshot = process.env.SCREENSHOTS
    if (screenshot !== undefined) await page.screenshot({ path: join(screenshot, 'terminal.png') })
    await page.close()
    await gone(pid)
  })

  await lab.check(chromium, 'the shell ends: the page says so, and with a wrong token there is none', async path => {
    const browser = await launch(lab, path)
    const page = await browser.newPage()
    await page.goto(`${origin}/#secret`)
    await shows(page, '# |$ ')
    await types(page, 'exit 7', '\\[the shell has ended with 7\\]')
    const other = await browser.newPage()
    await other.goto(`${origin}/#wrong`)
    await shows(other, '\\[no connection\\]')
    await program.printed('"statusCode":401')
  })

  await lab.ours('examples/terminal', 'ends with exit code 0, with a shell open', async () => {
    const request = http.get(`${origin}/terminal`, {
      headers: {
        connection: 'Upgrade',
        upgrade: 'websocket',
        'sec-websocket-version': '13',
        'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==',
        'sec-websocket-protocol': 'terminal, secret'
      }
    })
    const [response, socket] = await once(request, 'upgrade') as [IncomingMessage, NodeJS.ReadWriteStream]
    assert.equal(response.headers['sec-websocket-protocol'], 'terminal')
    socket.on('data', () => {}).on('error', () => {})
    assert.equal(await program.stop(), 0)
    assert.deepEqual(program.output().split('\n').filter(line => /"level":(?:50|60)/.test(line)), [])
  })
}

const TEXT = '(({ active }) => Array.from({ length: active.length }, (_, line) => active.getLine(line).translateToString(true)).join("\\n"))(terminal.buffer)'

async function shows (page: Page, pattern: string): Promise<RegExpExecArray> {
  const expression = pattern.replace('# |$ ', '[#$] ')
  await page.waitForFunction(`/${expression}/.test(${TEXT})`)
  return new RegExp(expression).exec(String(await page.evaluate(TEXT))) as RegExpExecArray
}

/** The pattern must not match what is typed. */
async function types (page: Page, command: string, pattern: string): Promise<RegExpExecArray> {
  await page.keyboard.type(command)
  await page.keyboard.press('Enter')
  return await shows(page, pattern)
}

const group: Group = { title: 'Terminal', peers: [chromium, playwright], run }

export default group
