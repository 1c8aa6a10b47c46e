/** An error with what Node says about its cause. */
export interface NetworkError extends Error {
  code?: string
  syscall?: string
}

/** Whether the error comes from the kernel or from TLS, and not from a `destroy(error)` of the app. */
export function isNetworkError (error: NetworkError): boolean {
  return error.syscall !== undefined || error.code === 'ECONNRESET' || error.code === 'EPIPE' ||
    /^ERR_(?:SSL|TLS|OSSL)/.test(error.code ?? '')
}
