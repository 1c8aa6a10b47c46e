import { BlockList, isIPv4, isIPv6 } from 'node:net'

/**
 * IPv4: the special-purpose registry of IANA (RFC 6890), which contains the reserved addresses, and multicast.
 * A block within another one is not repeated.
 */
const SPECIAL_IPV4 = [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.0.2.0', 24],
  ['192.31.196.0', 24],
  ['192.52.193.0', 24],
  ['192.88.99.0', 24],
  ['192.168.0.0', 16],
  ['192.175.48.0', 24],
  ['198.18.0.0', 15],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['224.0.0.0', 4],
  ['240.0.0.0', 4]
] as const

/**
 * IPv6: of the whole space only 2000::/3 is global unicast (RFC 4291 section 2.4). Outside of it are `::`, `::1`,
 * IPv4-mapped and IPv4-compatible addresses, NAT64 (64:ff9b::/96 and 64:ff9b:1::/48), discard-only, SRv6, unique local,
 * link-local, site-local and multicast. These are the special blocks in it. The first has Teredo, ORCHID, AMT, AS112
 * and benchmarking; 2002::/16 is 6to4, with an IPv4 address inside, as Teredo and NAT64 have one.
 */
const SPECIAL_IPV6 = [
  ['2001::', 23],
  ['2001:db8::', 32],
  ['2002::', 16],
  ['2620:4f:8000::', 48],
  ['3fff::', 20]
] as const

const special = new BlockList()
for (const [address, bits] of SPECIAL_IPV4) special.addSubnet(address, bits, 'ipv4')
for (const [address, bits] of SPECIAL_IPV6) special.addSubnet(address, bits, 'ipv6')
const globalUnicast = new BlockList()
globalUnicast.addSubnet('2000::', 3, 'ipv6')

/**
 * A `check` for `dial()`: passes addresses of the public internet alone.
 *
 * It refuses every block of IANA's special-purpose registries for IPv4 and IPv6, and multicast: loopback, private,
 * shared, link-local, unspecified, documentation, benchmarking and reserved addresses. It refuses all IPv6 addresses
 * that have an IPv4 address inside (mapped, compatible, NAT64, 6to4, Teredo), whatever that address is. If you reach IPv4 by
 * NAT64, write a check of your own. Do so, too, if you have private services at public addresses: those pass.
 *
 * @param address an IP address; any other text is refused, and so is an address with a zone (`fe80::1%eth0`)
 */
export function publicOnly (address: string): boolean {
  if (isIPv4(address)) return !special.check(address, 'ipv4')
  return isIPv6(address) && !address.includes('%') && globalUnicast.check(address, 'ipv6') && !special.check(address, 'ipv6')
}
