// What a threshold means, from the operating points that the server sends. No page elements.

/** Return the verdict of a score. `review` may be null. */
export function judge(score, { image, review }) {
  if (score > image) return "reject";
  return review !== null && score > review ? "review" : "pass";
}

/** Return the thresholds with another image threshold; review starts below it or not at all. */
export function moved(thresholds, image) {
  const { review } = thresholds;
  return { ...thresholds, image, review: review !== null && review < image ? review : null };
}

/** Return how many of the held-out good parts exceed a threshold, with the 95 % interval. */
export function rejects({ normals }, threshold) {
  if (!normals) return null;
  const place = countUpTo(normals.scores, threshold);
  const hits = place === 0 ? normals.count : normals.above[place - 1];
  return { hits, total: normals.count, interval: normals.intervals[hits] };
}

/** Return how many of the known defects pass, with the 95 % interval. */
export function escapes({ defects }, { image, review }) {
  if (!defects) return null;
  const hits = countUpTo(defects.scores, review ?? image);
  return { hits, total: defects.count, interval: defects.intervals[hits] };
}

/** Say what thresholds mean. */
export function meaning(points, thresholds) {
  const good = rejects(points, thresholds.image);
  const bad = escapes(points, thresholds);
  const first = good
    ? `Of 100 good parts about ${round(100 * good.hits / good.total)} would be rejected [${percent(good.interval)}]`
    : "This version has no scores of good parts";
  const second = bad
    ? `of the known defects ${bad.hits} of ${bad.total} escape [${percent(bad.interval)} %]`
    : "no known defects are stored with this version";
  return `${first}; ${second}.${reviewed(points, thresholds)}`;
}

/** Say how many good parts and known defects are between the two thresholds. */
function reviewed(points, { image, review }) {
  const good = rejects(points, image);
  if (review === null || !good) return "";
  const parts = rejects(points, review).hits - good.hits;
  const first = ` In review: about ${round(100 * parts / good.total)} of 100 good parts`;
  if (!points.defects) return `${first}.`;
  const defects = countUpTo(points.defects.scores, image) - countUpTo(points.defects.scores, review);
  return `${first}, ${defects} of the known defects.`;
}

const percent = ([low, high]) => `${round(100 * low)}–${round(100 * high)}`;

function round(value) {
  return value < 0.05 || value >= 9.95 ? String(Math.round(value)) : String(Number(value.toFixed(1)));
}

/** Return the number of sorted `scores` that are at most `value`. */
function countUpTo(scores, value) {
  let low = 0;
  let high = scores.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (scores[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** An axis that is linear among the good parts' scores and logarithmic far from them. */
export class Axis {
  constructor(normals, others, threshold) {
    const centre = normals.length ? normals[normals.length >> 1] : threshold;
    const spread = normals.length > 1 ? normals.at(-1) - normals[0] : 0;
    this.centre = centre;
    this.unit = Math.max(Math.abs(threshold - centre), spread / 2) || Math.abs(threshold) || 1;
    const values = [...normals, ...others, threshold, threshold + this.unit, centre - this.unit];
    const [low, high] = [Math.min(...values), Math.max(...values)].map((v) => this.#bend(v));
    const margin = 0.03 * (high - low);
    this.low = low - margin;
    this.high = high + margin;
  }

  #bend(value) { return Math.asinh((value - this.centre) / this.unit); }

  /** Return the place of a score on the axis, in [0, 1] if it is within. */
  place(value) { return (this.#bend(value) - this.low) / (this.high - this.low); }

  /** Return the score at a place. */
  value(place) {
    return this.centre + this.unit * Math.sinh(this.low + place * (this.high - this.low));
  }
}
