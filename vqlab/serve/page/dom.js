// Create elements. Text is always set as text, never parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";
const INVISIBLE = /[\p{C}\p{Zl}\p{Zp}]/gu;
const JOINERS = "\u200c\u200d";

/** Return the element with this id. */
export const byId = (id) => document.getElementById(id);

/** Return a new element. Attributes: `on…` are listeners, true and false switch an attribute. */
export function element(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

/** Return a new SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** Return a file name as text without control and bidirectional characters, in isolation. */
export function nameElement(name) {
  return element("bdi", { class: "name", title: visible(name) }, visible(name));
}

/** Replace invisible characters by escapes, as `vqlab.text.visible` does. */
export function visible(text) {
  return text.replace(INVISIBLE, (character) => {
    if (JOINERS.includes(character)) return character;
    const code = character.codePointAt(0);
    if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
    return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
  });
}

/** Say something to users of screen readers. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Show a problem at the top of the page; empty: hide it. */
export function showProblem(sentence) {
  const place = byId("problem");
  place.textContent = sentence;
  place.hidden = !sentence;
}

const VERDICTS = { pass: "✓", review: "?", reject: "✕", unreadable: "!" };

/** Return the badge of a verdict: symbol and word, so that colour is not needed. */
export function badge(verdict) {
  return element("span", { class: `badge ${verdict}` },
    element("span", { "aria-hidden": "true" }, `${VERDICTS[verdict] ?? "·"} `), verdict);
}

/** Return a number with three significant digits. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return Number(value.toPrecision(4)).toString();
}

/** Run `draw` once before the next frame, however often it is called. */
export function once(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  };
}
