// Whether the parts that `vqlab watch` judges differ from those of the model.

import { json } from "./api.js";
import { byId } from "./dom.js";

const INTERVAL = 10_000;
let shown = null; // category
let timer = 0;

/** Show the drift of a category, and again every few seconds. */
export async function showDrift(category) {
  shown = category;
  clearTimeout(timer);
  const state = await json(`/v1/categories/${encodeURIComponent(category)}/drift`).catch(() => null);
  if (shown !== category) return;
  const line = byId("drift");
  const alarm = state?.current && state.alarm !== null;
  line.className = alarm ? "problem" : "muted small";
  const text = state ? sentence(state) : "";
  if (line.textContent !== text) line.textContent = text;
  line.hidden = !state;
  timer = setTimeout(() => showDrift(category), INTERVAL);
}

/** Say what the drift test of the watched parts shows. */
export function sentence({ tested, wealth, wealths, level, alarm, current }) {
  const leading = Object.keys(wealths).find((stream) => wealths[stream] === wealth);
  const result = alarm !== null
    ? `Drift alarm: ${alarm}`
    : `No drift alarm in ${tested} watched parts (wealth ${Number(wealth.toPrecision(2))} by ${leading}, alarm at ${Math.round(1 / level)}).`;
  return current ? result : `${result} These parts were judged by another version.`;
}
