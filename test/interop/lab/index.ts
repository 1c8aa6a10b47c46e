export { chromium, launch, playwright, type Page } from './browser.ts'
export { bytes, Dialogue, exits, gone, Lab, sha256, unusedPort, type Finished, type Group, type Row } from './lab.ts'
export { load, type Installed, type Peer } from './peers.ts'
export { curl, haproxy, nginx, python, undici } from './common.ts'
