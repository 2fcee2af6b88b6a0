// The operating panel: scores of good parts, known defects and this session's images on one axis,
// with the threshold as a slider.

import { element, number, once, svg } from "./dom.js";
import { Axis, escapes, meaning, moved, rejects } from "./operating.js";

const WIDTH = 1000;
const HEIGHT = 150;
const BINS = 40;
const STEPS = 2000;
let panels = 0;

/** Chart, slider and meaning of the threshold of one version. */
export class OperatingPanel {
  /** points: answer of /operating-points. onChange(thresholds): called when the slider moves. */
  constructor(points, onChange) {
    this.points = points;
    this.thresholds = points.thresholds;
    this.onChange = onChange;
    this.scores = [];
    this.selected = null;
    this.draw = once(() => this.#draw());
    panels += 1;
    this.#build(`threshold-${panels}`);
    this.#setAxis();
    this.#move(this.thresholds.image);
  }

  /** Show other images: [{score, verdict}], and the score of the selected one or null. */
  show(scores, selected) {
    this.scores = scores;
    this.selected = selected;
    this.#setAxis();
    this.#placeSlider();
    this.draw();
  }

  #build(id) {
    const { category, version, detector } = this.points;
    this.chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", class: "chart", "aria-hidden": "true" });
    this.ticks = element("div", { class: "ticks", "aria-hidden": "true" });
    this.slider = element("input", { type: "range", id, min: 0, max: STEPS, step: 1, class: "threshold",
      "aria-describedby": `${id}-meaning`,
      oninput: () => this.#move(this.axis.value(this.slider.value / STEPS)) });
    this.field = element("input", { type: "number", step: "any", id: `${id}-field`, class: "threshold-field",
      onchange: () => { if (this.field.value !== "" && Number.isFinite(this.field.valueAsNumber)) this.#move(this.field.valueAsNumber); } });
    this.reset = element("button", { onclick: () => this.#move(this.points.thresholds.image) }, "Reset");
    this.sentence = element("p", { class: "meaning", id: `${id}-meaning`, role: "status" });
    const source = this.points.normals
      ? `Bars: scores of ${this.points.normals.count} held-out good parts of this version. 95 % intervals (Clopper–Pearson).`
      : "This version was saved without scores of good parts.";
    this.node = element("section", { class: "panel operating", "aria-label": `Threshold of ${category} version ${version}` },
      element("div", { class: "panel-head" },
        element("h2", {}, element("bdi", {}, category), ` · version ${version}`, element("span", { class: "muted" }, ` ${detector}`)),
        element("div", { class: "threshold-tools" },
          element("label", { for: `${id}-field` }, "Threshold "), this.field, this.reset)),
      element("div", { class: "chart-frame" }, this.chart, this.ticks,
        element("label", { for: id, class: "visually-hidden" }, `Threshold of version ${version}`), this.slider),
      this.#legend(),
      this.sentence,
      element("p", { class: "muted small" }, `${source} Moving the slider judges the images below again, on this page only.`));
  }

  #legend() {
    const entry = (kind, text) => element("span", { class: "legend-entry" }, element("i", { class: `key ${kind}`, "aria-hidden": "true" }), text);
    return element("p", { class: "legend small" },
      entry("normals", "good parts"),
      this.points.defects ? entry("defects", "known defects") : null,
      entry("session", "your images"),
      entry("line", "threshold"),
      this.points.thresholds.review !== null ? entry("review-line", "review above") : null);
  }

  #setAxis() {
    const { normals, defects, thresholds } = this.points;
    const others = [...(defects?.scores ?? []), ...this.scores.map(({ score }) => score), thresholds.review ?? thresholds.image];
    this.axis = new Axis(normals?.scores ?? [], others, thresholds.image);
  }

  #move(image) {
    this.thresholds = moved(this.points.thresholds, image);
    const text = meaning(this.points, this.thresholds);
    this.sentence.textContent = text;
    this.#placeSlider();
    this.slider.setAttribute("aria-valuetext", `${number(image)}. ${text}`);
    this.field.value = Number(image.toPrecision(6));
    const changed = image !== this.points.thresholds.image;
    this.reset.disabled = !changed;
    this.node.classList.toggle("changed", changed);
    this.draw();
    this.onChange(this.thresholds);
  }

  #placeSlider() {
    this.slider.value = Math.round(STEPS * this.axis.place(this.thresholds.image));
  }

  /** Return counts at the current threshold, for tests and tools. */
  counts() {
    return {
      rejects: rejects(this.points, this.thresholds.image),
      escapes: escapes(this.points, this.thresholds),
    };
  }

  #draw() {
    const x = (score) => WIDTH * Math.min(Math.max(this.axis.place(score), 0), 1);
    const { normals, defects } = this.points;
    const parts = [];
    for (const bar of histogram(normals?.scores ?? [], this.axis)) {
      const height = 88 * bar.share;
      parts.push(svg("rect", { x: WIDTH * bar.from + 1, y: 110 - height, width: WIDTH * (bar.to - bar.from) - 2, height, class: "normals" }));
    }
    parts.push(svg("line", { x1: 0, x2: WIDTH, y1: 110, y2: 110, class: "base" }));
    for (const score of defects?.scores ?? []) {
      parts.push(svg("line", { x1: x(score), x2: x(score), y1: 6, y2: 20, class: "defects" }));
    }
    for (const { score, verdict } of this.scores) {
      parts.push(svg("line", { x1: x(score), x2: x(score), y1: 118, y2: 142, class: `session ${verdict}` }));
    }
    const { image, review } = this.thresholds;
    if (image !== this.points.thresholds.image) parts.push(this.#line(x(this.points.thresholds.image), "line stored"));
    if (review !== null) parts.push(this.#line(x(review), "line review-line"));
    parts.push(this.#line(x(image), "line"));
    if (this.selected !== null) {
      const place = x(this.selected);
      parts.push(svg("line", { x1: place, x2: place, y1: 24, y2: 150, class: "selected" }));
    }
    this.chart.replaceChildren(...parts);
    this.#drawTicks();
  }

  #line(place, kind) {
    return svg("line", { x1: place, x2: place, y1: 0, y2: HEIGHT, class: kind });
  }

  #drawTicks() {
    const ticks = [0.02, 0.26, 0.5, 0.74, 0.98].map((place) => {
      const tick = element("span", {}, number(Number(this.axis.value(place).toPrecision(3))));
      tick.style.left = `${100 * place}%`;
      return tick;
    });
    this.ticks.replaceChildren(...ticks);
  }
}

/** Return the bars of sorted scores on an axis: from and to in [0, 1], share of the highest bar. */
function histogram(scores, axis) {
  const counts = new Array(BINS).fill(0);
  for (const score of scores) counts[Math.min(Math.floor(axis.place(score) * BINS), BINS - 1)] += 1;
  const most = Math.max(...counts, 1);
  return counts.map((count, index) => ({ from: index / BINS, to: (index + 1) / BINS, share: count / most }))
    .filter(({ share }) => share > 0);
}
