// examples/rooms in Chromium, over HTTP/1 and over HTTP/2: pages with a WebSocket and with an EventSource, curl and our netcat in one room.
import { strict as assert } from 'node:assert'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cert, key } from '../fixtures/certificate.ts'
import { chromium, curl, exits, launch, playwright, type Group, type Lab, type Page } from './lab/index.ts'

const netcat = fileURLToPath(new URL('../fixtures/netcat.js', import.meta.url))

async function run (lab: Lab): Promise<void> {
  const directory = await lab.directory()
  const [certFile, keyFile] = [join(directory, 'cert.pem'), join(directory, 'key.pem')]
  await writeFile(certFile, cert)
  await writeFile(keyFile, key)
  for (const [way, protocol, env] of [['HTTP/1', 'http/1.1', {}], ['HTTP/2', 'h2', { TLS_CERT: certFile, TLS_KEY: keyFile }]] as const) {
    const program = await lab.example('rooms', env)
    const origin = `${way === 'HTTP/1' ? 'http' : 'https'}://localhost:${program.port}`

    await lab.check(chromium, `${way}: WebSocket, EventSource, curl and netcat in one room`, async path => {
      assert.ok(lab.has(playwright) && lab.has(curl))
      const browser = await launch(lab, path, ['--ignore-certificate-errors'])
      const ada = await browser.newPage()
      await ada.setViewportSize({ width: 700, height: 300 })
      await ada.goto(`${origin}/?name=ada`)
      await shows(ada, 'ada: (is here)')
      const bob = await browser.newPage()
      await bob.goto(`${origin}/?name=bob#events`)
      await shows(bob, 'bob: (is here)')
      await says(ada, 'hello by WebSocket')
      await says(bob, 'hello by fetch()')
      for (const page of [ada, bob]) {
        await shows(page, 'ada: hello by WebSocket')
        await shows(page, 'bob: hello by fetch()')
      }
      const token = String(await ada.evaluate("fetch('/token/eve').then(response => response.text())"))
      const room = `${origin}/rooms/1?token=${token}`
      const json = ['-H', 'Content-Type: application/json', '-d', '{"text":"by curl"}']
      exits(await lab.run('curl', ['-sS', '--insecure', '--fail', ...json, room]))
      const line = await lab.run(process.execPath, [netcat, '--insecure', '--http1', '--upgrade', 'lines', room], { input: '{"text":"by netcat"}\n' })
      assert.match(String(exits(line).stdout), /"by netcat"/)
      for (const page of [ada, bob]) {
        await shows(page, 'eve: by curl')
        await shows(page, 'eve: by netcat')
      }
      assert.equal(await ada.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol"), protocol)
      const screenshots = process.env.SCREENSHOTS
      if (screenshots !== undefined) await ada.screenshot({ path: join(screenshots, `rooms-${protocol.replace('/', '-')}.png`) })
      await bob.close()
      await shows(ada, 'bob: (left)')
      await ada.close()
    })

    await lab.ours('examples/rooms', `${way}: ends with exit code 0, and has logged no error`, async () => {
      assert.equal(await program.stop(), 0)
      assert.deepEqual(program.output().split('\n').filter(line => /"level":(?:50|60)/.test(line)), [])
    })
  }
}

async function shows (page: Page, text: string): Promise<void> {
  await page.waitForFunction(`document.querySelector('pre').textContent.includes(${JSON.stringify(text)})`)
}

async function says (page: Page, text: string): Promise<void> {
  await page.locator('input').fill(text)
  await page.evaluate("document.querySelector('form').requestSubmit()")
}

const group: Group = { title: 'Rooms', peers: [chromium, playwright, curl], run }

export default group
