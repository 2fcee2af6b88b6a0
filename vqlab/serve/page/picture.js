// An image with its anomaly map and its regions on top.

import { element, nameElement, number, svg } from "./dom.js";

const MAX_SIDE = 2048;
const THUMBNAIL = 256;

/** Return an object URL of a small JPEG copy of an image file, or null if the browser cannot read it. */
export async function thumbnail(file) {
  return reduced(file, THUMBNAIL, "image/jpeg");
}

/** Return an object URL of an image file, at most 2,048 pixels wide and high; null as above. */
export async function displayed(file) {
  return reduced(file, MAX_SIDE, "image/png");
}

async function reduced(file, side, type) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return null;
  }
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && type === "image/png") {
    bitmap.close();
    return URL.createObjectURL(file);
  }
  const canvas = element("canvas", { width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)) });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, 0.85));
  return blob && URL.createObjectURL(blob);
}

/** Return an object URL of a PNG in base64. */
export function pngUrl(base64) {
  return URL.createObjectURL(pngBlob(base64));
}

function pngBlob(base64) {
  return new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], { type: "image/png" });
}

/** Return a canvas of an anomaly map: transparent where low, yellow to red above the pixel threshold. */
export async function mapCanvas({ map, map_range: [low, high] }, pixelThreshold) {
  const bitmap = await createImageBitmap(pngBlob(map));
  const canvas = element("canvas", { width: bitmap.width, height: bitmap.height, class: "map" });
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const colours = colourTable(low, high, pixelThreshold);
  const data = new Uint32Array(pixels.data.buffer);
  for (let index = 0; index < data.length; index += 1) data[index] = colours[data[index] & 255];
  context.putImageData(pixels, 0, 0);
  return canvas;
}

const STOPS = [[0, 68, 1, 84], [0.25, 49, 104, 142], [0.5, 253, 216, 53], [0.75, 244, 81, 30], [1, 183, 0, 40]];

/** Return 256 colours (little-endian RGBA); the middle of the scale is the pixel threshold. */
function colourTable(low, high, threshold) {
  const half = Math.max(threshold - low, 1e-12);
  return Uint32Array.from({ length: 256 }, (_, level) => {
    const share = Math.min(Math.max((low + (high - low) * level / 255 - low) / (2 * half), 0), 1);
    const next = Math.max(1, STOPS.findIndex(([place]) => place >= share));
    const [a, b] = [STOPS[next - 1], STOPS[next]];
    const part = (share - a[0]) / (b[0] - a[0]);
    const [red, green, blue] = [1, 2, 3].map((i) => Math.round(a[i] + part * (b[i] - a[i])));
    const alpha = Math.round(255 * Math.min(Math.max((share - 0.2) / 0.3, 0), 1));
    return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  });
}

/** Return the outlines of regions as SVG in the coordinates of the image. */
export function outlines({ width, height, regions }) {
  const shapes = regions.flatMap((region) => {
    const points = region.contour.map(([x, y]) => `${x + 0.5},${y + 0.5}`).join(" ");
    const [left, top, wide] = region.box;
    const size = Math.max(width, height) / 28;
    const x = Math.min(left + wide + size * 0.25, width - size);
    return [
      svg("polygon", { points, class: "outline back", "data-rank": region.rank }),
      svg("polygon", { points, class: "outline", "data-rank": region.rank }),
      svg("text", { x, y: Math.max(top + size * 0.4, size), "font-size": size, class: "rank" }, region.rank),
    ];
  });
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "outlines", "aria-hidden": "true" }, shapes);
}

/** Return the table of regions of a version. `highlight(rank or null)`: called when a row is pointed at. */
export function regionTable(regions, version, highlight) {
  const withMm = regions.some((region) => region.area_mm2 !== null);
  const head = ["Rank", "Area (px)", ...(withMm ? ["Area (mm²)"] : []), "Peak", "Position"];
  const rows = regions.map((region) => {
    const [left, top, width, height] = region.box;
    const cells = [region.rank, region.area.toLocaleString("en"), ...(withMm ? [number(region.area_mm2)] : []),
      number(region.peak), `${left}, ${top} · ${width} × ${height}`];
    return element("tr", { onpointerenter: () => highlight(region.rank), onpointerleave: () => highlight(null) },
      element("th", { scope: "row" }, cells[0]), cells.slice(1).map((cell) => element("td", {}, cell)));
  });
  return element("div", { class: "table-frame", tabindex: "0", role: "region", "aria-label": `Defect regions, version ${version}` },
    element("table", {},
      element("thead", {}, element("tr", {}, head.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, rows)));
}

/** Return the caption of a picture: its name. */
export const caption = (name) => element("figcaption", {}, nameElement(name));
