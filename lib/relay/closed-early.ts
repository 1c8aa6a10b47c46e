/** The error of a stream that closed before both of its sides had ended. */
export function closedEarly (): Error {
  return Object.assign(new Error('The tunnel was closed before both sides ended'), { code: 'ERR_STREAM_PREMATURE_CLOSE' })
}
