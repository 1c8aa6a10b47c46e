import type { Lab } from './lab.ts'
import { load, type Peer } from './peers.ts'

export const chromium: Peer = { name: 'Chromium', required: true, debian: ['chromium'], command: '/usr/bin/chromium', version: ['--version'] }
export const playwright: Peer = { name: 'playwright-core', required: true, npm: 'playwright-core@1' }

/** What is used of playwright-core, which is not among the dependencies. */
export interface Locator {
  filter: (by: { hasText: string | RegExp }) => Locator
  waitFor: () => Promise<void>
  fill: (text: string) => Promise<void>
  innerText: () => Promise<string>
  click: () => Promise<void>
}

export interface Page {
  goto: (url: string) => Promise<unknown>
  on: (event: 'dialog', listener: (dialog: { accept: (text: string) => void }) => void) => void
  locator: (selector: string) => Locator
  evaluate: (script: string) => Promise<unknown>
  waitForFunction: (script: string) => Promise<unknown>
  keyboard: { press: (key: string) => Promise<void>, type: (text: string) => Promise<void> }
  setViewportSize: (size: { width: number, height: number }) => Promise<void>
  screenshot: (options: { path: string }) => Promise<unknown>
  close: () => Promise<void>
}

interface Context {
  newPage: () => Promise<Page>
  close: () => Promise<void>
}

interface Playwright {
  chromium: { launchPersistentContext: (directory: string, options: object) => Promise<Context> }
}

/** A browser with an empty profile, which talks to nobody but us. It goes with the group. */
export async function launch (lab: Lab, executablePath: string, args: readonly string[] = [], more: object = {}): Promise<Context> {
  const { chromium } = load<Playwright>('playwright-core')
  const context = await chromium.launchPersistentContext(await lab.directory(), {
    executablePath,
    headless: true,
    ...more,
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--no-proxy-server',
      ...args
    ]
  })
  lab.defer(() => context.close())
  return context
}
