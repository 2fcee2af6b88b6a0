// One image: picture with map and regions, numbers, and the person's verdict.

import { badge, byId, element, nameElement, number } from "./dom.js";
import { displayed, mapCanvas, outlines, pngUrl, regionTable } from "./picture.js";

const PERSON = [["good", "G"], ["defect", "D"], ["unsure", "U"]];

/** The panel of the selected image. */
export class Detail {
  /** actions: full(item, version, overlay), judge(item, verdict), step(by), verdict(answer, version). */
  constructor(actions) {
    this.actions = actions;
    this.opacity = 0.6;
    this.withRegions = true;
    this.node = byId("detail");
    this.urls = [];
    this.request = 0;
  }

  hide() {
    this.request += 1;
    this.item = null;
    this.node.hidden = true;
    this.#release();
  }

  /** Show an image as the versions judge it. */
  async show(item, versions) {
    const request = (this.request += 1);
    if (this.item !== item) this.node.replaceChildren(this.#heading(item), element("p", { class: "muted" }, "Loading …"));
    this.item = item;
    this.node.hidden = false;
    if (item.error) {
      this.node.replaceChildren(this.#heading(item), element("p", { class: "problem" }, item.error));
      return;
    }
    let views;
    try {
      const url = await displayed(item.file);
      const answers = await Promise.all(versions.map((version) => this.actions.full(item, version, url === null)));
      const maps = await Promise.all(answers.map(({ image, thresholds }) => mapCanvas(image, thresholds.pixel)));
      if (request !== this.request) {
        if (url) URL.revokeObjectURL(url);
        return;
      }
      this.#release();
      if (url) this.urls.push(url);
      views = answers.map((answer, index) => this.#view(answer, maps[index], url));
    } catch (error) {
      if (request === this.request) {
        this.node.replaceChildren(this.#heading(item), element("p", { class: "problem", role: "alert" }, error.message));
      }
      return;
    }
    this.node.replaceChildren(this.#heading(item), this.#person(item),
      this.#layers(), element("div", { class: `views views-${views.length}` }, views));
    this.#setOpacity();
  }

  /** Update verdicts after the threshold moved, without loading anything. */
  rejudge() {
    for (const place of this.node.querySelectorAll("[data-version]")) {
      const answer = this.item?.answers.get(Number(place.dataset.version));
      if (answer) place.replaceChildren(badge(this.actions.verdict(answer, Number(place.dataset.version))));
    }
  }

  /** Update the person's verdict. */
  showPerson() {
    if (this.item) this.node.querySelector(".person")?.replaceWith(this.#person(this.item));
  }

  #heading(item) {
    const step = (by, text, label) => element("button", { onclick: () => this.actions.step(by), "aria-label": label }, text);
    return element("div", { class: "panel-head" },
      element("h2", { id: "detail-title" }, nameElement(item.name)),
      element("div", { class: "stepping" }, step(-1, "‹", "Previous image"), step(1, "›", "Next image")));
  }

  #person(item) {
    const buttons = PERSON.map(([verdict, key]) => element("button", {
      "aria-pressed": String(item.person === verdict), "aria-keyshortcuts": key, class: `verdict-${verdict}`,
      disabled: item.saving === true, onclick: () => this.actions.judge(item, verdict),
    }, verdict, element("kbd", { "aria-hidden": "true" }, key)));
    return element("div", { class: "person", role: "group", "aria-label": "Your verdict" },
      element("span", { class: "person-label" }, "Your verdict:"), buttons,
      element("p", { class: "small", role: "status" }, item.became ?? ""));
  }

  #view(answer, map, url) {
    const { image, thresholds, version } = answer;
    const picture = element("img", { src: url ?? this.#overlayUrl(image), alt: `${image.name}, judged ${image.verdict}` });
    const shapes = outlines(image);
    const stack = element("div", { class: "stack" }, picture, url ? map : null, shapes);
    stack.style.aspectRatio = `${image.width} / ${image.height}`;
    const highlight = (rank) => {
      for (const shape of shapes.querySelectorAll(".outline")) shape.classList.toggle("lit", shape.dataset.rank === String(rank));
    };
    const numbers = [["score", number(image.score)], ["threshold", number(thresholds.image)],
      ["calibrated", number(image.calibrated)], ["p-value", number(image.p_value)]];
    return element("figure", { class: "view" }, stack,
      element("figcaption", {},
        element("div", { class: "judgement" },
          element("span", { "data-version": version }, badge(this.actions.verdict(image, version))),
          element("span", { class: "muted" }, `version ${version}`)),
        element("dl", { class: "numbers" }, numbers.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))),
        image.note ? element("p", { class: "small note" }, `Note: ${image.note}.`) : null,
        image.regions.length ? regionTable(image.regions, version, highlight) : element("p", { class: "muted small" },
          image.verdict === "pass" ? "No regions: the model passes this image at its stored threshold." : "No regions."),
        url ? null : element("p", { class: "muted small" }, "This browser cannot show the format of the file; the server drew it.")));
  }

  #overlayUrl(image) {
    const url = pngUrl(image.overlay);
    this.urls.push(url);
    return url;
  }

  #layers() {
    const slider = element("input", { type: "range", min: 0, max: 100, value: Math.round(100 * this.opacity), id: "opacity",
      oninput: () => { this.opacity = slider.value / 100; this.#setOpacity(); } });
    const box = element("input", { type: "checkbox", id: "with-regions", checked: this.withRegions,
      onchange: () => { this.withRegions = box.checked; this.#setOpacity(); } });
    return element("div", { class: "layers" },
      element("label", { for: "opacity" }, "Anomaly map ", slider, element("output", { class: "opacity-value" })),
      element("label", { for: "with-regions" }, box, " Regions"));
  }

  #setOpacity() {
    for (const map of this.node.querySelectorAll(".map")) map.style.opacity = this.opacity;
    for (const shapes of this.node.querySelectorAll(".outlines")) shapes.style.visibility = this.withRegions ? "visible" : "hidden";
    const value = this.node.querySelector(".opacity-value");
    if (value) value.textContent = `${Math.round(100 * this.opacity)} %`;
  }

  #release() {
    this.urls.splice(0).forEach((url) => URL.revokeObjectURL(url));
  }
}
