export interface Spread {
  median: number
  /** The quartiles. */
  low: number
  high: number
}

export function spread (values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (share: number): number => {
    const place = (sorted.length - 1) * share
    const below = sorted[Math.floor(place)] ?? NaN
    const above = sorted[Math.ceil(place)] ?? NaN
    return below + (above - below) * (place - Math.floor(place))
  }
  return { median: at(0.5), low: at(0.25), high: at(0.75) }
}

/** The ratio of each pair that was measured one right after the other. */
export function ratios (values: readonly number[], base: readonly number[]): Spread {
  return spread(values.map((value, round) => value / (base[round] as number)))
}
