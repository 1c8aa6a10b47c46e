import duplex = require('./index.ts')
export = duplex
