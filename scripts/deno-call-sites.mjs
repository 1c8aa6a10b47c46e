// For what runs on Deno as if it were Node.

// For tap: Deno makes the call sites of a stack out of plain objects: tap knows one by the name of its class.
let given
class CallSite {}
Object.defineProperty(Error, 'prepareStackTrace', {
  configurable: true,
  get: () => given,
  set: prepare => {
    given = typeof prepare !== 'function'
      ? prepare
      : function (error, sites) {
        for (const site of sites) Object.defineProperty(site, 'constructor', { value: CallSite, configurable: true })
        return prepare.call(this, error, sites)
      }
  }
})

// For Fastify's router, which calls this without its class when a URL is absolute. docs/runtimes.md has it for apps.
URL.parse = URL.parse.bind(URL)
