import type { Peer } from './peers.ts'

// Peers of more than one group.
export const curl: Peer = { name: 'curl', required: true, debian: ['curl'], version: ['--version'] }
// Debian's own, which sees Debian's packages, whatever other Python is on the PATH.
export const python: Peer = { name: 'Python http.client', required: true, debian: ['python3'], command: '/usr/bin/python3', version: ['--version'] }
export const ws: Peer = { name: 'ws', required: true, npm: 'ws@8' }
export const undici: Peer = { name: 'undici', required: true, npm: 'undici@7' }
export const nginx: Peer = { name: 'nginx', required: true, debian: ['nginx-light'], command: '/usr/sbin/nginx', version: ['-v'] }
export const haproxy: Peer = { name: 'HAProxy', required: true, debian: ['haproxy'], command: '/usr/sbin/haproxy', version: ['-v'] }
