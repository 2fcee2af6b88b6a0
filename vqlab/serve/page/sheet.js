// The contact sheet: a card per image, sorted and filtered.

import { badge, byId, element, nameElement, number, once } from "./dom.js";

const ORDER = {
  high: (a, b) => score(b, -Infinity) - score(a, -Infinity),
  low: (a, b) => score(a, Infinity) - score(b, Infinity),
  name: (a, b) => a.name.localeCompare(b.name),
};
const SYMBOLS = { good: "good", defect: "defect", unsure: "unsure" };

function score(item, missing) {
  return item.score ?? missing;
}

/** The cards of all images. */
export class Sheet {
  /** select(item): called when a card is chosen; verdicts(item): verdict of each version shown. */
  constructor(select, verdicts) {
    this.select = select;
    this.verdicts = verdicts;
    this.node = byId("sheet");
    this.items = [];
    this.visible = [];
    this.selected = null;
    this.draw = once(() => this.#draw());
    this.node.addEventListener("keydown", (event) => this.#key(event));
    for (const id of ["shown", "sort"]) byId(id).addEventListener("change", this.draw);
  }

  /** Select the image `by` places after the selected one. */
  step(by) {
    if (!this.visible.length) return;
    const place = this.visible.indexOf(this.selected);
    const next = place < 0 ? 0 : Math.min(Math.max(place + by, 0), this.visible.length - 1);
    this.choose(this.visible[next]);
  }

  choose(item) {
    this.selected = item;
    this.draw();
    this.select(item);
  }

  #key(event) {
    const columns = this.#columns();
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    this.step(steps[event.key]);
  }

  #columns() {
    const cards = [...this.node.children];
    const other = cards.findIndex((card) => card.offsetTop !== cards[0].offsetTop);
    return other < 1 ? Math.max(cards.length, 1) : other;
  }

  #draw() {
    const shown = byId("shown").value;
    this.visible = this.items.filter((item) => {
      const verdicts = this.verdicts(item);
      if (shown === "differ") return new Set(verdicts).size > 1;
      return shown === "all" || verdicts.includes(shown);
    }).sort(ORDER[byId("sort").value]);
    const cards = this.visible.map((item) => this.#card(item));
    const current = [...this.node.children];
    if (cards.length !== current.length || cards.some((card, index) => card !== current[index])) this.node.replaceChildren(...cards);
    const active = this.visible.includes(this.selected) ? `card-${this.selected.id}` : null;
    if (active) {
      this.node.setAttribute("aria-activedescendant", active);
      byId(active)?.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else this.node.removeAttribute("aria-activedescendant");
    this.#showCounts();
  }

  #card(item) {
    const verdicts = this.verdicts(item);
    const state = [verdicts.join(), item.thumb, item.person, item === this.selected, item.error].join("|");
    if (item.card && item.state === state) return item.card;
    const picture = item.thumb
      ? element("img", { src: item.thumb, alt: "", loading: "lazy" })
      : element("span", { class: "no-thumb", "aria-hidden": "true" }, "no preview");
    item.card ??= element("div", { class: "card", role: "option", id: `card-${item.id}`, onclick: () => this.choose(item) });
    item.card.setAttribute("aria-selected", String(item === this.selected));
    item.card.replaceChildren(picture,
      element("span", { class: "card-line" }, verdicts.map((verdict) => badge(verdict)),
        item.person ? element("span", { class: `mark ${item.person}` }, SYMBOLS[item.person]) : null),
      element("span", { class: "card-line small" }, nameElement(item.name), element("span", { class: "muted" }, number(item.score))));
    item.state = state;
    return item.card;
  }

  #showCounts() {
    const counts = {};
    for (const item of this.items) {
      const [verdict] = this.verdicts(item);
      counts[verdict] = (counts[verdict] ?? 0) + 1;
    }
    const parts = ["reject", "review", "pass", "unreadable", "waiting"].filter((verdict) => counts[verdict]).map((verdict) => `${counts[verdict]} ${verdict}`);
    byId("counts").textContent = `${this.items.length} ${this.items.length === 1 ? "image" : "images"}: ${parts.join(", ")}`;
  }
}
